"""One run of `Milter.main`: its listener, its handler, when it stops, and its signals. Dispatchers are given these."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pmilter.conversation import Conversation
from pmilter.dispatchers.driver import Driver, peer_name, prepare
from pmilter.dispatchers.notify import Notifier
from pmilter.dispatchers.parent import Parent
from pmilter.dispatchers.pipes import Pipe, await_readable
from pmilter.dispatchers.registry import choose_dispatcher
from pmilter.dispatchers.scoreboard import Census, State
from pmilter.dispatchers.signals import signals_to
from pmilter.effects import Service
from pmilter.errors import ConfigError
from pmilter.plan import Callback, Plan
from pmilter.program import Program
from pmilter.protocol.constants import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmilter.dispatchers.deadlines import Watch
    from pmilter.dispatchers.listening import ListeningSocket
    from pmilter.dispatchers.pipes import WorkerEnd
    from pmilter.dispatchers.scoreboard import Row
    from pmilter.effects import Talk
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

REFUSAL_TIME: Final = 5.0
"""Seconds that a connection over the limit may take to be told so."""

_BROKEN: Final = frozenset(
    {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EFAULT}
)
"""Errors of accept that trying again does not mend; all others are the network's, or pass (accept(2))."""

_EXHAUSTED_PAUSE: Final = 0.5
_IDLE: Final = 1.0
_EVER: Final = float("inf")


class Stopped(Exception):  # it tells of an event, not of an error
    """`Listener.accept` has nothing more to give: the service is stopping."""


