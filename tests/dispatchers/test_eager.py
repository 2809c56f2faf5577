from __future__ import annotations

import asyncio
import contextvars
import gc
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.dispatchers.eager import Attendant, Office, parked, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Bench:
    """An office, some work, and steps taken as the loop takes them: outside of all tasks."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.office = Office(self.loop)
        self.context = contextvars.copy_context()
        self.work = work

    async def send(self, value: object = None) -> Attendant | None:
        return await self.step(self.work.send, value)

    async def step(self, step: Callable[[Any], Any], value: object) -> Attendant | None:
        taken: asyncio.Future[Attendant | None] = self.loop.create_future()

        def take() -> None:
            taken.set_result(self.office.step(self.work, self.context, step, value))

        self.loop.call_soon(take)
        return await taken


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())
    gc.collect()


def test_work_that_does_not_wait_goes_from_parking_place_to_parking_place_at_once() -> None:
    seen: list[object] = []

    async def quick(value: object) -> object:
        return value

    async def work() -> None:
        for _ in range(2):
            seen.append(await quick(await parked()))

    async def main() -> None:
        bench = Bench(work())
        assert await bench.send() is None
        assert await bench.send("first") is None
        assert seen == ["first"]
        assert await bench.send("second") is None
        assert seen == ["first", "second"]

    run(main)


def test_what_is_thrown_arrives_where_the_work_is_parked() -> None:
    caught: list[BaseException] = []

    async def work() -> None:
        try:
            await parked()
        except KeyError as error:
            caught.append(error)

    async def main() -> None:
        bench = Bench(work())
        await bench.send()
        error = KeyError("broken")
        assert await bench.step(bench.work.throw, error) is None
        assert caught == [error]

    run(main)


@pytest.mark.parametrize("pause", [0, 0.001])
def test_work_that_waits_is_carried_on_to_where_it_parks(pause: float) -> None:
    done: Any = None
    seen: list[object] = []

    async def slow(number: object) -> object:
        await asyncio.sleep(pause)
        await asyncio.sleep(pause)
        if number == 1:
            raise ValueError(number)
        return number

    async def work() -> None:
        while True:
            try:
                seen.append(await slow(await parked()))
            except ValueError as error:
                seen.append(type(error))
            done.set()

    async def main() -> None:
        nonlocal done
        done = asyncio.Event()
        bench = Bench(work())
        await bench.send()
        for number in range(3):
            done.clear()
            assert await bench.send(number) is not None
            await done.wait()
        assert seen == [0, ValueError, 2]

    run(main)


def test_task_is_the_same_before_and_after_the_work_waits() -> None:
    done: Any = None
    tasks: list[Any] = []

    async def work() -> None:
        tasks.append(asyncio.current_task())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        tasks.append(asyncio.current_task())
        done.set()

    async def main() -> None:
        nonlocal done
        done = asyncio.Event()
        await Bench(work()).send()
        await done.wait()
        assert tasks[0] is tasks[1]
        assert tasks[0] not in (None, asyncio.current_task())

    run(main)


def test_all_steps_run_in_the_context_of_the_work() -> None:
    done: Any = None
    waited: Any = None
    seen: list[str] = []

    async def work() -> None:
        variable.set("set")
        await asyncio.sleep(0)
        seen.append(variable.get())
        variable.set("changed")
        waited.set()
        await parked()
        seen.append(variable.get())
        done.set()

    async def main() -> None:
        nonlocal done, waited
        done, waited = asyncio.Event(), asyncio.Event()
        bench = Bench(work())
        await bench.send()
        await waited.wait()
        await bench.send()
        await done.wait()
        assert seen == ["set", "changed"]
        assert variable.get() == "unset"

    run(main)


def test_works_that_wait_at_the_same_time_have_an_attendant_each_who_then_serve_others() -> None:
    event: Any = None

    async def work() -> None:
        await event.wait()

    async def main() -> None:
        nonlocal event
        event = asyncio.Event()
        bench = Bench(work())
        first = await bench.send()
        bench.work = work()
        second = await bench.send()
        assert first is not second
        event.set()
        await asyncio.sleep(0.01)
        event.clear()
        bench.work = work()
        assert await bench.send() in (first, second)
        event.set()
        await asyncio.sleep(0.01)

    run(main)


def test_cancelling_reaches_the_work_and_is_the_end_of_the_attendant() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")

    async def main() -> None:
        attendant = await Bench(work()).send()
        assert attendant is not None
        attendant.cancel()
        await asyncio.wait({attendant.task}, timeout=10)
        assert attendant.task.done()
        assert seen == ["cancelled"]

    run(main)


def test_work_that_cancels_its_own_task_is_cancelled_where_it_waits_next() -> None:
    done: Any = None
    seen: list[str] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
        await parked()
        await asyncio.sleep(0)
        done.set()

    async def main() -> None:
        nonlocal done
        done = asyncio.Event()
        bench = Bench(work())
        assert await bench.send() is None
        assert seen == ["cancelled"]
        await bench.send()
        await asyncio.wait_for(done.wait(), 10)

    run(main)


def test_end_of_the_loop_cancels_what_waits() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("cancelled")

    async def main() -> None:
        assert await Bench(work()).send() is not None

    run(main)
    assert seen == ["cancelled"]


def test_stack_tells_where_the_innermost_coroutine_waits() -> None:
    async def inner() -> None:
        await parked()  # the place

    async def work() -> None:
        await inner()

    waiting = work()
    waiting.send(None)
    text = stack_of(waiting)
    assert text.index("in work") < text.index("in inner") < text.index("# the place")
    waiting.close()
