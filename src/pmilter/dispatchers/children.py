"""Forked children: does what the `Supervisor` decides. For dispatchers that serve in processes."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pmilter.dispatchers.pipes import line
from pmilter.dispatchers.scoreboard import Census, Scoreboard, State, together
from pmilter.dispatchers.signals import inherit_signals, release_signals, signals_held
from pmilter.dispatchers.supervisor import (
    SIGNALS,
    TICK,
    Began,
    Exit,
    Refused,
    Report,
    Rung,
    Say,
    Spawn,
    Tell,
)
from pmilter.errors import ConfigError
from pmilter.limits import check_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.pipes import ParentEnd, WorkerEnd
    from pmilter.dispatchers.scoreboard import Row
    from pmilter.dispatchers.serving import Serving
    from pmilter.dispatchers.supervisor import Action, Supervisor

logger: Final = logging.getLogger("pmilter")

_CHECK: Final = 0.02
"""Seconds between two looks for ended children that have no line, while stopping."""

_ENDING: Final = 2.0
"""Seconds that a process takes, over its own grace period, to end its children."""


class Children:
    """The children of one service. For one thread.

    Args:
        serving: The service; in a child it is that child's own.
        supervisor: Decides.
        most: Most children at a time, those that are ending included.
        work: What a child does that the supervisor wants; None where it wants none.
        watch_memory: Whether the supervisor wants to know of their memory.
        on_event: Told when a generation has begun, or was refused.
        on_done: Told of each child once, when it has done its work or has ended without.
    """

    def __init__(
        self,
        serving: Serving,
        supervisor: Supervisor,
        most: int,
        work: Callable[[], object] | None = None,
        *,
        watch_memory: bool = False,
        on_event: Callable[[Began | Refused], object] = lambda _: None,
        on_done: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._serving = serving
        self._supervisor = supervisor
        self._board = Scoreboard(most)
        self._work = work
        self._watch_memory = watch_memory
        self._on_event = on_event
        self._on_done = on_done
        self._done: set[int] = set()
        # Those that were started and not buried yet.
        self._rows: dict[int, Row] = {}
        self._lines: dict[int, ParentEnd] = {}
        self._past = Census()
        self._next_look = 0.0
        serving.census = self._census
        serving.parent.promise(serving.grace + _ENDING)

    def __len__(self) -> int:
        """Return how many there are, as of the last look."""
        return len(self._rows)

    # --- looking after them

    def run(self, on_ending: Callable[[], object]) -> None:
        """Keep as many as the supervisor wants; return when the service has ended and all of them are gone.

        Args:
            on_ending: Called once, when no more connections are to be accepted.
        """
        self.look()
        while not (self._serving.ending or self._supervisor.finished):
            self._wait()
            self.look()
        on_ending()
        self.finish()

    def finish(self) -> None:
        """Have all end as the service does; return when they are gone."""
        self.look()
        while not self._supervisor.finished:
            self._wait()
            self._serving.time_left()  # when the time to drain is over, the service stops
            self.look()

    def look(self) -> None:
        """Bury those that have ended, look after the others, start what is missing."""
        self._next_look = time.monotonic() + TICK
        self.note_done()
        exits = self._reap()
        reports = {pid: self._report(pid, row) for pid, row in self._rows.items()}
        order = _order(self._serving)
        now = time.monotonic()
        self._perform(self._supervisor.step(now, exits=exits, reports=reports, order=order))
        self._serving.publish()

    def look_sometimes(self) -> None:
        """Bury those that have ended, for few system calls; look after the others if that was not done for a while."""
        if time.monotonic() >= self._next_look:
            self.look()
        elif exits := self._reap_ended():
            self._perform(self._supervisor.bury(time.monotonic(), exits))

    def note_done(self) -> None:
        """Tell of those that have done their work, though they are still there."""
        for pid, row in self._rows.items():
            if pid not in self._done and _is_done(row, has_line=pid in self._lines):
                self._note_done(pid)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Spawn(generation) if self._work is not None:
                    self.start(self._work, generation=generation, with_line=True)
                case Tell(pid, rung):
                    self._tell(pid, rung)
                case Say(level, text):
                    logger.log(level, "%s", text)
                case Began() | Refused():
                    self._on_event(action)

    def _tell(self, pid: int, rung: Rung) -> None:
        if rung is not Rung.DRAIN:
            with contextlib.suppress(ProcessLookupError):  # see _exit_code
                os.kill(pid, SIGNALS[rung])
        elif pid in self._lines:
            self._lines[pid].order_drain()

    def _wait(self) -> None:
        """Wait until something happens, or it is time for a look."""
        lines = {line.fileno(): line for line in self._lines.values()}
        seconds = self._supervisor.pause(time.monotonic())
        if len(lines) < len(self._rows):
            seconds = min(seconds, _CHECK)
        for fd in self._serving.wait(seconds, lines):
            lines[fd].read()

    # --- births

    def start(
        self, work: Callable[[], object], *, generation: int = 1, with_line: bool = False
    ) -> int | None:
        """Have a new child do some work and end; return its number, or None, and say why, where none could be started.

        Args:
            work: What it does.
            generation: The generation that it belongs to.
            with_line: Give it a line, so that parent and child see at once when the other ends.
        """
        now = time.monotonic()
        row = self._board.take()
        if row is None:
            logger.error("cannot start a child: too many are still ending")
            self._supervisor.not_spawned(now)
            return None
        ends: tuple[ParentEnd | None, WorkerEnd | None] = (None, None)
        try:
            if with_line:
                ends = line()
            pid = self._fork(work, row, *ends)
        except OSError as error:  # the system's state
            logger.error("cannot fork: %s", error)
            self._supervisor.not_spawned(now)
            self._board.give_back(row)
            _close(*ends)
            return None
        _close(ends[1])
        self._rows[pid] = row
        if ends[0] is not None:
            self._lines[pid] = ends[0]
        self._supervisor.spawned(pid, now, generation)
        return pid

    def _fork(
        self,
        work: Callable[[], object],
        row: Row,
        ours: ParentEnd | None,
        theirs: WorkerEnd | None,
    ) -> int:
        _flush()
        with signals_held() as mask:
            pid = os.fork()
            if pid == 0:
                # A parent's end that is open here would hide the parent's death.
                _close(ours, *self._lines.values())
                self._be_child(work, row, theirs, mask)
        return pid

    def _be_child(
        self, work: Callable[[], object], row: Row, line: WorkerEnd | None, mask: set[int]
    ) -> NoReturn:
        """Be the child. Nothing of the parent's (finally blocks, exit handlers) must run here."""
        status = 1
        try:
            self._serving.begin_child(row, line)
            inherit_signals(self._serving)
            release_signals(mask)
            work()
            row.state = State.DONE
            status = 0
        except BaseException:
            logger.exception("a child failed")
        finally:
            end_process(status)

    # --- deaths

    def _reap(self) -> dict[int, Exit]:
        """Bury the children that have ended; only ours, whoever else forks in this process."""
        exits = {}
        for pid in tuple(self._rows):
            line = self._lines.get(pid)
            code = _exit_code(pid, gone=line is not None and line.ended)
            if code is not None:
                exits[pid] = self._bury(pid, code)
        return exits

    def _reap_ended(self) -> dict[int, Exit]:
        """Bury the children that have ended, without asking for each of those that live where the system tells which have."""
        exits = {}
        while (pid := _one_ended()) in self._rows:
            exits[pid] = self._bury(pid, _exit_code(pid, gone=False) or 0)
        return (
            exits | self._reap() if pid else exits
        )  # a zombie of somebody else's hides those behind it

    def _bury(self, pid: int, code: int) -> Exit:
        row = self._rows.pop(pid)
        text = ""
        if line := self._lines.pop(pid, None):
            line.read()
            text = line.text
            line.close()
        self._past = together(self._past, row.census().past())
        report = _report(row)
        self._board.give_back(row)
        self._note_done(pid)
        self._done.discard(pid)
        return Exit(code, report, text)

    def _note_done(self, pid: int) -> None:
        if pid not in self._done:
            self._done.add(pid)
            self._on_done(pid)

    # --- numbers

    def _report(self, pid: int, row: Row) -> Report:
        report = _report(row)
        return report._replace(memory=_resident(pid)) if self._watch_memory else report

    def _census(self) -> Census:
        rows = [row.census() for row in self._rows.values()]
        return together(
            self._past, self._serving.connections.census(), Census(children=len(rows)), *rows
        )


