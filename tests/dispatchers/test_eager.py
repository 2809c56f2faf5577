from __future__ import annotations

import asyncio
import contextvars
import gc
import time
from types import coroutine
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.dispatchers.eager import PARKED, Attendant, Office, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pmilter.dispatchers.eager import Run, Work

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Bench:
    """Some work, and steps of it, taken as the loop takes them: outside of all tasks."""

    def __init__(self, work: Work, office: Office | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.office = office or Office(self.loop)
        self.run: Run = contextvars.copy_context().run
        self.work = work
        self.attendant: Attendant | None = None

    def attended(self, attendant: Attendant) -> None:
        self.attendant = attendant

    async def send(self, value: object = None) -> Attendant | None:
        return await self.step(self.work.send, value)

    async def step(self, step: Callable[[Any], Any], value: object) -> Attendant | None:
        self.attendant = None
        await outside_of_tasks(self.office.take, ((self, step, value),))
        return self.attendant


async def outside_of_tasks(function: Callable[..., object], *arguments: object) -> None:
    called = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_soon(function, *arguments)
    loop.call_soon(called.set)
    await called.wait()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # whatever sets an event would be what is tested
        await asyncio.sleep(0)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())
    gc.collect()


def test_work_that_does_not_wait_goes_from_parking_place_to_parking_place_at_once() -> None:
    seen: list[object] = []

    async def quick(value: object) -> None:
        seen.append(value)

    @coroutine
    def work() -> Work:
        for _ in range(2):
            yield from quick((yield PARKED))

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

    @coroutine
    def work() -> Work:
        try:
            yield PARKED
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

    async def slow(number: object) -> None:
        await asyncio.sleep(pause)
        await asyncio.sleep(pause)
        if number == 1:
            raise ValueError(number)
        seen.append(number)

    @coroutine
    def work() -> Work:
        while True:
            try:
                yield from slow((yield PARKED))
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

    async def timed() -> None:
        tasks.append(asyncio.current_task())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        tasks.append(asyncio.current_task())
        done.set()

    @coroutine
    def work() -> Work:
        yield from timed()

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

    @coroutine
    def work() -> Work:
        variable.set("set")
        yield from asyncio.sleep(0)
        seen.append(variable.get())
        variable.set("changed")
        waited.set()
        yield PARKED
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

    @coroutine
    def work() -> Work:
        yield from event.wait()

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

    @coroutine
    def work() -> Work:
        try:
            yield from asyncio.sleep(60)
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

    @coroutine
    def work() -> Work:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            yield from asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
        yield PARKED
        yield from asyncio.sleep(0)
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

    @coroutine
    def work() -> Work:
        try:
            yield from asyncio.sleep(60)
        finally:
            seen.append("cancelled")

    async def main() -> None:
        assert await Bench(work()).send() is not None

    run(main)
    assert seen == ["cancelled"]


def test_steps_are_taken_in_turn_and_one_that_waits_or_fails_keeps_none_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    async def nap() -> None:
        task = asyncio.current_task()
        await asyncio.sleep(0)
        seen.append("napped")
        assert asyncio.current_task() is task

    @coroutine
    def quick() -> Work:
        seen.append("quick")
        yield PARKED

    @coroutine
    def slow() -> Work:
        seen.append("slow")
        yield from nap()

    async def fail() -> None:
        raise KeyError("wrong")

    @coroutine
    def wrong() -> Work:
        yield from fail()

    async def main() -> None:
        office = Office(asyncio.get_running_loop())
        benches = [Bench(work(), office) for work in (slow, quick, slow, wrong, quick)]
        await outside_of_tasks(office.take, [(bench, bench.work.send, None) for bench in benches])
        assert seen == ["slow", "quick", "slow", "quick"]
        first, _, second, *_ = (bench.attendant for bench in benches)
        assert [bench.attendant is None for bench in benches] == [False, True, False, True, True]
        assert first is not second
        await asyncio.wait_for(until(lambda: seen.count("napped") == 2), 10)

    run(main)
    assert "error in pmilter itself" in caplog.messages


def test_what_comes_afterwards_is_called_after_all_steps_and_after_what_an_attendant_carried_on() -> (
    None
):
    seen: list[str] = []

    @coroutine
    def work() -> Work:
        seen.append("first")
        yield PARKED
        yield from asyncio.sleep(0)
        seen.append("carried on")
        yield PARKED

    async def main() -> None:
        office = Office(asyncio.get_running_loop(), lambda: seen.append("afterwards"))
        benches = [Bench(work(), office) for _ in range(2)]
        await outside_of_tasks(office.take, [(bench, bench.work.send, None) for bench in benches])
        assert seen == ["first", "first", "afterwards"]
        seen.clear()
        await benches[0].send()
        await asyncio.wait_for(until(lambda: "carried on" in seen), 10)
        assert seen == ["afterwards", "carried on", "afterwards"]

    run(main)


def test_time_is_told_anew_when_work_has_waited() -> None:
    told: list[float] = []
    office: Any = None

    @coroutine
    def work() -> Work:
        told.append(office.now)
        yield from asyncio.sleep(0.02)
        told.append(office.now)

    async def main() -> None:
        nonlocal office
        office = Office(asyncio.get_running_loop())
        before = time.monotonic()
        await Bench(work(), office).send()
        await asyncio.wait_for(until(lambda: len(told) == 2), 10)
        assert before <= told[0] <= told[1] - 0.01
        assert told[1] <= time.monotonic()

    run(main)


def test_stack_tells_where_the_innermost_coroutine_waits() -> None:
    async def inner() -> None:
        await asyncio.sleep(0)  # the place

    @coroutine
    def work() -> Work:
        yield from inner()

    waiting = work()
    waiting.send(None)
    text = stack_of(waiting)
    assert text.index("in work") < text.index("in inner") < text.index("# the place")
    waiting.close()
