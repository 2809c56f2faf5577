"""One run of `Milter.main`, from the first connection to the last. Dispatchers are given its listener and its handler."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.accepting import Listener, Stopped
from pmilter.dispatchers.connections import Connections
from pmilter.dispatchers.handling import Handler
from pmilter.dispatchers.notify import Notifier
from pmilter.dispatchers.parent import NO_PARENT, NoParent, Parent
from pmilter.dispatchers.pipes import Pipe, await_readable
from pmilter.dispatchers.registry import choose_dispatcher
from pmilter.dispatchers.scoreboard import Census, State
from pmilter.dispatchers.signals import Errands, signals_to
from pmilter.errors import ConfigError
from pmilter.program import Program
from pmilter.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmilter.dispatchers.admission import Gate
    from pmilter.dispatchers.listening import ListeningSocket
    from pmilter.dispatchers.pipes import WorkerEnd
    from pmilter.dispatchers.scoreboard import Row
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_LONGEST_WAIT: Final = 0.5
"""Seconds. A signal that comes at the very moment when a wait begins does not end it, and Python handles it only afterwards."""

_EVER: Final = float("inf")


class Serving(Service):
    """The life of one service: how it learns that it is to end, and how it ends.

    Attributes:
        draining: True once no more connections are to be accepted; those that are open go on as ever.
        stopping: True once no new message is to be begun either.
        urgent: True once open connections are not to be waited for either.
        grace: Seconds that open messages get after `stop`.
        drain_time: Seconds that open connections get after `drain_here`.
        connections: Those of this process.
        gate: Decides who may connect, or None where all may.
        parent: The process that supervises this one, or `NO_PARENT`.
        notifier: Speaks to the service manager.
        errands: What signals have asked for.
        linger: Seconds that open connections get to end by themselves after a first signal, new messages included; None to begin
            no new message from then on.
        census: Returns the numbers for the status line; a dispatcher with children sets it.
        signals_of: The process whose signals go to this service, or 0.
    """

    def __init__(
        self, grace: float, drain_time: float = 600.0, linger: float | None = None
    ) -> None:
        super().__init__()
        self.draining = False
        self.urgent = False
        self.grace = grace
        self.drain_time = drain_time
        self.linger = linger
        self.connections = Connections(self._changed)
        self.gate: Gate | None = None
        self.parent: NoParent = NO_PARENT
        self.notifier = Notifier()
        self.errands = Errands(self)
        self.census: Callable[[], Census] = self._count
        self.signals_of = 0
        self._told_ready = False
        self._drained_by = self._stopped_by = _EVER
        stop = Pipe()
        stop.open()  # who stops the service from within a child writes there
        self._stop: Pipe | WorkerEnd = stop
        self._tick = Pipe()

    def begin_child(self, row: Row, line: WorkerEnd | None) -> None:
        """Make this copy, in a forked child, the child's own.

        `stop` from now on tells the topmost service, which tells all below it.

        Args:
            row: Where the child tells its parent how it is.
            line: Its line to the parent; when that ends, the child stops too.
        """
        self._descend(Parent(self.parent.stop or self._stop, row, line))

    def take_place_of(self, other: Serving) -> None:
        """Become, within a child, what another service was for its parent."""
        self.drain_time = other.drain_time
        if isinstance(other.parent, Parent):
            self._descend(other.parent)

    def _descend(self, parent: Parent) -> None:
        for pipe in (self._stop, self._tick):
            if pipe is not parent.stop:
                pipe.close()  # they are the parent's; a line held here would hide that its other end is gone
        self.errands.close()
        self.parent = parent
        self._told_ready = False
        self.parent.promise(self.grace)
        self.notifier = Notifier()
        self.connections = Connections(self._changed)
        self.errands = Errands(self)
        self.census = self._count
        self._stop = parent.line or Pipe()
        self._tick = Pipe()

    def note_ready(self) -> None:
        """Tell the parent, the first time, that this process serves; dispatchers need not call it who use `Listener`."""
        if not self._told_ready and not self.ending:
            self._told_ready = True
            self.parent.report(State.READY)

    # --- stopping

    @property
    def ending(self) -> bool:
        """True once no more connections are to be accepted."""
        return self.draining or self.stopping

    def stop(self) -> None:
        """Begin to stop. From any thread, signal handler, or child process."""
        if self.parent.stop is not None:
            self.parent.stop.write()
        else:
            self.stop_here()

    def drain_here(self) -> None:
        """Accept no more connections in this process; it ends when those that are open have ended."""
        self.draining = True
        self._drained_by = time.monotonic() + self.drain_time
        self.parent.report(State.RETIRING)
        self._stop.write()

    def stop_here(self) -> None:
        """Begin to stop in this process."""
        if not self.stopping:
            self.stopping = True
            self._stopped_by = time.monotonic() + self.grace
            self.notifier.stopping()
        self._stop.write()
        self._tick.write()

    def end_here(self) -> None:
        """Begin to end in this process, as a first TERM asks for.

        Where another process will accept from the socket, nobody need be turned away: sessions that were accepted may still begin
        a message, for `linger` seconds.
        """
        if self.linger is None:
            self.stop_here()
        else:
            self.notifier.stopping()
            self.drain_time = self.linger
            self.drain_here()

    def hurry(self) -> None:
        """Stop in this process without waiting for anything."""
        self.urgent = True
        self.stop_here()
        self.connections.end()

    # --- waiting

    def wait(self, seconds: float, others: Iterable[int] = ()) -> set[int]:
        """Wait until something happens to the service, and see to it, or until others are readable; return those of them.

        Args:
            seconds: After which to return at the latest.
            others: Descriptors.
        """
        own = self.watched_fds()
        seconds = min(seconds, _LONGEST_WAIT, self.notifier.sign_of_life())
        ready = await_readable({*own, *others}, seconds)
        for fd in ready.intersection(own):
            self.heed(fd)
        return ready.difference(own)

    def watched_fds(self) -> tuple[int, int]:
        """Return the descriptors that tell when something has happened to the service, for a dispatcher with a loop of its own.

        It calls `heed` with each that has become readable, and asks again then: once the service ends, there is another one.
        """
        self.errands.awaited = True
        # Once the service ends, the stop is readable for good, and the tick tells what happens then.
        return (self._tick if self.ending else self._stop).reader, self.errands.reader

    def heed(self, fd: int) -> None:
        """See to what has happened, since one of `watched_fds` has become readable."""
        if fd == self.errands.reader:
            self.errands.run()
            return
        self._tick.drain()
        if self.ending:
            return
        if self._stop.asks_to_drain():
            self.drain_here()
        else:
            self.stop_here()

    # --- connections

    def publish(self) -> None:
        """Tell the parent the numbers for the status line."""
        if isinstance(self.parent, Parent):
            self.parent.publish(self.census())

    def note_probe(self) -> None:
        """Count a connection that had nothing for the filter."""
        self.connections.note_probe()

    def _count(self) -> Census:
        return self.connections.census()

    def _changed(self) -> None:
        self.publish()
        if self.ending:
            self._tick.write()

    def time_left(self) -> float:
        """Return the seconds for which open connections may be waited for; when the time to drain is over, begin to stop."""
        now = time.monotonic()
        if not self.stopping and now >= self._drained_by:
            self.stop_here()
        if self.urgent:
            return 0.0
        return (self._stopped_by if self.stopping else self._drained_by) - now

    def await_connections(self) -> None:
        """Return when all connections have ended; after the grace period, or where there is hurry, cut them off."""
        while self.connections and (left := self.time_left()) > 0:
            self.wait(left)
        self.connections.cut_off()

    def close(self) -> None:
        """Release the descriptors."""
        for pipe in (self._stop, self._tick, self.errands):
            if (
                pipe is not self.parent.line
            ):  # that ends with the process, lest the parent takes it for dead before
                pipe.close()


def serve(milter: Milter, bound: ListeningSocket) -> None:
    """Run a filter's dispatcher until it is stopped, then close the socket.

    Raises:
        ConfigError: The filter has no callbacks, no dispatcher that can run them, or allows nobody to use this socket.
    """
    serving = Serving(milter.plan().limits.grace)
    serving.notifier = Notifier.from_environment()
    bound.take_over()
    try:
        with signals_to(serving):  # until the path is removed, lest a signal leaves it behind
            try:
                milter.attach(serving)
                _run(milter, bound, serving)
            except Stopped:
                pass
            finally:
                milter.attach(None)
                bound.close()
    finally:
        serving.close()


def _run(milter: Milter, bound: ListeningSocket, serving: Serving) -> None:
    plan = milter.plan()
    if not plan.callbacks:
        raise ConfigError(
            f"{milter.name} has no callbacks: define some with on or register before main"
        )
    dispatcher = choose_dispatcher(milter)
    if milter.peers is not None:
        milter.peers.check(bound.address)
        serving.gate = milter.peers.gate()
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        logger.warning(
            "%s runs as root: give pmilter run --user, or call drop_privileges after setconn",
            milter.name,
        )
    program = Program(plan)
    program.prepare()
    handler = Handler(program, serving)
    serving.notifier.ready(f"{milter.name} serves on {bound.address}")
    dispatcher(milter, Listener(bound.socket, serving, close=bound.close), handler)