class Serving(Service):
    """The state of one service: whether it stops, and the connections that it has.

    Attributes:
        draining: True once no more connections are to be accepted; those that are open go on as ever.
        stopping: True once no new message is to be begun either.
        urgent: True once open connections are not to be waited for either.
        grace: Seconds that open messages get after `stop`.
        drain_time: Seconds that open connections get after `drain_here`.
        requests: Connections accepted so far.
        parent: The process that supervises this one, or None.
        notifier: Speaks to the service manager.
        census: Returns the numbers for the status line; a dispatcher with children sets it.
        on_hup: What SIGHUP does; a service that can reload sets it.
    """

    def __init__(self, grace: float, drain_time: float = 600.0) -> None:
        super().__init__()
        self.draining = False
        self.urgent = False
        self.grace = grace
        self.drain_time = drain_time
        self.requests = 0
        self.parent: Parent | None = None
        self.notifier = Notifier()
        self.census: Callable[[], Census] = self._count
        self.on_hup: Callable[[], object] = _ignore_hup
        self._live: set[socket.socket] = set()
        self._notices: deque[int] = deque()
        self._attends = False
        self._drained_by = self._stopped_by = _EVER
        self._stop: Pipe | WorkerEnd = Pipe()
        self._tick = Pipe()
        self._bell = Pipe()

    def begin_child(self, row: Row, line: WorkerEnd | None) -> None:
        """Make this copy, in a forked child, the child's own.

        `stop` from now on tells the topmost service, which tells all below it.

        Args:
            row: Where the child tells its parent how it is.
            line: Its line to the parent; when that ends, the child stops too.
        """
        stop = self.parent.stop if self.parent is not None else self._stop
        self._descend(Parent(stop, row, line))

    def take_place_of(self, other: Serving) -> None:
        """Become, within a child, what another service was for its parent."""
        self.drain_time = other.drain_time
        if other.parent is not None:
            self._descend(other.parent)

    def _descend(self, parent: Parent) -> None:
        for pipe in (self._stop, self._tick, self._bell):
            if pipe is not parent.stop:
                pipe.close()  # they are the parent's; a line held here would hide that its other end is gone
        self.parent = parent
        self.parent.promise(self.grace)
        self.requests = 0
        self.notifier = Notifier()
        self.census = self._count
        self._live = set()
        self._notices.clear()
        self._stop = parent.line or Pipe()
        self._tick, self._bell = Pipe(), Pipe()

    # --- stopping

    @property
    def ending(self) -> bool:
        """True once no more connections are to be accepted."""
        return self.draining or self.stopping

    @property
    def stop_fd(self) -> int:
        """Descriptor that is readable for good once no more connections are to be accepted; who sees that calls `obey`."""
        return self._stop.reader

    @property
    def bell_fd(self) -> int:
        """Descriptor that is readable when a signal has asked for something; who sees that calls `attend`."""
        return self._bell.reader

    def stop(self) -> None:
        """Begin to stop. From any thread, signal handler, or child process."""
        if self.parent is not None:
            self.parent.ask_to_stop()
        else:
            self.stop_here()

    def obey(self) -> None:
        """Do what `stop_fd` has become readable for: drain or stop."""
        if self.ending:
            return
        if self._stop.asks_to_drain():
            self.drain_here()
        else:
            self.stop_here()

    def drain_here(self) -> None:
        """Accept no more connections in this process; it ends when those that are open have ended."""
        self.draining = True
        self._drained_by = time.monotonic() + self.drain_time
        self.report(State.RETIRING)
        self._stop.write()

    def stop_here(self) -> None:
        """Begin to stop in this process."""
        if not self.stopping:
            self.stopping = True
            self._stopped_by = time.monotonic() + self.grace
            self.notifier.stopping()
        self._stop.write()
        self._tick.write()

    def hurry(self) -> None:
        """Stop in this process without waiting for anything."""
        self.urgent = True
        self.stop_here()
        self.end_connections()

    def wait(self, seconds: float, others: Iterable[int] = ()) -> set[int]:
        """Wait until something happens to the service, and see to it, or until others are readable; return those of them.

        Args:
            seconds: After which to return at the latest.
            others: Descriptors.
        """
        self._attends = True
        # Once the service ends, stop_fd is readable for good, and the tick tells what happens then.
        own = self._tick if self.ending else self._stop
        seconds = min(seconds, self.notifier.sign_of_life())
        ready = await_readable({own.reader, self.bell_fd, *others}, seconds)
        if self.bell_fd in ready:
            self.attend()
        if own.reader in ready:
            self._tick.drain()
            self.obey()
        return ready - {own.reader, self.bell_fd}

    # --- signals

    def signalled(self, number: int) -> None:
        """Handle a signal: TERM and INT stop, the second one at once; QUIT stops at once; USR1 and HUP are left to `attend`.

        In a child only TERM and QUIT count, and TERM any number of times: a terminal sends its signals to parent and children,
        and a service manager sends TERM to all.
        """
        if number == signal.SIGQUIT:
            self.hurry()
        elif self.parent is not None:
            if number == signal.SIGTERM:
                self.stop_here()
        elif number in {signal.SIGTERM, signal.SIGINT}:
            if self.stopping:
                self.hurry()
            else:
                self.stop_here()
        else:
            self._notices.append(number)
            self._bell.write()
            if (
                not self._attends
            ):  # the dispatcher has a loop of its own, which may not look at the bell
                self.attend()

    def attend(self) -> None:
        """Do what signals have asked for: log a status line, reload.

        Not done by the signal handler where that can be helped: it interrupts the main thread anywhere, in the middle of logging too.
        """
        self._bell.drain()
        while self._notices:
            if self._notices.popleft() == signal.SIGHUP:
                self.on_hup()
            else:
                # Whoever asks wants to see it, whatever the level of the log.
                logger.warning("status: %d connections, %d children, %d requests", *self.census())

    # --- connections. Adding to and removing from a set, and copying it, are atomic.

    def enter(self, conn: socket.socket) -> None:
        """Note a connection that is being served."""
        self._live.add(conn)
        self.publish()

    def leave(self, conn: socket.socket) -> None:
        """Forget a connection."""
        self._live.discard(conn)
        self.publish()
        if self.ending:
            self._tick.write()

    def report(self, state: State) -> None:
        """Tell the parent how far this process is in its life."""
        if self.parent is not None:
            self.parent.report(state)

    def publish(self) -> None:
        """Tell the parent the numbers for the status line."""
        if self.parent is not None:
            self.parent.publish(self.census())

    def _count(self) -> Census:
        return Census(len(self._live), 0, self.requests)

    def oversee(self, talk: Talk) -> Talk:
        """Return a conversation that is the same as another, and in a child shows life to the parent."""
        return talk if self.parent is None else self.parent.oversee(talk)

    def end_connections(self) -> None:
        """Cut all connections off; their conversations see an end of file."""
        for conn in tuple(self._live):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

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
        while self._live and (left := self.time_left()) > 0:
            self.wait(left)
        if self._live:
            logger.warning("cutting off %d connections that did not end in time", len(self._live))
            self.end_connections()

    def close(self) -> None:
        """Release the descriptors."""
        for pipe in (self._stop, self._tick, self._bell):
            pipe.close()


def _ignore_hup() -> None:
    logger.warning("SIGHUP is ignored: only 'pmilter run' can reload a filter, else restart it")


class Listener:
    """Where a dispatcher gets its connections from.

    Several processes may wait on one socket: all of them are woken, and those that come too late wait on. Waking one alone
    (EPOLLEXCLUSIVE) would lose a connection's wake-up together with a process that is killed at that moment.

    Args:
        sock: The listening socket; becomes non-blocking.
        serving: The service.
        most: Connections after which this process takes no more, or None.
        close: Closes the socket, and removes what is to go with it.

    Attributes:
        socket: The socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        serving: Serving,
        most: int | None = None,
        close: Callable[[], object] | None = None,
    ) -> None:
        self.socket = sock
        self.close = close or sock.close
        """Closes this process's copy of the socket; others that have one may go on accepting."""
        self._serving = serving
        self._left = most
        sock.setblocking(False)  # noqa: FBT003  # the standard library's own signature

    def accept(self, idle: Callable[[], object] | None = None) -> tuple[socket.socket, Any]:
        """Wait for a connection.

        Args:
            idle: Called every second in which none came.

        Returns:
            The connected socket, which now is the caller's, and its address.

        Raises:
            Stopped: No more connections are to be accepted. This process's copy of the socket is closed, so that nobody waits in
                vain for this process to accept.
        """
        while True:
            if self._is_over():
                self.close()
                raise Stopped
            seconds = _EVER if idle is None else _IDLE
            ready = self._serving.wait(seconds, (self.socket.fileno(),))
            if ready and (accepted := self._try_accept()) is not None:
                return accepted
            if not ready and idle is not None:
                idle()

    def accept_now(self) -> tuple[socket.socket, Any] | None:
        """Return a connection that waits, as `accept`, or None where there is none; for dispatchers with a loop of their own.

        Raises:
            Stopped: No more connections are to be accepted; the socket is left open.
        """
        if self._is_over():
            raise Stopped
        return self._try_accept()

    def _is_over(self) -> bool:
        if self._left == 0 and not self._serving.ending:
            self._serving.drain_here()
        return self._serving.ending

    def _try_accept(self) -> tuple[socket.socket, Any] | None:
        try:
            accepted = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if self._serving.ending:  # another thread has closed it
                return None
            if error.errno in _BROKEN:
                raise
            logger.error(
                "cannot accept: %s; trying again", error
            )  # no traceback needed, it is the system's state
            self._serving.wait(_EXHAUSTED_PAUSE)
            return None
        self._serving.requests += 1
        self._serving.publish()
        if self._left is not None:
            self._left -= 1
        return accepted


