"""Runs coroutines on an asyncio loop so that what does not wait for anything costs no detour through the loop.

Work is a coroutine that waits for the loop's own events by being `parked`. Each step is taken at once, in the name of a task that
otherwise idles; asyncio offers `_enter_task` and `_leave_task` for this ("Extending asyncio"). Only where the work waits for something
of asyncio's does that task carry it on, until it parks again. Python 3.12's eager tasks do the same, at the price of a task a call.
"""

from __future__ import annotations

import asyncio
import traceback
import types
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

    Work = Coroutine[Any, Any, None]
    """To be run by `Office.step` from its begin, and from each place where it parks."""

_PARKED: Final = object()
_enter_task: Final = asyncio._enter_task  # noqa: SLF001  # documented, see above
_leave_task: Final = asyncio._leave_task  # noqa: SLF001  # documented, see above


@types.coroutine
def parked() -> Generator[object, Any, Any]:
    """Wait, within work, for the next `Office.step`; return what that sends, or raise what it throws."""
    return (yield _PARKED)


class Office:
    """The attendants of one loop, for all work on it. For the loop's thread.

    Args:
        loop: The running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._idle: list[Attendant] = []

    def step(
        self, work: Work, context: Context, step: Callable[[Any], Any], value: object
    ) -> Attendant | None:
        """Take a step of some work. Must not be called from within a task: a callback of the loop is the place.

        Args:
            work: The work.
            context: What all its steps are run in.
            step: Its `send` or `throw`.
            value: What to send or throw.

        Returns:
            Who carries it on until it parks; None where it has parked, or ended, already.
        """
        loop = self._loop
        attendant = self._idle[-1] if self._idle else self._hire()
        _enter_task(loop, attendant.task)
        try:
            waits_for = context.run(step, value)
        except StopIteration:
            waits_for = _PARKED
        finally:
            _leave_task(loop, attendant.task)
        if attendant.task.cancelling():  # the work itself has asked for that
            self._idle.pop()
            if waits_for is not _PARKED:  # and is to feel it
                return self.step(work, context, work.throw, asyncio.CancelledError())
        elif waits_for is not _PARKED:
            self._idle.pop()
            attendant.take(work, context, waits_for)
            return attendant
        return None

    def _hire(self) -> Attendant:
        attendant = Attendant(self._loop, self._idle)
        self._idle.append(attendant)
        return attendant


class Attendant:
    """A task that carries on what has to wait, one work after the other.

    Args:
        loop: The running loop.
        idle: Where it is to be found when it has nothing to do.

    Attributes:
        task: The task.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, idle: list[Attendant]) -> None:
        self._loop = loop
        self._idle = idle
        self._assignment: asyncio.Future[tuple[Work, Context, object]] = loop.create_future()
        self.task = loop.create_task(self._attend())

    def take(self, work: Work, context: Context, waits_for: object) -> None:
        """Carry some work on that waits for something."""
        self._assignment.set_result((work, context, waits_for))

    def cancel(self) -> None:
        """Cancel what it carries on, and have it end with that."""
        self.task.cancel()

    async def _attend(self) -> None:
        try:
            while not self.task.cancelling():
                await _carried_on(*await self._assignment)
                self._assignment = self._loop.create_future()
                self._idle.append(self)
        finally:
            if self in self._idle:
                self._idle.remove(self)


@types.coroutine
def _carried_on(work: Work, context: Context, waits_for: object) -> Generator[Any, Any, None]:
    """Go on with work until it parks or ends."""
    while waits_for is not _PARKED:
        step: Callable[[Any], Any] = work.send
        try:
            value = yield waits_for
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  # cancellation and the like belong to the coroutine
            step, value = work.throw, error
        try:
            waits_for = context.run(step, value)
        except StopIteration:
            return


def stack_of(work: Any) -> str:
    """Return where work, and the coroutines that it waits for, stand now, as text for the log."""
    lines: list[str] = []
    while work is not None:
        frame = getattr(work, "cr_frame", None)
        if frame is not None:
            lines += traceback.format_stack(frame, 1)
        work = getattr(work, "cr_await", None)
    return "".join(lines)
