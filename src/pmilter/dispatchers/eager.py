"""Runs coroutines so that one that does not wait costs no detour through the loop.

The first step is taken at once, in the name of a task that stays with the connection (asyncio offers `_enter_task` and
`_leave_task` for this); only where the coroutine waits does the task carry it on. Python 3.12's eager tasks do the same, at the
price of a task for each call.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator


class Attendant:
    """Runs one coroutine after the other for one connection. For the loop's thread.

    Args:
        loop: The running loop.
        done: Called with result and exception of a coroutine that had to wait, when it ends.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, done: Callable[[object, BaseException | None], None]
    ) -> None:
        self._loop = loop
        self._done = done
        self._context = contextvars.copy_context()
        self._work: asyncio.Future[_Rest] = loop.create_future()
        self._task = loop.create_task(self._attend(), context=self._context)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Take a coroutine's first step. Where this returns, it waits, and `done` will tell its end.

        Must not be called from within a task: a callback of the loop is the place.

        Raises:
            StopIteration: It has ended; the value is its result.
            BaseException: What it raised.
        """
        # Both are documented in "Extending asyncio".
        asyncio._enter_task(self._loop, self._task)  # noqa: SLF001  # as said
        try:
            waits_for = self._context.run(coroutine.send, None)
        finally:
            asyncio._leave_task(self._loop, self._task)  # noqa: SLF001  # as said
        self._work.set_result(_Rest(coroutine, waits_for))

    async def _attend(self) -> None:
        while True:
            rest = await self._work
            self._work = self._loop.create_future()
            try:
                self._tell(await rest, None)
            except asyncio.CancelledError as error:
                self._tell(None, error)
                raise
            except BaseException as error:  # noqa: BLE001  # it is the caller's to deal with
                self._tell(None, error)

    def _tell(self, result: object, error: BaseException | None) -> None:
        """Tell the end outside of the task, so that another coroutine may be started there at once."""
        self._loop.call_soon(self._done, result, error)

    def stack(self) -> list[Any]:
        """Return the frames of the coroutine that waits."""
        return self._task.get_stack()

    def replace(self, done: Callable[[object, BaseException | None], None]) -> None:
        """Have somebody else told about the end of what runs."""
        self._done = done

    def cancel(self) -> None:
        """Cancel what runs; this attendant takes no more work."""
        self._task.cancel()


class _Rest:
    """A coroutine that has taken its first step, to be awaited for the others."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: object) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    value = yield waits_for
                except GeneratorExit:
                    self._coroutine.close()
                    raise
                except BaseException as error:  # noqa: BLE001  # cancellation and the like belong to the coroutine
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(value)
        except StopIteration as stop:
            return stop.value
