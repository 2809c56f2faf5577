"""One thread that plays the MTA on many connections at once, and measures."""

from __future__ import annotations

import time
from select import EPOLLIN
from typing import TYPE_CHECKING, Final

from pmilter.client.load.crowd import Crowd
from pmilter.client.load.figures import Figures
from pmilter.client.load.schedule import Schedule
from pmilter.client.load.script import CONTINUE, Turn
from pmilter.errors import MilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmilter.client.load.connection import Connection
    from pmilter.client.load.plan import Plan
    from pmilter.client.load.script import Ending

_SECOND: Final = 1_000_000_000

_LITTLE: Final = 512
"""Bytes to take where an answer of 5 is expected: Python has such objects at hand,"""

_MUCH: Final = 65536
"""and where changes may come."""

_LOOK: Final = 0.05
"""Seconds between two looks for what has run out."""

_KNOCK: Final = 0.001
"""Seconds between two attempts where the filter's backlog is full."""

_NEVER: Final = 1 << 63


class Load:
    """A load on one filter. Run it once.

    Args:
        plan: What to do.
        watch: Called with the figures so far, about 20 times a second, in the thread that runs the load.

    Attributes:
        figures: What was measured so far.

    Raises:
        ConfigError: The address is none to connect to.
        OSError: Its host or service is not known.
    """

    def __init__(self, plan: Plan, watch: Callable[[Figures], None] | None = None) -> None:
        self.figures = Figures()
        self._plan = plan
        self._watch = watch
        self._crowd = Crowd(plan, self.figures)
        self._stopped = False
        self._cpu = 0
        self._latest = self._since = self._end = self._last_moment = _NEVER

    def stop(self) -> None:
        """End at once, with the figures so far; any thread may call it, and a signal handler."""
        self._stopped = True

    def run(self) -> Figures:
        """Do all of it, and return what was measured: nothing, in no time, where it was ended while warming up.

        What goes wrong is in the figures, and ends the load only if it goes on.
        """
        now = time.perf_counter_ns()
        self._schedule = self._make_schedule(now, total=None)
        self._warm = now + round(self._plan.warm_up * _SECOND)
        if not self._plan.warm_up:
            self._measure(now)
        self._next_look = now
        try:
            while not (self._cut_short or self._done):
                self._round()
        finally:
            self._finish(time.perf_counter_ns())
        return self.figures

    # --- the course of it

    @property
    def _cut_short(self) -> bool:
        return self._stopped or self._crowd.hopeless

    @property
    def _done(self) -> bool:
        return self._since != _NEVER and self._schedule.ended and not self._crowd

    def _round(self) -> None:
        now = time.perf_counter_ns()
        self._dispatch(now)
        self._serve(self._crowd.poller.wait(self._pause(now)))
        now = time.perf_counter_ns()
        if now >= self._next_look:
            self._next_look = now + round(_LOOK * _SECOND)
            self._look(now)

    def _pause(self, now: int) -> float:
        """Return the seconds after which something is to be done even if no filter says anything."""
        crowd = self._crowd
        pause = _KNOCK if crowd.knocking else _LOOK
        wait = self._schedule.wait(now) if crowd.resting or crowd.room else None
        return pause if wait is None else min(pause, wait)

    def _dispatch(self, now: int) -> None:
        """Begin what should begin and can."""
        crowd = self._crowd
        crowd.knock()
        while (crowd.resting or crowd.room) and not crowd.hopeless:
            due = self._schedule.take(now)
            if due is None:
                break
            if crowd.resting:
                self._begin(crowd.resting.pop(), due, now)
            else:
                crowd.open(due, now)
        if self._schedule.ended:
            crowd.dismiss()

    def _look(self, now: int) -> None:
        """See what has run out."""
        if self._since == _NEVER and now >= self._warm:
            self._measure(now)
        if now >= self._end and not self._schedule.ended:
            self._wind_up(now)
        patience = 0 if now >= self._last_moment else round(self._plan.timeout * _SECOND)
        self._crowd.give_up_silent(now - patience)
        if self._watch is not None:
            self._watch(self.figures)

    def _measure(self, now: int) -> None:
        """Begin the measurement."""
        self.figures.clear()
        self._schedule = self._make_schedule(now, self._plan.total)
        self._cpu = time.process_time_ns()
        self._since = self._latest = now
        for connection in self._crowd:
            connection.due = (
                None  # it was given a message of the warm-up, and asks for one of these
            )
        if self._plan.seconds is not None:
            self._end = now + round(self._plan.seconds * _SECOND)

    def _make_schedule(self, now: int, total: int | None) -> Schedule:
        return Schedule(now + round(self._plan.phase * _SECOND), self._plan.rate, total)

    def _wind_up(self, now: int) -> None:
        """Let the messages that have begun come to their end, and nothing else."""
        self.figures.overdue = self._schedule.overdue(now)
        self._schedule.end()
        self._latest = max(self._latest, self._end)
        self._last_moment = now + round(self._plan.timeout * _SECOND)
        self._crowd.break_off_greetings()

    def _finish(self, now: int) -> None:
        """Close all, and take the last figures."""
        self._crowd.break_off_greetings()
        self._crowd.close_all()
        if self._since == _NEVER:
            self.figures.clear()  # they are the warm-up's
            return
        self.figures.cpu = time.process_time_ns() - self._cpu
        self.figures.elapsed = (now if self._cut_short else self._latest) - self._since
        if self._cut_short:
            self.figures.overdue = self._schedule.overdue(now)

    # --- what the filter says

    def _serve(self, events: Iterable[tuple[int, int]]) -> None:
        """Heed what is ready. Most of the time of a load is spent here, so the usual case is written out."""
        clock = time.perf_counter_ns
        crowd = self._crowd
        find, send = crowd.find, crowd.send
        latency = self.figures.latency
        received = 0
        for fd, event in events:
            connection = find(fd)
            if connection is None:
                continue
            if connection.connecting or (connection.unsent is not None and not event & EPOLLIN):
                crowd.go_on(connection)
                continue
            turn, following = connection.turn, connection.fast
            try:
                data = connection.recv(_LITTLE if following else _MUCH)
            except BlockingIOError:
                continue
            except OSError as error:
                crowd.fail(connection, error)
                continue
            now = clock()
            received += len(data)
            if turn is None or following is None or data != CONTINUE:
                self._heed(connection, data, now)
                continue
            latency[turn.stage].record(now - connection.asked)
            connection.turn = following
            connection.fast = following.next
            connection.asked = connection.heard = now
            send(connection, following.data)
        self.figures.received += received

    def _heed(self, connection: Connection, data: bytes, now: int) -> None:
        """Heed an answer that is not the usual one, or a part of one."""
        try:
            following = connection.answered(data, now)
        except MilterError as error:
            self._crowd.fail(connection, error)
            return
        if isinstance(following, Turn):
            self._ask(connection, following.data, now)
        elif following is not None:
            self._end_scene(connection, following, now)

    def _ask(self, connection: Connection, data: bytes, now: int) -> None:
        connection.asked = connection.heard = now
        self._crowd.send(connection, data)

    def _begin(self, connection: Connection, due: int, now: int, before: bytes = b"") -> None:
        """Begin a message, and send what is left of the one before with it."""
        at = now if self._plan.rate is None else due
        self._ask(connection, before + connection.begin(at).data, now)

    def _end_scene(self, connection: Connection, ending: Ending, now: int) -> None:
        self.figures.sent += ending.size
        self.figures.commands += ending.commands
        due, connection.due = connection.due, None
        if connection.begun is not None or ending.over:
            self._note_message(connection, ending, now, due)
        connection.begun = None
        if ending.over:
            self._crowd.leave(connection, ending.data)
            return
        if due is None and connection.left:
            due = self._schedule.take(now)
        if due is not None:
            self._begin(connection, due, now, ending.data)
        elif connection.left and not self._schedule.ended:
            self._crowd.resting.append(connection)
            if ending.data:
                self._crowd.send(connection, ending.data)
        else:
            self._crowd.leave(connection, ending.data + ending.parting)

    def _note_message(
        self, connection: Connection, ending: Ending, now: int, due: int | None
    ) -> None:
        """Count a message that has got its verdict, be it that of the connection."""
        self._crowd.failures_in_a_row = 0
        begun = connection.begun
        began = begun if begun is not None else due
        if began is None or began < self._since:
            return
        self._latest = max(self._latest, now)
        self.figures.note_outcome(ending.stage, ending.status)
        if begun is not None:
            self.figures.message.record(now - begun)
