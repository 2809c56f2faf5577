from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pmilter.dispatchers.eager import Attendant

Ended = list[tuple[object, BaseException | None]]


async def make() -> tuple[Attendant, Ended, asyncio.Event]:
    ended: Ended = []
    event = asyncio.Event()

    def done(result: object, error: BaseException | None) -> None:
        ended.append((result, error))
        event.set()

    return Attendant(asyncio.get_running_loop(), done), ended, event


async def begin(attendant: Attendant, coroutine: Any) -> object:
    """Start a coroutine as the loop does, outside of all tasks; return its result or error, or None where it waits."""
    outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def start() -> None:
        try:
            attendant.start(coroutine)
        except StopIteration as stop:
            outcome.set_result(stop.value)
        except BaseException as error:  # to be looked at
            outcome.set_result(error)
        else:
            outcome.set_result(None)

    asyncio.get_running_loop().call_soon(start)
    return await outcome


def test_coroutine_that_does_not_wait_ends_at_once() -> None:
    async def quick() -> str:
        return "result"

    async def main() -> None:
        attendant, ended, _ = await make()
        assert await begin(attendant, quick()) == "result"
        assert ended == []
        attendant.cancel()

    asyncio.run(main())


def test_what_it_raises_at_once_is_raised() -> None:
    async def broken() -> None:
        raise KeyError("broken")

    async def main() -> None:
        attendant, _, _ = await make()
        assert isinstance(await begin(attendant, broken()), KeyError)
        attendant.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("pause", [0, 0.001])
def test_coroutine_that_waits_ends_later_and_several_follow_one_another(pause: float) -> None:
    async def slow(number: int) -> int:
        await asyncio.sleep(pause)
        await asyncio.sleep(pause)
        if number == 1:
            raise ValueError(number)
        return number

    async def main() -> None:
        attendant, ended, event = await make()
        for number in range(3):
            event.clear()
            await begin(attendant, slow(number))
            await event.wait()
        assert [result for result, _ in ended] == [0, None, 2]
        assert [type(error) for _, error in ended] == [type(None), ValueError, type(None)]
        attendant.cancel()

    asyncio.run(main())


def test_the_task_is_the_same_before_and_after_it_waits() -> None:
    tasks: list[Any] = []

    async def timed() -> None:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async def main() -> None:
        attendant, ended, event = await make()
        await begin(attendant, timed())
        await event.wait()
        assert [type(error) for _, error in ended] == [TimeoutError]
        assert tasks[0] is not None
        assert tasks[0] is not asyncio.current_task()
        attendant.cancel()

    asyncio.run(main())


def test_cancelling_ends_what_runs() -> None:
    async def endless() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        attendant, ended, event = await make()
        await begin(attendant, endless())
        await asyncio.sleep(0)
        attendant.cancel()
        await event.wait()
        assert [type(error) for _, error in ended] == [asyncio.CancelledError]

    asyncio.run(main())
