"""Answers in time for callbacks that do not return, on blocking sockets.

Python cannot interrupt a thread. So one thread of the process, the `Watch`, looks at the calls under way; where one runs out of
time it starts another thread that carries the conversation on, and the callback's own thread, when it returns at last,
finds that the connection is no longer its business. At end of message the watch also sends progress.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import traceback
from _thread import start_new_thread
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.scoreboard import MARGIN
from pmilter.effects import Late
from pmilter.errors import MilterError
from pmilter.outcomes import CallFailed, CallTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.effects import Call
    from pmilter.limits import Limits

logger: Final = logging.getLogger("pmilter")

_SLOWEST_LOOK: Final = 0.5
_QUICKEST_LOOK: Final = 0.01
_LOOKS_A_LIMIT: Final = 20
"""Looks within the shortest limit: how far a deadline may be passed."""


_NEVER: Final = float("inf")

Ticket = list["float | Late"]
"""What one thread has under way: the deadline of a call while that runs on its own, a `Late` once it was taken over, else nothing.

Appending and popping are atomic, so that the usual case needs no lock.
"""


class TakenOver(Exception):  # it tells of an event, not of an error
    """Another thread carries the conversation on.

    Attributes:
        late: What is to be finished, on the thread where the late callback ran.
    """

    def __init__(self, late: Late) -> None:
        super().__init__()
        self.late = late


class Slot:
    """The call that one connection has under way. The conversation's thread begins and ends it; the watch may take it over.

    Args:
        take_over: Carries the conversation on with what is to be thrown into it; called on the watch's thread, must not block.
        progress_every: Seconds between two automatic progress frames.
        due: Where to show the parent process by when the call must have ended, see `scoreboard.Row.due`; None to show nothing.
    """

    __slots__ = (
        "_call",
        "_due",
        "_lock",
        "_overdue",
        "_progress_at",
        "_progress_every",
        "_progress_of",
        "_take_over",
        "_thread",
        "_ticket",
    )

    def __init__(
        self,
        take_over: Callable[[CallTimedOut], None],
        progress_every: float,
        due: memoryview[float] | None = None,
    ) -> None:
        self._take_over = take_over
        self._progress_every = progress_every
        self._due = due
        self._lock = threading.Lock()
        self._ticket: Ticket = []
        self._call: Call | None = None
        self._progress_of: object = None
        self._progress_at = 0.0
        self._thread = 0
        self._overdue: CallTimedOut | None = None

    def enter(self) -> Ticket:
        """Return the ticket of the calling thread, which performs the conversation from now on."""
        self._thread = threading.get_ident()
        self._ticket = []
        if self._due is not None:
            self._due[0] = 0.0  # what was taken over is not waited for
        return self._ticket

    def perform(self, call: Call, ticket: Ticket) -> Any:
        """Call a callback on this thread, and return what it returns.

        Raises:
            CallFailed: It has raised something.
            TakenOver: It has returned, or raised, too late.
        """
        self._call = call
        timeout, due = call.timeout, self._due
        if timeout is None:
            call.deadline = None
            ticket.append(_NEVER)
        else:
            deadline = call.deadline = time.monotonic() + timeout
            ticket.append(deadline)
            if due is not None:
                due[0] = deadline + MARGIN
        try:
            return call.function(*call.arguments)
        except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
            raise CallFailed(error) from None
        finally:
            try:
                what = ticket.pop()
            except IndexError:
                with self._lock:  # the watch is just looking at it
                    what = ticket.pop()
            if isinstance(what, Late):
                raise TakenOver(what)
            if due is not None:
                due[0] = 0.0

    def look(self, now: float) -> None:
        """Take the call over where its time is up; send progress where that is due. For the watch."""
        if self._overdue is not None:
            self._hand_over(self._overdue)
            return
        ticket = self._ticket
        with self._lock:
            try:
                deadline = ticket[0]
                if not isinstance(deadline, float):
                    return
                if now < deadline:
                    self._send_progress(now, deadline)
                    return
                taken = ticket.pop()
            except IndexError:  # it has just returned
                return
            if taken is not deadline:  # and another one has begun
                ticket.append(taken)
                return
            late = Late()
            ticket.append(late)
        call = self._call
        if call is not None:
            stack = _stack(self._thread)
            self._hand_over(CallTimedOut(call.stage, call.timeout or 0.0, late, stack))

    def _hand_over(self, error: CallTimedOut) -> None:
        """Have the conversation carried on; where no thread can be started for that, at the next look perhaps."""
        try:
            self._take_over(error)
        except RuntimeError as reason:
            if self._overdue is None:
                logger.error("cannot start a thread: %s; trying again and again", reason)
            self._overdue = error
        else:
            self._overdue = None

    def _send_progress(self, now: float, deadline: float) -> None:
        call = self._call
        if call is None or call.stage != "eom":
            return
        if self._progress_of is not deadline:  # the first look at this call
            self._progress_of = deadline
            self._progress_at = now + self._progress_every
        if now < self._progress_at:
            return
        self._progress_at = now + self._progress_every
        for context in call.arguments[:1]:  # none where the conversation has just ended
            # It may have just returned, or the MTA may have gone.
            with contextlib.suppress(MilterError, OSError):
                context.progress()


def _stack(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # the documented way to see another thread's stack
    return "".join(traceback.format_stack(frame)) if frame else ""


def pause_between_looks(limits: Limits) -> float:
    """Return the seconds between two looks at the calls under way."""
    shortest = min(limits.command_time or 1e9, limits.eom_time or 1e9, limits.progress_time)
    return min(_SLOWEST_LOOK, max(_QUICKEST_LOOK, shortest / _LOOKS_A_LIMIT))


class Watch:
    """Looks after the slots of one process, on a thread of its own that begins with the first slot.

    Args:
        limits: Tell how often to look.
        on_stuck: Called on a connection's thread when its conversation has ended and the late callback still has not returned
            after the grace period; a process that serves nothing else ends itself then.
        due: For a process with one slot: where to show its parent by when the call under way must have ended.
    """

    def __init__(
        self,
        limits: Limits,
        on_stuck: Callable[[], None] | None = None,
        due: memoryview[float] | None = None,
    ) -> None:
        self._pause = pause_between_looks(limits)
        self._progress_time = limits.progress_time
        self._due = due
        self._slots: set[Slot] = set()  # adding, removing and copying are atomic
        self._starting = threading.Lock()
        self._bell = _held()  # released to wake the thread
        self._gone = _held()  # released by the thread at its end
        self._started = False
        self._idle = False
        self._closed = False
        self.grace = limits.grace
        self.on_stuck = on_stuck

    @property
    def shows_due(self) -> bool:
        """Whether it shows the calls under way to the parent process, so that nobody else need."""
        return self._due is not None

    def slot(self, take_over: Callable[[CallTimedOut], None]) -> Slot:
        """Return a slot that is looked after until `forget`.

        Raises:
            RuntimeError: The thread cannot be started.
        """
        if not self._started:
            self._start()
        slot = Slot(take_over, self._progress_time, self._due)
        self._slots.add(slot)
        if self._idle:
            self._ring()
        return slot

    def forget(self, slot: Slot) -> None:
        """Stop looking after a slot."""
        self._slots.discard(slot)

    def close(self) -> None:
        """End the thread, once no slot is left."""
        self._closed = True
        self._ring()
        if self._started and not self._slots:
            with self._gone:
                pass

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                # What `threading` does beyond this costs a child that was forked for one connection more than the thread does.
                start_new_thread(self._run, ())
                self._started = True

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it rings already, or the thread was never started
            self._bell.release()

    def _run(self) -> None:
        try:
            while self._slots or not self._closed:
                self._idle = (
                    True  # before the look at the slots: who adds one looks here afterwards
                )
                self._idle = not self._slots
                self._bell.acquire(timeout=-1 if self._idle else self._pause)
                now = time.monotonic()
                for slot in self._slots.copy():  # which is atomic, as making a tuple of it is not
                    self._look(slot, now)
        finally:
            self._gone.release()

    def _look(self, slot: Slot, now: float) -> None:
        try:
            slot.look(now)
        except Exception:  # the others have deadlines too
            logger.exception("error in pmilter itself")


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
