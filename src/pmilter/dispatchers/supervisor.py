"""Decides what a parent does with its children. Values in, values out: no clock, no process, no signal handler.

A child goes down a ladder, the `Rung`: each step asks it more strongly to end, and has a time after which the next one follows.
What was asked of the whole service, and what is wrong with one child, are steps on the same ladder.
"""

from __future__ import annotations

import logging
import signal
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.dispatchers.scoreboard import State

if TYPE_CHECKING:
    from collections.abc import Mapping

_EVER: Final = float("inf")

TICK: Final = 0.5
"""Seconds between two looks, at most."""

PROVEN: Final = 1.0
"""Seconds that a child must have been ready to count as a good one. One that has taken a connection is good too, whatever came of that:
where connections kill children there are no more forks than connections, and the MTA had better see that at once."""

FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0

_GRACE_MARGIN: Final = 1.0
"""Seconds for a child to end after its own grace period."""

_FAR_TOO_MUCH: Final = 2
"""Multiple of the memory limit over which a child is not asked to end but ended."""


class Rung(IntEnum):
    """What a child, or a whole service, is to do."""

    SERVE = 0
    DRAIN = 1
    """Accept no more connections, and end when those that are open have ended by themselves."""
    TERM = 2
    """Also begin no new message."""
    QUIT = 3
    """Cut all connections off."""
    KILL = 4


SIGNALS: Final = {
    Rung.TERM: signal.SIGTERM,
    Rung.QUIT: signal.SIGQUIT,
    Rung.KILL: signal.SIGKILL,
}


class Report(NamedTuple):
    """What is seen of a child."""

    state: State = State.STARTING
    used: bool = False
    """Whether it has taken a connection."""
    due: float = 0.0
    """Time by which it must have shown life, or 0."""
    memory: int = 0
    """Resident bytes, or 0 where nobody wants to know."""
    grace: float = 0.0
    """Seconds that it takes, at most, to end after TERM."""


class Exit(NamedTuple):
    """How a child has ended."""

    code: int
    """Its exit status, or minus the signal's number."""
    report: Report
    text: str = ""
    """What it told its parent before."""


class Spawn(NamedTuple):
    """Start a child."""

    generation: int


class Tell(NamedTuple):
    """Have a child step down the ladder."""

    child: int
    rung: Rung


class Say(NamedTuple):
    """Log a line."""

    level: int
    text: str


class Began(NamedTuple):
    """All children of a generation serve now."""

    generation: int


class Refused(NamedTuple):
    """A new generation has failed before it served; the one before goes on."""

    generation: int
    reason: str


Action = Spawn | Tell | Say | Began | Refused


