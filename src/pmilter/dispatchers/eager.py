"""Runs coroutines on an asyncio loop so that what does not wait for anything costs no detour through the loop.

Work is a coroutine that waits for the loop's own events by yielding `PARKED`. Each step is taken at once, in the name of a task that
otherwise idles; asyncio offers `_enter_task` and `_leave_task` for this ("Extending asyncio"). Only where the work waits for something
of asyncio's does that task carry it on, until it parks again. Python 3.12's eager tasks do the same, at the price of a task a call.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    Work = Generator[object, Any, None]
    """Made by a function with the decorator `types.coroutine`."""

    Run = Callable[[Callable[[Any], object], object], object]

    Step = tuple["Worker", Callable[[Any], object], object]
    """Whose work it is, its `send` or `throw`, and what to send or throw."""

logger: Final = logging.getLogger("pmilter")

PARKED: Final = object()
"""What work yields to wait for its next `Step`."""

_enter_task: Final = asyncio._enter_task  # noqa: SLF001  # documented, see above
_leave_task: Final = asyncio._leave_task  # noqa: SLF001  # documented, see above


class Worker(Protocol):
    """Who has work to be done.

    Attributes:
        work: It.
        run: Takes a step of it in its context: the `run` of a `contextvars.Context`.
    """

    work: Work
    run: Run

    def attended(self, attendant: Attendant) -> None:
        """Take note of who carries the work on until it parks, where that is not at once."""


class Office:
    """The attendants of one loop, for all work on it. For the loop's thread.

    Args:
        loop: The running loop.
        afterwards: Called when work has been done: some steps, or what an attendant has carried on.

    Attributes:
        loop: The same.
        afterwards: The same.
        idle: The attendants that have nothing to do.
        now: Time (`time.monotonic`) when the work that is being done was taken up, or had last waited for something.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, afterwards: Callable[[], object] = lambda: None
    ) -> None:
        self.loop = loop
        self.afterwards = afterwards
        self.idle: list[Attendant] = []
        self.now = 0.0

    def take(self, steps: Iterable[Step]) -> None:
        """Take some steps, one after the other. Must not be called from within a task: a callback of the loop is the place."""
        self.now = time.monotonic()
        loop, task = self.loop, self._on_duty()
        _enter_task(loop, task)
        try:
            for worker, step, value in steps:
                run = worker.run
                try:
                    waits_for = run(step, value)
                except StopIteration:
                    waits_for = PARKED
                except Exception:  # it is no business of the others
                    logger.exception("error in pmilter itself")
                    waits_for = PARKED
                if waits_for is not PARKED or task.cancelling():
                    _leave_task(loop, task)
                    self._hand_over(worker, waits_for)
                    task = self._on_duty()
                    _enter_task(loop, task)
        finally:
            _leave_task(loop, task)
        self.afterwards()

    def _on_duty(self) -> asyncio.Task[None]:
        """Return the task that steps are taken in the name of."""
        if not self.idle:
            self.idle.append(Attendant(self))
        return self.idle[-1].task

    def _hand_over(self, worker: Worker, waits_for: object) -> None:
        """Have the attendant on duty carry work on, unless the work has cancelled its task."""
        attendant = self.idle.pop()
        if not attendant.task.cancelling():
            attendant.take(worker, waits_for)
            worker.attended(attendant)
        elif waits_for is not PARKED:  # it is to feel it
            self.take(((worker, worker.work.throw, asyncio.CancelledError()),))


class Attendant:
    """A task that carries on what has to wait, one work after the other.

    Args:
        office: Where it is employed.

    Attributes:
        task: The task.
    """

    def __init__(self, office: Office) -> None:
        self._office = office
        self._assignment: asyncio.Future[tuple[Work, Run, object]] = office.loop.create_future()
        self.task = office.loop.create_task(self._attend())

    def take(self, worker: Worker, waits_for: object) -> None:
        """Carry some work on that waits for something."""
        self._assignment.set_result((worker.work, worker.run, waits_for))

    def cancel(self) -> None:
        """Cancel what it carries on, and have it end with that."""
        self.task.cancel()

    async def _attend(self) -> None:
        office = self._office
        try:
            while not self.task.cancelling():
                await _carried_on(office, *await self._assignment)
                self._assignment = office.loop.create_future()
                office.idle.append(self)
                office.afterwards()
        finally:
            if self in office.idle:
                office.idle.remove(self)


@coroutine
def _carried_on(
    office: Office, work: Work, run: Run, waits_for: object
) -> Generator[Any, Any, None]:
    """Go on with work until it parks or ends."""
    while waits_for is not PARKED:
        step: Callable[[Any], Any] = work.send
        try:
            value = yield waits_for
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001  # cancellation and the like belong to the work
            step, value = work.throw, error
        office.now = time.monotonic()
        try:
            waits_for = run(step, value)
        except StopIteration:
            return


def stack_of(work: Any) -> str:
    """Return where work, and the coroutines that it waits for, stand now, as text for the log."""
    lines: list[str] = []
    while work is not None:
        frame = getattr(work, "cr_frame", None) or getattr(work, "gi_frame", None)
        if frame is not None:
            lines += traceback.format_stack(frame, 1)
        work = getattr(work, "cr_await", None) or getattr(work, "gi_yieldfrom", None)
    return "".join(lines)