def end_process(status: int) -> NoReturn:
    """End a forked child with what it has logged and printed, and without what its parent would do at exit."""
    try:
        logging.shutdown()
        _flush()
    finally:
        os._exit(status)


def check_memory_limit(limit: int | None) -> None:
    """Raise where a memory limit is none, or cannot be kept.

    Raises:
        ConfigError, TypeError: As said.
    """
    if limit is None:
        return
    check_whole("max_memory", limit, 1)
    if not _resident(os.getpid()):
        raise ConfigError("max_memory needs /proc, which this system has not: leave it out")


def _order(serving: Serving) -> Rung:
    if serving.urgent:
        return Rung.QUIT
    if serving.stopping:
        return Rung.TERM
    return Rung.DRAIN if serving.draining else Rung.SERVE


def _report(row: Row) -> Report:
    return Report(State(int(row.state)), row.requests > 0, row.due, grace=row.grace)


def _is_done(row: Row, *, has_line: bool) -> bool:
    """Return whether a child has done its work; one without a line has when its connection has ended."""
    return row.state == State.DONE or (
        not has_line and row.state == State.READY and not row.connections
    )


def _one_ended() -> int:
    """Return a child that has ended, whoever has forked it; 0 where there is none, below 0 where that cannot be told."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (
        AttributeError,
        ChildProcessError,
    ):  # macOS has it not; or the kernel reaps, or none is left
        return -1
    return 0 if ended is None else ended.si_pid


def _exit_code(pid: int, *, gone: bool) -> int | None:
    """Return how a child has ended, or None while it lives.

    Args:
        pid: The child.
        gone: Its line is closed: it is ending this moment, or has closed what it must not.
    """
    try:
        if gone:
            os.kill(pid, signal.SIGKILL)  # does nothing to one that is ending
        ended, status = os.waitpid(pid, 0 if gone else os.WNOHANG)
    except (
        ChildProcessError,
        ProcessLookupError,
    ):  # the embedding program ignores SIGCHLD, so the kernel has reaped it
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None


def _resident(pid: int) -> int:
    """Return the resident bytes of a process, or 0 where that cannot be told."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_bytes().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _close(*ends: ParentEnd | WorkerEnd | None) -> None:
    for end in ends:
        if end is not None:
            end.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or nobody reads it
            stream.flush()
