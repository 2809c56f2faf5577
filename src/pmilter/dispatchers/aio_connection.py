"""One connection on an asyncio loop.

It reads and writes its socket itself when the loop says that it can: asyncio's transports would cost as much again. Its conversation
is performed by work that an `Office` runs, so that coroutine callbacks are awaited where they are called. What is done for every
command of every connection stands in loops elsewhere: receiving in `readers`, steps in `eager`, answers in `send_answers`.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections import deque
from types import CoroutineType, coroutine
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.driver import LONG_READ_SIZE, READ_SIZE, acknowledge
from pmilter.dispatchers.eager import PARKED, stack_of
from pmilter.dispatchers.handling import REFUSAL_TIME
from pmilter.effects import Call, Late, Receive
from pmilter.errors import MilterError, MilterTimeout
from pmilter.outcomes import CallFailed, CallTimedOut
from pmilter.spot import separate_context

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pmilter.dispatchers.aio import Server
    from pmilter.dispatchers.crew import Job
    from pmilter.dispatchers.doorway import Guest
    from pmilter.dispatchers.eager import Attendant, Run, Step, Work
    from pmilter.effects import Effect

logger: Final = logging.getLogger("pmilter")

_BACKLOG: Final = 262_144
"""Bytes that may wait while a callback runs; then no more are read."""

_NEVER: Final = float("inf")
_COROUTINE: Any = CoroutineType  # no type to mypy, which knows nothing of `types.coroutine`


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
        work: What performs its conversation.
        run: Runs that in the connection's context.
        fd: Its descriptor, -1 once it is closed.
        read_size: Bytes to ask for.
        waiting: Whether the conversation waits for bytes, and for nothing before.
        resume: The `send` of the work.
        unsent: What the MTA has not taken yet, or another thread wants to be sent.
    """

    __slots__ = (
        "_ahead",
        "_attendant",
        "_backlog",
        "_call",
        "_eof",
        "_job",
        "_progress_at",
        "_reads",
        "_sending",
        "_server",
        "_talk",
        "_tcp",
        "_turn",
        "_writes",
        "deadline",
        "fd",
        "guest",
        "read_size",
        "resume",
        "run",
        "socket",
        "unsent",
        "until",
        "waiting",
        "work",
    )

    def __init__(self, server: Server, guest: Guest) -> None:
        sock, peer, place = guest
        self._server = server
        self.socket = sock
        self.guest = guest
        self.fd = sock.fileno()
        self._tcp = sock.family != socket.AF_UNIX
        self.read_size = READ_SIZE
        self.run: Run = separate_context().run
        make = server.handler.conversation if place.served else server.handler.refusal
        self._talk = make(peer, self._write_soon)
        self.until = _NEVER if place.served else time.monotonic() + REFUSAL_TIME
        self.deadline = _NEVER
        self._take_turn(self._talk.send, None)
        self._attendant: Attendant | None = None
        self._call: Call | None = None
        self._progress_at = 0.0
        self._job: Job | None = None
        self._reads = self._writes = False
        self.waiting = False
        self._sending = False
        self._ahead = self._eof = False
        self._backlog = bytearray()
        self.unsent: deque[bytes | memoryview] = deque()

    def begin(self) -> None:
        """Begin the conversation."""
        self._read(on=True)
        self._go_on(self.resume, None)

    def _take_turn(self, step: Callable[[Any], Effect], value: object) -> None:
        """Make the work that performs the conversation from here on."""
        self._turn = Turn()
        self.work: Work = self._perform(self._turn, step, value)
        self.resume = self.work.send

    def _go_on(self, step: Callable[[Any], object], value: object) -> None:
        """Carry the conversation on, up to where it waits."""
        self._server.office.take(((self, step, value),))

    def attended(self, attendant: Attendant) -> None:
        """Look after a callback that does not return at once."""
        self._attendant = attendant
        self._watch()

    # --- receiving

    def _read(self, *, on: bool) -> None:
        if on != self._reads:
            self._reads = on
            if on:
                self._server.readers.add(self.fd, self)
            else:
                self._server.readers.remove(self.fd)

    def arrived(self, data: bytes) -> Step | None:
        """Take what has arrived; return the step that it allows, or None where a callback is still running."""
        self.read_size = READ_SIZE if len(data) < READ_SIZE else LONG_READ_SIZE
        if self.waiting:
            self.waiting = False
            return self, self.resume, data
        self._ahead = True
        self._backlog += data
        self._eof = not data
        if self._eof or len(self._backlog) > _BACKLOG:
            self._read(on=False)
        return None

    def lost(self, error: OSError) -> Step | None:
        """Take note that the MTA has gone."""
        if self.waiting:
            self.waiting = False
            return self, self.work.throw, error
        self._ahead = self._eof = True
        self._read(on=False)
        return None

    def _take_backlog(self) -> bytes:
        data = bytes(self._backlog)
        self._backlog.clear()
        self._ahead = self._eof
        if not self._eof:
            self._read(on=True)
        return data

    # --- sending

    def answer_later(self, rest: bytes) -> None:
        """Wait until the MTA has taken the rest of an answer; what it sends meanwhile has to wait too."""
        self.unsent.append(rest)
        self._write(on=True)
        self.waiting = False
        self._wait_for_room()

    def answer_failed(self, error: OSError) -> None:
        """Go on without the MTA, which did not take an answer."""
        self.waiting = False
        self._server.loop.call_soon(self._go_on, self.work.throw, error)  # this may be a task

    def _wait_for_room(self) -> None:
        """Give the MTA time to take all."""
        self._sending = True
        self.deadline = time.monotonic() + self._server.limits.frame_time

    def _has_sent(self, data: bytes) -> bool:
        """Send; return False where the MTA is to take the rest first."""
        self.unsent.append(data)
        self._send_unsent()
        return not self.unsent

    def _send_unsent(self) -> None:
        """Send what the MTA takes at once, the rest when it takes more."""
        while self.unsent:
            piece = self.unsent[0]
            try:
                sent = self.socket.send(piece)
            except BlockingIOError:
                sent = 0
            if sent < len(piece):
                self.unsent[0] = memoryview(piece)[sent:]
                self._write(on=True)
                return
            self.unsent.popleft()
        self._write(on=False)

    def _go_on_sending(self) -> None:
        step: Callable[[Any], object] = self.resume
        value: object = None
        try:
            self._send_unsent()
        except OSError as error:
            self._stop_sending()
            step, value = self.work.throw, error
        if self._sending and not self.unsent:
            self._sending = False
            self._go_on(step, value)

    def _stop_sending(self) -> None:
        self.unsent.clear()
        self._write(on=False)

    def _write(self, *, on: bool) -> None:
        if on != self._writes:
            self._writes = on
            if on:
                self._server.loop.add_writer(self.fd, self._go_on_sending)
            else:
                self._server.loop.remove_writer(self.fd)

    def _write_soon(self, data: bytes) -> None:
        """Send from any thread. What comes later waits for it: no progress frame may follow the verdict."""
        self.unsent.append(data)
        if threading.get_ident() == self._server.loop_thread:
            self._go_on_sending()
        else:
            self._server.loop.call_soon_threadsafe(self._go_on_sending)

    # --- performing

    @coroutine
    def _perform(  # noqa: C901  # one piece, since it runs for every header of every mail
        self, turn: Turn, step: Callable[[Any], Effect], value: object
    ) -> Work:
        """Perform the conversation to its end, or until a callback is late."""
        office, is_coroutine = self._server.office, self._server.is_coroutine
        talk, resume, leave_answer = self._talk, self._talk.send, self._server.answers.append
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
            step, kind = resume, type(effect)
            try:
                if kind is Receive:
                    if self._ahead:
                        value = yield from self._taken_from_backlog(effect.answer)
                        continue
                    if effect.answer:
                        leave_answer((self, effect.answer))
                    elif self._tcp:
                        acknowledge(self.socket)
                    timeout = effect.timeout
                    self.deadline = _NEVER if timeout is None else office.now + timeout
                    self.waiting = True
                    value = yield PARKED
                    if value is None:  # the MTA was slow to take the answer
                        value = yield from self._received(timeout)
                    continue
                if kind is Call:
                    self._call = effect
                    timeout = effect.timeout
                    effect.deadline = None if timeout is None else office.now + timeout
                    if is_coroutine[effect.function]:
                        awaitable = effect.function(*effect.arguments)
                        if type(awaitable) is not _COROUTINE:
                            awaitable = awaitable.__await__()
                        value = yield from awaitable
                    else:
                        value = yield from self._call_in_pool(effect, turn)
                elif not self._has_sent(effect.data):
                    yield from self._sent()
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                step = talk.throw
                value = CallFailed(error) if kind is Call else error
            if turn.late is not None:  # first: the call that is under way may be its successor's
                self._server.finish(turn.late)
                return
            self._call = None

    def _taken_from_backlog(self, answer: bytes) -> Generator[object, Any, bytes]:
        """Answer, then take what has come while a callback ran."""
        if answer and not self._has_sent(answer):
            yield from self._sent()
        return self._take_backlog()

    def _received(self, timeout: float | None) -> Generator[object, Any, bytes]:
        """Take what has come, or wait for it."""
        if self._ahead:
            return self._take_backlog()
        self.deadline = _NEVER if timeout is None else time.monotonic() + timeout
        self.waiting = True
        data: bytes = yield PARKED
        return data

    def _sent(self) -> Work:
        """Wait until the MTA has taken all."""
        self._wait_for_room()
        yield PARKED

    def _call_in_pool(self, call: Call, turn: Turn) -> Generator[object, Any, Any]:
        """Call a callback in a thread."""
        work, loop, context = self.work, self._server.loop, contextvars.copy_context()
        function, arguments = call.function, call.arguments

        def job() -> None:
            turn.thread = threading.get_ident()
            step: Callable[[Any], Any] = work.send
            try:
                value = context.run(function, *arguments)
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                step, value = work.throw, error
            with contextlib.suppress(RuntimeError):  # the loop is closed, the service has ended
                loop.call_soon_threadsafe(self._go_on, step, value)

        # Who carried this on before may have other work when the callback is late.
        self._attendant = None
        self._job = job
        self._server.pool.submit(job)
        self._watch()
        try:
            return (yield PARKED)
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
            self._go_on(self.work.throw, error)  # it has not begun, and never will
        self._take_turn(self._talk.throw, error)
        self._go_on(self.resume, None)

    def _stack(self) -> str:
        """Return where the callback is, for the log."""
        if not self._turn.thread:
            return stack_of(self.work)
        frame = sys._current_frames().get(self._turn.thread)  # noqa: SLF001  # the documented way to see another thread's stack
        return "".join(traceback.format_stack(frame)) if frame else ""

    # --- the end

    def time_out(self) -> None:
        """End the connection where its time is over."""
        if min(self.deadline, self.until) > time.monotonic():
            return
        if self.waiting or self._sending:
            what = "nothing came from the MTA" if self.waiting else "the MTA takes no more"
            self.waiting = self._sending = False
            self._stop_sending()
            self._go_on(self.work.throw, MilterTimeout(f"{what} for too long"))

    def abandon(self) -> None:
        """Close, and wait no longer for a callback that does not return."""
        self._turn.late = Late()
        self._close()

    def _close(self) -> None:
        self._server.forget(self)  # first: the MTA's next connection finds the place free
        self._read(on=False)
        self._stop_sending()
        self.fd = -1
        self.socket.close()


def send_answers(answers: list[tuple[Connection, bytes]]) -> None:
    """Send, and take from the list, what conversations have left behind when they began to wait for more from their MTAs."""
    try:
        for connection, answer in answers:
            try:
                sent = 0 if connection.unsent else os.write(connection.fd, answer)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                connection.answer_failed(error)
                continue
            if sent != len(answer):
                connection.answer_later(answer[sent:])
    finally:
        answers.clear()
