"""All connections on one asyncio loop: ``async def`` callbacks on the loop, ``def`` callbacks in a pool of threads.

The loop's reads go into one shared buffer (asyncio's default of a fresh 256 KiB for each read costs it a factor of seven), and a
coroutine that does not wait runs to its end at once, without a detour through the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
import time
import traceback
from asyncio import CancelledError
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pmilter.callbacks import is_coroutine_callback
from pmilter.dispatchers.accepting import Stopped
from pmilter.dispatchers.driver import QUICKACK, READ_SIZE, peer_name
from pmilter.dispatchers.eager import Attendant
from pmilter.dispatchers.handling import REFUSAL_TIME
from pmilter.dispatchers.overflow import Overflow, Place, Places, check_overflow, places_for
from pmilter.effects import Call, CallTimedOut, Late, Receive, thrown
from pmilter.errors import ConfigError, MilterError, MilterTimeout
from pmilter.logs import separate_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.effects import Effect, Talk
    from pmilter.limits import Limits
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_ROUND: Final = 1.0
"""Seconds between two looks for connections whose time is over."""

_LAST_MOMENT: Final = 1.0
"""Seconds for the callbacks of connections that were cut off."""

_BACKLOG: Final = 262_144
"""Bytes that may wait while a callback runs; then no more are read."""

_NOT: Final = -1
"""The listening socket while none is waited for."""


def asyncio_dispatcher(
    *, overflow: Overflow = "refuse", threads: int = 32, uvloop: bool = False
) -> Dispatcher:
    """Return a dispatcher that serves all connections on one asyncio loop, in the thread that calls `main`.

    Args:
        overflow: What becomes of connections over `max_children` (by default over `Limits.connections`).
        threads: Most ``def`` callbacks that run at a time; one a connection at most.
        uvloop: Use uvloop, which must be installed.

    Raises:
        ConfigError: A bad argument, or uvloop is not installed.
    """
    check_overflow(overflow)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"threads must be a number above 0, not {threads!r}")
    factory = _uvloop_factory() if uvloop else None

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        places = places_for(milter, handler, overflow)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_Server(listener, handler, places, threads).run())

    serve.runs_coroutines = True  # type: ignore[attr-defined]  # what the registry asks of dispatchers
    return serve


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # an optional package
    except ImportError as error:
        raise ConfigError("uvloop is not installed: pip install uvloop, or leave it out") from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Server:
    """What the connections of one service share. For the loop's thread."""

    def __init__(self, listener: Listener, handler: Handler, places: Places, threads: int) -> None:
        self._listener = listener
        self.handler = handler
        self.serving = handler.serving
        self.limits: Limits = handler.program.plan.limits
        self._places = places
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="pmilter")
        self.buffer = memoryview(bytearray(READ_SIZE))
        self.connections: set[_Connection] = set()
        self.coroutines: dict[Callable[..., Any], bool] = {}
        self._apart: set[asyncio.Task[Any]] = set()
        self._watched: tuple[int, ...] = ()
        self._listening = _NOT

    async def run(self) -> None:
        """Serve until all has come to its end."""
        self.loop = asyncio.get_running_loop()
        self.loop_thread = threading.get_ident()
        self._happened: asyncio.Future[None] = self.loop.create_future()
        serving, connections = self.serving, self.connections
        try:
            while not serving.ending:
                await self._round(_ROUND)
            self._stop_listening()
            self._listener.close()  # lest MTAs wait for a connection that is never accepted
            while connections and (left := serving.time_left()) > 0:
                await self._round(left)
            serving.connections.cut_off()
            deadline = self.loop.time() + _LAST_MOMENT
            while connections and (left := deadline - self.loop.time()) > 0:
                await self._round(left)
        finally:
            self._watch(())
            self.pool.shutdown(wait=False, cancel_futures=True)

    async def _round(self, seconds: float) -> None:
        """Do what is to be done from time to time, then return when something has happened to the service, or after some seconds."""
        self._watch(self.serving.watched_fds())
        self.listen()
        now = self.loop.time()
        for connection in [c for c in self.connections if c.deadline <= now]:
            connection.time_out()
        pause = min(seconds, _ROUND, self.serving.notifier.sign_of_life())
        self._happened = self.loop.create_future()
        timer = self.loop.call_later(pause, _resolve, self._happened)
        try:
            await self._happened
        finally:
            timer.cancel()

    def _watch(self, fds: tuple[int, ...]) -> None:
        """Wait for what may happen to the service, and for nothing else than that."""
        if fds != self._watched:
            for fd in self._watched:
                self.loop.remove_reader(fd)
            for fd in fds:
                self.loop.add_reader(fd, self._heed, fd)
            self._watched = fds

    def _heed(self, fd: int) -> None:
        self.serving.heed(fd)
        self._watch(self.serving.watched_fds())
        _resolve(self._happened)

    # --- accepting

    def listen(self) -> None:
        """Accept connections, where there is room."""
        if self._listening == _NOT and not self._places.full and not self.serving.ending:
            self._listening = self._listener.socket.fileno()
            self.loop.add_reader(self._listening, self._accept)

    def _stop_listening(self) -> None:
        if self._listening != _NOT:
            self.loop.remove_reader(self._listening)
            self._listening = _NOT

    def _accept(self) -> None:
        """Accept one connection: not all that wait, so that other processes get their share."""
        try:
            accepted = self._listener.accept_now()
        except Stopped:
            return
        except OSError as error:  # the listening socket itself is broken
            self._stop_listening()
            self._happened.set_exception(error)
            return
        if accepted is not None:
            self._begin(accepted[0])
        if self._places.full or self._listener.exhausted:
            self._stop_listening()

    def _begin(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)  # noqa: FBT003  # the standard library's own signature
            peer = peer_name(sock)
        except OSError as error:
            self.handler.lost(error)
            sock.close()
            return
        place = self._places.take(sock)
        if place is None:
            sock.close()
            return
        connection = _Connection(self, sock, peer, place)
        self.connections.add(connection)
        self.serving.connections.enter(sock)
        connection.attaching = self.loop.create_task(self._attach(connection, sock))

    async def _attach(self, connection: _Connection, sock: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as error:
            self.handler.lost(error)
            sock.close()
            self.forget(connection)

    def forget(self, connection: _Connection) -> None:
        """Note that a connection has ended."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self.serving.connections.leave(connection.socket)
        self._places.give(connection.place)
        self.listen()

    def start_apart(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Have a callback called that nobody waits for."""
        if self.is_coroutine(function):
            task = self.loop.create_task(function(*arguments))
            self._apart.add(task)
            task.add_done_callback(self._apart.discard)
        else:
            self.pool.submit(function, *arguments)

    def is_coroutine(self, function: Callable[..., Any]) -> bool:
        """Return whether a callback is a coroutine function; remembered, since finding out is slow."""
        known = self.coroutines.get(function)
        if known is None:
            known = self.coroutines[function] = is_coroutine_callback(function)
        return known


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _Connection(asyncio.BufferedProtocol):
    """One connection: performs its conversation."""

    def __init__(self, server: _Server, sock: socket.socket, peer: str, place: Place) -> None:
        self._server = server
        self.socket = sock
        make = server.handler.conversation if place.served else server.handler.refusal
        self._talk: Talk = make(peer, self._write_soon)
        self._context = separate_context()
        self.place = place
        self._until = float("inf") if place.served else server.loop.time() + REFUSAL_TIME
        self.deadline = self._until
        self.attaching: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._quickack = sock.family != socket.AF_UNIX and QUICKACK is not None
        self._buffer = server.buffer
        self._waiting = False
        self._backlog = bytearray()
        self._ended = False
        self._eof = False
        self._can_write = True
        self._unwritten = False
        self._receive_next: Receive | None = None
        self._attendant: Attendant | None = None
        self._pending: _Pending | None = None

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the conversation."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(0)  # an answer has left before the conversation goes on, or ends
        if self.socket.family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._context.run(self._perform, self._talk.send, None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's signature
        """Return the buffer of all connections: it is read into and taken from without anything between."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Go on with what has arrived."""
        if self._quickack:
            self.socket.setsockopt(socket.IPPROTO_TCP, QUICKACK or 0, 1)
        data = bytes(self._buffer[:nbytes])
        if self._waiting:
            self._waiting = False
            self._perform(self._talk.send, data)
        elif not self._ended:
            self._backlog += data
            if len(self._backlog) > _BACKLOG and self._transport is not None:
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Go on, and close when the conversation has ended."""
        self._end_of_file()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Go on with the end of file; nothing can be sent any more."""
        self._can_write = True
        self._end_of_file()
        if self._unwritten:
            self._unwritten = False
            self._perform(self._talk.throw, exc or ConnectionResetError("the MTA has gone"))

    def pause_writing(self) -> None:
        """Stop the conversation at its next send until the MTA has taken what is written."""
        self._can_write = False

    def resume_writing(self) -> None:
        """Let the conversation go on."""
        self._can_write = True
        if self._unwritten:
            self._unwritten = False
            receive, self._receive_next = self._receive_next, None
            if receive is None:
                self._perform(self._talk.send, None)
            elif self._backlog or self._eof:
                self._perform(self._talk.send, self._take_backlog())
            else:
                self._await_bytes(receive)

    # --- performing

    def _perform(self, step: Callable[[Any], Effect], value: object) -> None:
        """Carry the conversation on, up to where it waits."""
        resume = self._talk.send
        while True:
            try:
                effect = step(value)
            except StopIteration:
                self._close()
                return
            step = resume
            kind = type(effect)
            if kind is Call:
                assert isinstance(effect, Call)
                done, step, value = self._call(effect)
                if not done:
                    return
            elif kind is Receive:
                assert isinstance(effect, Receive)
                if effect.answer and not self._write(effect.answer):
                    self._receive_next = effect
                    return
                if not (self._backlog or self._eof):
                    self._await_bytes(effect)
                    return
                value = self._take_backlog()
            else:
                value = None
                if not self._write(effect.data):  # type: ignore[union-attr]  # it is a Send
                    return

    def _await_bytes(self, receive: Receive) -> None:
        timeout = receive.timeout
        now = self._server.loop.time()
        self.deadline = self._until if timeout is None else min(self._until, now + timeout)
        self._waiting = True

    def _take_backlog(self) -> bytes:
        data = bytes(self._backlog)
        self._backlog.clear()
        if (
            self._transport is not None
            and not self._transport.is_reading()
            and not self._transport.is_closing()
        ):
            self._transport.resume_reading()
        return data

    def _write(self, data: bytes) -> bool:
        """Write; return False where the conversation is to wait until the MTA takes it."""
        if self._transport is None or self._transport.is_closing():
            return True
        self._transport.write(data)
        if self._can_write:
            return True
        self._unwritten = True
        self.deadline = self._server.loop.time() + self._server.limits.frame_time
        return False

    def _write_soon(self, data: bytes) -> None:
        """Write from any thread."""
        if threading.get_ident() == self._server.loop_thread:
            self._write_now(data)
        else:
            self._server.loop.call_soon_threadsafe(self._write_now, data)

    def _write_now(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # --- callbacks

    def _call(self, call: Call) -> tuple[bool, Callable[[Any], Effect], object]:
        """Call a callback; return whether it has returned already, and how to go on then."""
        call.deadline = None if call.timeout is None else time.monotonic() + call.timeout
        pending = _Pending(call)
        if not self._server.is_coroutine(call.function):
            context = self._context.copy()
            future = self._server.pool.submit(
                context.run, pending.run, call.function, *call.arguments
            )
            future.add_done_callback(partial(self._returned_from_thread, pending))
        else:
            try:
                self._attend(pending).start(call.function(*call.arguments))
            except StopIteration as stop:
                return True, self._talk.send, stop.value
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                return True, self._talk.throw, thrown(error)
        self._pending = pending
        loop, limits = self._server.loop, self._server.limits
        if call.timeout is not None:
            pending.timer = loop.call_later(call.timeout, self._overdue, pending)
        if call.stage == "eom":
            pending.progress = loop.call_later(limits.progress_time, self._progress, pending)
        return False, self._talk.send, None

    def _attend(self, pending: _Pending) -> Attendant:
        if self._attendant is None:
            self._attendant = self._context.run(
                Attendant, self._server.loop, self._returned_from_attendant
            )
        pending.attendant = self._attendant
        return self._attendant

    def _returned_from_attendant(self, outcome: object, error: BaseException | None) -> None:
        if self._pending is not None:
            self._returned(self._pending, outcome, error)

    def _returned_from_thread(self, pending: _Pending, future: Future[Any]) -> None:
        """Take a callback's end to the loop's thread."""
        error = CancelledError() if future.cancelled() else future.exception()
        outcome = None if error is not None else future.result()
        with contextlib.suppress(RuntimeError):  # the loop is closed, the service has ended
            self._server.loop.call_soon_threadsafe(self._returned, pending, outcome, error)

    def _returned(self, pending: _Pending, outcome: object, error: BaseException | None) -> None:
        if pending.late is not None:
            for function, arguments in pending.late.finish():
                self._server.start_apart(function, arguments)
            return
        self._pending = None
        pending.cancel_timers()
        if error is not None:
            self._perform(self._talk.throw, thrown(error))
        else:
            self._perform(self._talk.send, outcome)

    def _overdue(self, pending: _Pending) -> None:
        """Go on without a callback that has run out of time; a coroutine is cancelled."""
        self._pending = None
        pending.cancel_timers()
        late = pending.late = Late()
        stack = pending.stack()
        if pending.attendant is not None:
            late_attendant, self._attendant = self._attendant, None
            if late_attendant is not None:
                late_attendant.replace(partial(self._returned, pending))
                late_attendant.cancel()
        self._perform(self._talk.throw, CallTimedOut(pending.stage, pending.seconds, late, stack))

    def _progress(self, pending: _Pending) -> None:
        with contextlib.suppress(MilterError, OSError):
            pending.context.progress()
        pending.progress = self._server.loop.call_later(
            self._server.limits.progress_time, self._progress, pending
        )

    # --- the end

    def _end_of_file(self) -> None:
        self._eof = True
        if self._waiting:
            self._waiting = False
            self._perform(self._talk.send, self._take_backlog())

    def time_out(self) -> None:
        """End the connection: its time is over."""
        if self._waiting or self._unwritten:
            what = "nothing came from the MTA" if self._waiting else "the MTA takes no more"
            self._waiting = self._unwritten = False
            self._perform(self._talk.throw, MilterTimeout(f"{what} for too long"))

    def _close(self) -> None:
        self._ended = True
        self.deadline = float("inf")
        self._server.forget(
            self
        )  # before the MTA sees the end: its next connection finds the place free
        if self._transport is not None:
            self._transport.close()
        if self._attendant is not None:
            self._attendant.cancel()


class _Pending:
    """A callback that has not returned yet."""

    def __init__(self, call: Call) -> None:
        self.stage = call.stage
        self.seconds = call.timeout or 0.0
        self.context = call.arguments[0]
        self.late: Late | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.progress: asyncio.TimerHandle | None = None
        self.attendant: Attendant | None = None
        self._thread = 0

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a callback, in a thread of the pool."""
        self._thread = threading.get_ident()
        return function(*arguments)

    def cancel_timers(self) -> None:
        """Stop the clocks."""
        for timer in (self.timer, self.progress):
            if timer is not None:
                timer.cancel()

    def stack(self) -> str:
        """Return where it is, for the log."""
        if self.attendant is not None:
            return "".join(
                traceback.format_list(
                    [
                        summary
                        for frame in self.attendant.stack()
                        for summary in traceback.extract_stack(frame, 1)
                    ]
                )
            )
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001  # the documented way to see another thread's stack
        return "".join(traceback.format_stack(frame)) if frame else ""
