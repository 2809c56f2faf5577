"""One run of `Milter.main`: its listener, its handler, when it stops, and its signals. Dispatchers are given these."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.conversation import Conversation
from pmilter.dispatchers.driver import Driver, peer_name, prepare
from pmilter.dispatchers.registry import choose_dispatcher
from pmilter.effects import Service
from pmilter.errors import ConfigError
from pmilter.plan import Callback, Plan
from pmilter.program import Program
from pmilter.protocol.constants import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.dispatchers.deadlines import Watch
    from pmilter.dispatchers.listening import ListeningSocket
    from pmilter.effects import Talk
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

REFUSAL_TIME: Final = 5.0
"""Seconds that a connection over the limit may take to be told so."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_PAUSE: Final = 0.5
_IDLE_MS: Final = 1000
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # it tells of an event, not of an error
    """`Listener.accept` has nothing more to give: the service is stopping."""


class Pipe:
    """Wakes a thread or process that polls; safe to write from any thread and signal handler."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)  # the standard library's own signature
        os.set_blocking(self._writer, False)

    def write(self) -> None:
        """Make the reader readable."""
        with contextlib.suppress(BlockingIOError):  # a full pipe is readable already
            os.write(self._writer, b"!")

    def wait(self, seconds: float) -> bool:
        """Return True as soon as the reader is readable, False after some seconds."""
        poller = select.poll()
        poller.register(self.reader, select.POLLIN)
        return bool(poller.poll(max(0.0, seconds) * 1000))

    def drain(self) -> None:
        """Make the reader wait again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, 4096)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self._writer)


class Serving(Service):
    """The state of one service: whether it stops, and the connections that it has.

    Attributes:
        stopping: True once no new message is to be begun.
        urgent: True once open connections are not to be waited for either.
        grace: Seconds that open messages get after `stop`.
    """

    def __init__(self, grace: float) -> None:
        super().__init__()
        self.urgent = False
        self.grace = grace
        self._live: set[socket.socket] = set()
        self._leaving = threading.Lock()
        self._parent: Pipe | None = None
        self._stop = Pipe()
        self._tick = Pipe()

    def begin_child(self) -> None:
        """Make this copy, in a forked child, its own: `stop` now tells the parent, which will tell its children."""
        self._parent, self._stop, self._tick = self._stop, Pipe(), Pipe()

    @property
    def stop_fd(self) -> int:
        """Descriptor that is readable for good once somebody wants to stop; who sees that calls `stop_here`."""
        return self._stop.reader

    def stop(self) -> None:
        """Begin to stop. From any thread, signal handler, or child process."""
        if self._parent is not None:
            self._parent.write()
        else:
            self.stop_here()

    def stop_here(self) -> None:
        """Begin to stop in this process."""
        self.stopping = True
        self._stop.write()

    def hurry(self) -> None:
        """Stop in this process without waiting for anything."""
        self.urgent = True
        self.stop_here()
        self._tick.write()

    def await_stop(self, seconds: float) -> None:
        """Return when somebody wants to stop, or after some seconds."""
        if self._stop.wait(seconds):
            self.stop_here()

    # Adding to and removing from a set, and copying it, are atomic.

    def enter(self, conn: socket.socket) -> None:
        """Note a connection that is being served."""
        self._live.add(conn)

    def leave(self, conn: socket.socket) -> None:
        """Forget a connection."""
        with self._leaving:  # lest the pipe is closed, and its number given away, between the two
            if conn in self._live:
                self._live.discard(conn)
                if self.stopping:
                    self._tick.write()

    def end_connections(self) -> None:
        """Cut all connections off; their conversations see an end of file."""
        for conn in tuple(self._live):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def await_connections(self) -> None:
        """Return when all connections have ended; after the grace period, or where there is hurry, cut them off."""
        deadline = time.monotonic() + self.grace
        while self._live and not self.urgent and (left := deadline - time.monotonic()) > 0:
            if self._tick.wait(left):
                self._tick.drain()
        if self._live:
            logger.warning("cutting off %d connections that did not end in time", len(self._live))
            self.end_connections()

    def close(self) -> None:
        """Release the descriptors."""
        with self._leaving:
            self._live.clear()
            self._stop.close()
            self._tick.close()


class Listener:
    """Where a dispatcher gets its connections from.

    Attributes:
        socket: The listening socket, non-blocking.
    """

    def __init__(self, sock: socket.socket, serving: Serving) -> None:
        self.socket = sock
        self._serving = serving
        sock.setblocking(False)  # noqa: FBT003  # the standard library's own signature
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)
        self._poller.register(serving.stop_fd, select.POLLIN)

    def accept(self, idle: Callable[[], object] | None = None) -> tuple[socket.socket, Any]:
        """Wait for a connection.

        Args:
            idle: Called every second in which none came.

        Returns:
            The connected socket, which now is the caller's, and its address.

        Raises:
            Stopped: The service is stopping.
        """
        while True:
            ready = self._poller.poll(None if idle is None else _IDLE_MS)
            if any(fd == self._serving.stop_fd for fd, _ in ready):
                self._serving.stop_here()
                raise Stopped
            if ready and (accepted := self._try_accept()) is not None:
                return accepted
            if not ready and idle is not None:
                idle()

    def accept_now(self) -> tuple[socket.socket, Any] | None:
        """Return a connection that waits, as `accept`, or None where there is none; for dispatchers with a loop of their own.

        Raises:
            Stopped: The service is stopping.
        """
        if self._serving.stopping:
            raise Stopped
        return self._try_accept()

    def _try_accept(self) -> tuple[socket.socket, Any] | None:
        try:
            return self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            logger.error(
                "cannot accept: %s; trying again", error
            )  # no traceback needed, it is the system's state
            self._serving.await_stop(_EXHAUSTED_PAUSE)
            return None


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
        return Conversation(self.program, peer, write=write, service=self.serving).run()

    def refusal(self, peer: str, write: Callable[[bytes], object] | None = None) -> Talk:
        """Return the conversation for a connection over the limit; it is to be ended after `REFUSAL_TIME`."""
        return Conversation(self._refusal, peer, write=write, service=self.serving).run()

    def _perform(self, conn: socket.socket, program: Program, seconds: float | None) -> None:
        self.serving.enter(conn)
        try:
            prepare(conn, program.plan.limits.frame_time)
            talk = Conversation(
                program, peer_name(conn), write=conn.sendall, service=self.serving
            ).run()
            until = None if seconds is None else time.monotonic() + seconds
            Driver(talk, conn, until=until, watch=self.watch).run()
        except OSError as error:  # gone before it began
            logger.info("a connection was lost: %s", error)
        except Exception:
            logger.exception("a connection failed")
        finally:
            conn.close()
            self.serving.leave(conn)


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
    milter.attach(serving)
    try:
        if not milter.plan().callbacks:
            raise ConfigError(
                f"{milter.name} has no callbacks: define some with on or register before main"
            )
        dispatcher = choose_dispatcher(milter)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            logger.warning("%s runs as root: call drop_privileges after setconn", milter.name)
        with _signals(serving):
            handler = Handler(Program(milter.plan()), serving)
            dispatcher(milter, Listener(bound.socket, serving), handler)
    except Stopped:
        pass
    finally:
        milter.attach(None)
        bound.close()
        serving.close()


@contextlib.contextmanager
def _signals(serving: Serving) -> Iterator[None]:
    """Have TERM and INT stop the service, where this is the main thread; put the old handlers back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: object) -> None:
        if serving.stopping:
            serving.hurry()
        else:
            serving.stop_here()

    before = {number: signal.signal(number, on_signal) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