class Backoff:
    """How long to wait after failures: longer and longer, until something succeeds.

    Attributes:
        failures: Rounds that have failed; those within the wait for the round before do not count.
        until: Time before which not to try again.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0.0

    def fail(self, now: float) -> None:
        """Note a failure."""
        if now >= self.until:
            self.until = now + min(LONGEST_DELAY, FIRST_DELAY * 2.0**self.failures)
            self.failures += 1

    def succeed(self) -> None:
        """Note a success."""
        self.failures = 0
        self.until = 0.0


class _Child:
    """What the supervisor remembers of a child."""

    def __init__(self, generation: int, now: float) -> None:
        self.generation = generation
        self.started = now
        self.ready_at = _EVER
        self.proven = False
        self.report = Report()
        self.rung = Rung.SERVE
        self.until = _EVER
        """When the next rung is due."""
        self.fault = ""
        """Why it was made to end, where that is its own fault."""

    def last_words(self, gone: Exit) -> str:
        """Return why it has ended before it served."""
        return gone.text or self.fault or f"it ended with {describe(gone.code)} before it served"

    @property
    def serves(self) -> bool:
        """Whether it accepts connections, or soon will."""
        return self.rung is Rung.SERVE and self.report.state <= State.READY


class Supervisor:
    """Keeps a number of children alive, and ends those that must end.

    Call `step` whenever something has happened, and after `pause` seconds at the latest; do what it returns; tell what came of a
    `Spawn` with `spawned` or `not_spawned`. Children are known by a number, as their process id.

    Args:
        size: Children to keep; 0 where they are started by somebody else.
        start_time: Seconds in which a child must be ready to serve, or None.
        drain_time: Seconds after which a child that accepts no more connections is asked to end them.
        quit_time: Seconds that a child has to end after QUIT.
        max_memory: Resident bytes over which a child is replaced, or None.
        must_start: Give up where the first child fails before it serves.

    Attributes:
        generation: Of the children that are wanted.
        failure: Why it was given up, or None.
    """

    def __init__(
        self,
        size: int,
        *,
        start_time: float | None = None,
        drain_time: float = 600.0,
        quit_time: float = 0.5,
        max_memory: int | None = None,
        must_start: bool = False,
    ) -> None:
        self._size = size
        self._start_time = start_time
        self._times = {Rung.DRAIN: drain_time, Rung.QUIT: quit_time, Rung.KILL: _EVER}
        self._max_memory = max_memory
        self._must_start = must_start
        self._children: dict[int, _Child] = {}
        self._order = Rung.SERVE
        self._backoff = Backoff()
        self._serving = 0
        self._latest = 1
        self.generation = 1
        self.failure: str | None = None

    @property
    def finished(self) -> bool:
        """True once the service has ended and no child is left."""
        return self._order > Rung.SERVE and not self._children

    def spawned(self, child: int, now: float, generation: int = 1) -> None:
        """Note that a child was started."""
        self._children[child] = _Child(generation, now)

    def not_spawned(self, now: float) -> None:
        """Note that a child could not be started."""
        self._backoff.fail(now)

    def reload(self) -> None:
        """Want a new generation; the one that serves goes on until all of the new one serve."""
        self._latest += 1
        self.generation = self._latest
        self._backoff.succeed()

    def step(
        self,
        now: float,
        *,
        exits: Mapping[int, Exit] | None = None,
        reports: Mapping[int, Report] | None = None,
        order: Rung = Rung.SERVE,
    ) -> list[Action]:
        """Return what to do.

        Args:
            now: The time, in seconds.
            exits: Children that have ended since the last call.
            reports: What is seen of those that live.
            order: What was asked of the whole service; it never becomes weaker.
        """
        self._order = max(self._order, order)
        actions = self.bury(now, exits or {})
        for number, report in (reports or {}).items():
            self._note(self._children[number], report, now)
        actions += self._succeed()
        for number, child in self._children.items():
            actions += self._push(number, child, now)
        return actions + self._fill(now)

    def bury(self, now: float, exits: Mapping[int, Exit]) -> list[Action]:
        """Return what to do about children that have ended, and nothing else: for who calls `step` soon."""
        actions: list[Action] = []
        for number, gone in exits.items():
            actions += self._bury(number, self._children.pop(number), gone, now)
        return actions

    def pause(self, now: float) -> float:
        """Return the seconds after which to call `step` again though nothing has happened."""
        times = [now + TICK]
        for child in self._children.values():
            times.append(child.until)
            if child.report.due and child.rung < Rung.KILL:
                times.append(child.report.due)
            if not child.proven and self._backoff.failures:
                times.append(child.ready_at + PROVEN)
        if self._backoff.until > now:
            times.append(self._backoff.until)
        return max(0.0, min(times) - now)

    # --- births and deaths

    def _note(self, child: _Child, report: Report, now: float) -> None:
        """Take a report; a child that proves good ends the waiting for others."""
        child.report = report
        if report.state >= State.READY:
            child.ready_at = min(child.ready_at, now)
        if not child.proven and (report.used or now >= child.ready_at + PROVEN):
            child.proven = True
            self._backoff.succeed()

    def _bury(self, number: int, child: _Child, gone: Exit, now: float) -> list[Action]:
        self._note(child, gone.report, now)
        began = child.ready_at < _EVER
        if child.generation != self.generation or self._order > Rung.SERVE:
            return self._mourn(number, child, gone)
        if not began and self._goes_on_without(child):
            refused, self.generation = self.generation, self._serving
            return [Refused(refused, child.last_words(gone))]
        if not began and self._must_start and not self._serving:
            self._order = Rung.TERM
            self.failure = child.last_words(gone)
            return []
        if not child.proven:
            self._backoff.fail(now)
        return self._mourn(number, child, gone)

    def _goes_on_without(self, child: _Child) -> bool:
        """Return whether an older generation serves, which can go on instead of a child's."""
        older = (c for c in self._children.values() if c.generation == self._serving)
        return child.generation > self._serving and any(c.serves for c in older)

    def _mourn(self, number: int, child: _Child, gone: Exit) -> list[Action]:
        """Say what was not to be expected."""
        if gone.report.state is State.DONE or (child.rung > Rung.SERVE and gone.code <= 0):
            return []
        wait = ""
        if self._size and self._backoff.failures and self._order is Rung.SERVE:
            wait = f"; {self._backoff.failures} in a row, waiting before the next one"
        text = f": {gone.text}" if gone.text else ""
        return [Say(logging.ERROR, f"child {number} ended with {describe(gone.code)}{text}{wait}")]

    def _fill(self, now: float) -> list[Action]:
        """Start what is missing; after failures one child at a time, until one proves good."""
        if self._order > Rung.SERVE:
            return []
        current = [c for c in self._children.values() if c.generation == self.generation]
        serving = [child for child in current if child.serves]
        missing = self._size - len(serving)
        if missing > 0 and self._backoff.failures:
            if now < self._backoff.until or not all(child.proven for child in serving):
                return []
            missing = 1
        return [Spawn(self.generation)] * max(0, missing)

    def _succeed(self) -> list[Action]:
        """Have the generation that is wanted take over, once all its children are ready."""
        if self._serving == self.generation or not self._size:
            return []
        ready = [
            child
            for child in self._children.values()
            if child.generation == self.generation and child.report.state is State.READY
        ]
        if len(ready) < self._size:
            return []
        self._serving = self.generation
        return [Began(self.generation)]

    # --- the ladder

    def _push(self, number: int, child: _Child, now: float) -> list[Action]:
        """Have a child go down the ladder as far as it must."""
        actions: list[Action] = []
        wanted, reason = self._wanted(child, now)
        own = bool(reason)
        if now >= child.until:
            wanted, reason = max(wanted, Rung(child.rung + 1)), "did not end in time"
        if wanted <= child.rung:
            return []
        if reason:
            child.fault = reason
            # That old connections last is nobody's fault, and costs nobody's mail.
            level = logging.INFO if wanted is Rung.TERM and not own else logging.ERROR
            actions.append(Say(level, f"child {number} {reason}: {_STEPS[wanted]}"))
        child.rung = wanted
        grace = child.report.grace + _GRACE_MARGIN
        child.until = now + self._times.get(wanted, grace)
        return [*actions, Tell(number, wanted)]

    def _wanted(self, child: _Child, now: float) -> tuple[Rung, str]:
        """Return how far down a child belongs, and why where that is its own fault."""
        wanted, reason = self._order, ""
        if child.generation != self.generation:
            wanted = max(wanted, self._superseded(child))
        for rung, fault in (
            self._fault_of_memory(child),
            self._fault_of_time(child, now),
        ):
            if rung > max(wanted, child.rung):
                wanted, reason = rung, fault
        return wanted, reason

    def _superseded(self, child: _Child) -> Rung:
        if child.report.state is State.STARTING:
            return Rung.KILL
        if child.generation > self.generation:
            return Rung.TERM
        return Rung.DRAIN if child.generation < self._serving else Rung.SERVE

    def _fault_of_memory(self, child: _Child) -> tuple[Rung, str]:
        limit, memory = self._max_memory, child.report.memory
        if limit is None or memory <= limit:
            return Rung.SERVE, ""
        rung = Rung.KILL if memory > _FAR_TOO_MUCH * limit else Rung.TERM
        return rung, f"has {memory} bytes of memory, the limit is {limit}"

    def _fault_of_time(self, child: _Child, now: float) -> tuple[Rung, str]:
        if child.report.due and now >= child.report.due:
            return Rung.KILL, "is stuck in a callback that has run out of time"
        starting = child.report.state is State.STARTING
        if starting and self._start_time is not None and now >= child.started + self._start_time:
            return Rung.KILL, f"was not ready within {self._start_time:g} seconds"
        return Rung.SERVE, ""


_STEPS: Final = {
    Rung.DRAIN: "it accepts no more",
    Rung.TERM: "asking it to end",
    Rung.QUIT: "cutting its connections off",
    Rung.KILL: "killing it",
}


def describe(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"status {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
