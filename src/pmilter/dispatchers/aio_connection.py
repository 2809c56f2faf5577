"""One connection on an asyncio loop.

It reads and writes its socket itself when the loop says that it can: asyncio's transports would cost as much again. Its conversation
is performed by work that an `Office` runs, so that coroutine callbacks are awaited where they are called.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import socket
import sys
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.driver import LONG_READ_SIZE, QUICKACK, READ_SIZE
from pmilter.dispatchers.eager import parked, stack_of
from pmilter.dispatchers.handling import REFUSAL_TIME
from pmilter.effects import Call, Late, Receive
from pmilter.errors import MilterError, MilterTimeout
from pmilter.outcomes import CallFailed, CallTimedOut
from pmilter.spot import separate_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.aio import Server
    from pmilter.dispatchers.crew import Job
    from pmilter.dispatchers.doorway import Guest
    from pmilter.dispatchers.eager import Attendant, Work
    from pmilter.effects import Effect

logger: Final = logging.getLogger("pmilter")

_BACKLOG: Final = 262_144
"""Bytes that may wait while a callback runs; then no more are read."""

_NEVER: Final = float("inf")


class Turn:
    """What one work and the connection know of each other: the work ends when its callback is late.

    Attributes:
        late: Set once the callback has run out of time, and another work has taken over.
        thread: The thread that the callback runs in, where that is not the loop's.
    """

    __slots__ = ("late", "thread")

    def __init__(self) -> None:
        self.late: Late | None = None
        self.thread = 0


class Connection:
    """One connection. For the loop's thread.

    Args:
        server: What all connections share.
        guest: What was let in; its socket is closed at the end.

    Attributes:
        guest: The same.
        socket: Its socket.
        deadline: Time (`time.monotonic`) until which it waits for the MTA.
        until: Time at which it is over, whatever the MTA does.
    """

    __slots__ = (
        "_attendant",
        "_backlog",
        "_call",
        "_context",
        "_eof",
        "_job",
        "_posted",
        "_progress_at",
        "_quickack",
        "_read_size",
        "_reads",
        "_recv",
        "_sending",
        "_server",
        "_talk",
        "_turn",
        "_unsent",
        "_waiting",
        "_work",
        "deadline",
        "guest",
        "socket",
        "until",
    )

    def __init__(self, server: Server, guest: Guest) -> None:
        sock, peer, place = guest
        self._server = server
        self.socket = sock
        self.guest = guest
        self._recv = sock.recv
        self._read_size = READ_SIZE
        self._quickack = sock.family != socket.AF_UNIX and QUICKACK is not None
        self._context = separate_context()
        make = server.handler.conversation if place.served else server.handler.refusal
        self._talk = make(peer, self._write_soon)
        self.until = _NEVER if place.served else time.monotonic() + REFUSAL_TIME
        self.deadline = _NEVER
        self._turn = Turn()
        self._work: Work = self._perform(self._turn, self._talk.send, None)
        self._attendant: Attendant | None = None
        self._call: Call | None = None
        self._progress_at = 0.0
        self._job: Job | None = None
        self._reads = False
        self._eof = False
        self._waiting = False
        self._sending = False
        self._backlog = bytearray()
        self._unsent: memoryview | None = None
        self._posted: deque[bytes] = deque()

    def begin(self) -> None:
        """Begin the conversation."""
        self._read(on=True)
        self._go_on(self._work, self._work.send, None)

    def _go_on(self, work: Work, step: Callable[[Any], Any], value: object) -> None:
        """Carry the conversation on, up to where it waits."""
        attendant = self._server.office.step(work, self._context, step, value)
        if attendant is not None:
            self._attendant = attendant
            self._watch()

    # --- receiving

    def _read(self, *, on: bool) -> None:
        if on != self._reads:
            self._reads = on
            if on:
                self._server.readers.add(self.socket.fileno(), self._receive)
            else:
                self._server.readers.remove(self.socket.fileno())

    def _receive(self) -> None:
        """Take what has arrived."""
        try:
            if self._quickack:
                self.socket.setsockopt(socket.IPPROTO_TCP, QUICKACK or 0, 1)
            data = self._recv(self._read_size)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._read_size = READ_SIZE if len(data) < READ_SIZE else LONG_READ_SIZE
        if self._waiting:
            self._waiting = False
            self._go_on(self._work, self._work.send, data)
            return
        self._backlog += data
        self._eof = not data
        if self._eof or len(self._backlog) > _BACKLOG:
            self._read(on=False)

    def _lose(self, error: OSError) -> None:
        """Take note that the MTA has gone."""
        if self._waiting:
            self._waiting = False
            self._go_on(self._work, self._work.throw, error)
        else:
            self._eof = True
            self._read(on=False)

    def _take_backlog(self) -> bytes:
        data = bytes(self._backlog)
        self._backlog.clear()
        if not self._eof:
            self._read(on=True)
        return data

    # --- sending

    def _has_sent(self, data: bytes) -> bool:
        """Send; return False where the MTA is to take the rest first."""
        while (
            self._posted
        ):  # what other threads have sent is older: no progress frame may follow the verdict
            data = self._posted.pop() + data
        if self._unsent is not None:
            self._unsent = memoryview(bytes(self._unsent) + data)
            return False
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._unsent = memoryview(data)[sent:]
        self._server.loop.add_writer(self.socket.fileno(), self._send_rest)
        return False

    def _send_rest(self) -> None:
        error: OSError | None = None
        unsent = self._unsent or memoryview(b"")
        try:
            sent = self.socket.send(unsent)
        except BlockingIOError:
            return
        except OSError as caught:
            error, sent = caught, len(unsent)
        if sent < len(unsent):
            self._unsent = unsent[sent:]
            return
        self._stop_sending()
        if self._sending:
            self._sending = False
            if error is None:
                self._go_on(self._work, self._work.send, None)
            else:
                self._go_on(self._work, self._work.throw, error)

    def _stop_sending(self) -> None:
        if self._unsent is not None:
            self._unsent = None
            self._server.loop.remove_writer(self.socket.fileno())

    def _write_soon(self, data: bytes) -> None:
        """Send from any thread."""
        if threading.get_ident() == self._server.loop_thread:
            self._write_now(data)
        else:
            self._posted.append(data)
            self._server.loop.call_soon_threadsafe(self._write_now, b"")

    def _write_now(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it has gone, as will be seen soon
            self._has_sent(data)

    # --- performing

    async def _perform(  # noqa: C901  # one piece, since it runs for every header of every mail
        self, turn: Turn, step: Callable[[Any], Effect], value: object
    ) -> None:
        """Perform the conversation to its end, or until a callback is late."""
        talk, is_coroutine, clock = self._talk, self._server.is_coroutine, time.monotonic
        while True:
            try:
                effect: Any = step(value)
            except StopIteration:
                self._close()
                return
            except Exception:
                self._close()  # first: what went wrong may be the log
                logger.exception("a connection failed")
                return
            step, value = talk.send, None
            try:
                if type(effect) is Call:
                    self._call, timeout = effect, effect.timeout
                    effect.deadline = None if timeout is None else clock() + timeout
                    if is_coroutine[effect.function]:
                        value = await effect.function(*effect.arguments)
                    else:
                        value = await self._call_in_pool(effect, turn)
                elif type(effect) is Receive:
                    if effect.answer and not self._has_sent(effect.answer):
                        await self._sent()
                    if self._backlog or self._eof:
                        value = self._take_backlog()
                    else:
                        timeout = effect.timeout
                        self.deadline = _NEVER if timeout is None else clock() + timeout
                        self._waiting = True
                        value = await parked()
                elif not self._has_sent(effect.data):
                    await self._sent()
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                step = talk.throw
                value = CallFailed(error) if type(effect) is Call else error
            if turn.late is not None:
                self._server.finish(turn.late)
                return
            self._call = None

    async def _sent(self) -> None:
        """Wait until the MTA has taken all."""
        self._sending = True
        self.deadline = time.monotonic() + self._server.limits.frame_time
        await parked()

    async def _call_in_pool(self, call: Call, turn: Turn) -> Any:
        """Call a callback in a thread."""
        work, loop, context = self._work, self._server.loop, contextvars.copy_context()
        function, arguments = call.function, call.arguments

        def job() -> None:
            turn.thread = threading.get_ident()
            step: Callable[[Any], Any] = work.send
            try:
                value = context.run(function, *arguments)
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                step, value = work.throw, error
            with contextlib.suppress(RuntimeError):  # the loop is closed, the service has ended
                loop.call_soon_threadsafe(self._go_on, work, step, value)

        # Who carried this on before may have other work when the callback is late.
        self._attendant = None
        self._job = job
        self._server.pool.submit(job)
        self._watch()
        try:
            return await parked()
        finally:
            turn.thread = 0

    # --- callbacks that take their time

    def _watch(self) -> None:
        self._progress_at = time.monotonic() + self._server.limits.progress_time
        self._server.watch(self)

    def look(self, now: float) -> bool:
        """Go on without the callback where its time is up; send progress where that is due. Return whether it still runs."""
        call = self._call
        if call is None:
            return False
        if call.deadline is not None and now >= call.deadline:
            self._take_over(call)
            return False
        if call.stage == "eom" and now >= self._progress_at:
            self._progress_at = now + self._server.limits.progress_time
            with contextlib.suppress(MilterError, OSError):
                call.arguments[0].progress()
        return True

    def _take_over(self, call: Call) -> None:
        """Go on without a callback that has run out of time; a coroutine is cancelled."""
        late = self._turn.late = Late()
        error = CallTimedOut(call.stage, call.timeout or 0.0, late, self._stack())
        attendant, self._attendant = self._attendant, None
        if attendant is not None:
            attendant.cancel()
        job, self._job = self._job, None
        if job is not None and self._server.pool.withdraw(job):
            self._go_on(self._work, self._work.throw, error)  # it has not begun, and never will
        self._turn = Turn()
        self._work = self._perform(self._turn, self._talk.throw, error)
        self._go_on(self._work, self._work.send, None)

    def _stack(self) -> str:
        """Return where the callback is, for the log."""
        if not self._turn.thread:
            return stack_of(self._work)
        frame = sys._current_frames().get(self._turn.thread)  # noqa: SLF001  # the documented way to see another thread's stack
        return "".join(traceback.format_stack(frame)) if frame else ""

    # --- the end

    def time_out(self) -> None:
        """End the connection where its time is over."""
        if min(self.deadline, self.until) > time.monotonic():
            return
        if self._waiting or self._sending:
            what = "nothing came from the MTA" if self._waiting else "the MTA takes no more"
            self._waiting = self._sending = False
            self._stop_sending()
            self._go_on(self._work, self._work.throw, MilterTimeout(f"{what} for too long"))

    def abandon(self) -> None:
        """Close, and wait no longer for a callback that does not return."""
        self._turn.late = Late()
        self._close()

    def _close(self) -> None:
        self._server.forget(self)  # first: the MTA's next connection finds the place free
        self._read(on=False)
        self._stop_sending()
        self.socket.close()