class Handler:
    """Serves connections: call it with each accepted socket.

    Args:
        program: The filter.
        serving: The service that the connections belong to.

    Attributes:
        watch: Answers for callbacks that run out of time; a dispatcher whose threads can be waited for sets it.
    """

    def __init__(self, program: Program, serving: Serving) -> None:
        self.program = program
        self.serving = serving
        self.watch: Watch | None = None
        self._refusal = _refusal_program(program.plan)

    def __call__(self, conn: socket.socket) -> None:
        """Serve a connection on this thread to its end, and close it. Never raises."""
        self._perform(conn, self.program, None)

    def refuse(self, conn: socket.socket) -> None:
        """Tell an MTA on this thread to try again later, within 5 seconds, and close. Never raises."""
        self._perform(conn, self._refusal, REFUSAL_TIME)

    def conversation(self, peer: str, write: Callable[[bytes], object] | None = None) -> Talk:
        """Return a conversation for a dispatcher that does its own I/O.

        Args:
            peer: The MTA's end, for the log.
            write: Sends bytes at once, from any thread; without it `Context.progress` raises.
        """
        return self._converse(self.program, peer, write)

    def refusal(self, peer: str, write: Callable[[bytes], object] | None = None) -> Talk:
        """Return the conversation for a connection over the limit; it is to be ended after `REFUSAL_TIME`."""
        return self._converse(self._refusal, peer, write)

    def _converse(
        self, program: Program, peer: str, write: Callable[[bytes], object] | None
    ) -> Talk:
        service = _NO_ROOM if program is self._refusal else self.serving
        talk = Conversation(program, peer, write=write, service=service).run()
        return self.serving.oversee(talk)

    def _perform(self, conn: socket.socket, program: Program, seconds: float | None) -> None:
        self.serving.enter(conn)
        try:
            prepare(conn, program.plan.limits.frame_time)
            talk = self._converse(program, peer_name(conn), conn.sendall)
            until = None if seconds is None else time.monotonic() + seconds
            Driver(talk, conn, until=until, watch=self.watch).run()
        except OSError as error:  # gone before it began
            logger.info("a connection was lost: %s", error)
        except Exception:
            logger.exception("a connection failed")
        finally:
            self.serving.leave(
                conn
            )  # before the MTA sees the end: its next connection finds the place free
            conn.close()


def _no_room() -> Service:
    service = Service()
    service.stopping = service.refusing = True
    return service


_NO_ROOM: Final = _no_room()
"""What connections over the limit belong to: each is answered with a temporary failure at connect, and closed."""


def _refusal_program(plan: Plan) -> Program:
    """Return a filter that answers connect with a temporary failure and sees nothing else."""
    callbacks = {"connect": Callback(lambda *_: Status.TEMPFAIL)}
    return Program(
        plan._replace(callbacks=callbacks, keep=frozenset(), actions=type(plan.actions)(0))
    )


def serve(milter: Milter, bound: ListeningSocket) -> None:
    """Run a filter's dispatcher until it is stopped, then close the socket.

    Raises:
        ConfigError: The filter has no callbacks, or no dispatcher that can run them.
    """
    serving = Serving(milter.plan().limits.grace)
    serving.notifier = Notifier.from_environment()
    milter.attach(serving)
    bound.take_over()
    try:
        if not milter.plan().callbacks:
            raise ConfigError(
                f"{milter.name} has no callbacks: define some with on or register before main"
            )
        dispatcher = choose_dispatcher(milter)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            logger.warning("%s runs as root: call drop_privileges after setconn", milter.name)
        with signals_to(serving):
            handler = Handler(Program(milter.plan()), serving)
            serving.notifier.ready(f"{milter.name} serves on {bound.address}")
            dispatcher(milter, Listener(bound.socket, serving, close=bound.close), handler)
    except Stopped:
        pass
    finally:
        milter.attach(None)
        bound.close()
        serving.close()
