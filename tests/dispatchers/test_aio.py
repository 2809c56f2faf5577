from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from pmilter import Context, Limits, Milter, Reply, asyncio_dispatcher
from pmilter.errors import ConfigError
from pmilter.testing.rig.serve import serve
from tests.support.processes import DEADLINE
from tests.support.wire import Wire

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c"


def filter_with(limits: Limits | None = None, **callbacks: Any) -> Milter:
    milter = Milter("looped", limits=limits)
    for stage, function in callbacks.items():
        on: Any = milter.on
        on(stage)(function)
    return milter


def test_coroutine_callbacks_run_on_the_loop_that_calls_main() -> None:
    threads: list[threading.Thread] = []

    async def envfrom(_ctx: Context, _sender: str, *_: str) -> Reply:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return Reply(451, None, "later")

    def helo(_ctx: Context, _name: str) -> None:
        threads.append(threading.current_thread())

    with serve(filter_with(envfrom=envfrom, helo=helo), dispatcher=asyncio_dispatcher()) as address:
        with Wire(str(address)) as wire:
            wire.play(SESSION + "\n>> M <a@x>␀\n<< y 451 later␀")
        in_pool, on_loop = threads
        assert in_pool is not on_loop
        assert in_pool.name.startswith("pmilter")


def test_a_coroutine_that_waits_does_not_hold_up_other_connections() -> None:
    async def envfrom(_ctx: Context, sender: str, *_: str) -> None:
        if sender == "<slow@x>":
            await go.wait()

    go: Any = None

    async def connect(_ctx: Context, *_: object) -> None:
        nonlocal go
        go = go or asyncio.Event()

    async def helo(_ctx: Context, name: str) -> None:
        if name == "go":
            go.set()

    milter = filter_with(connect=connect, helo=helo, envfrom=envfrom)
    with serve(milter, dispatcher=asyncio_dispatcher()) as address:
        with Wire(str(address)) as slow, Wire(str(address)) as quick:
            slow.play(SESSION + "\n>> M <slow@x>␀")
            quick.play(SESSION + "\n>> M <quick@x>␀\n<< c\n>> A\n>> H go␀\n<< c")
            slow.play("<< c")


def test_a_late_coroutine_is_cancelled_and_the_connection_goes_on() -> None:
    cancelled: list[bool] = []

    async def envfrom(_ctx: Context, sender: str, *_: str) -> None:
        if sender == "<slow@x>":
            try:
                await asyncio.sleep(DEADLINE)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

    milter = filter_with(Limits(command_time=0.1), envfrom=envfrom)
    with serve(milter, dispatcher=asyncio_dispatcher()) as address, Wire(str(address)) as wire:
        wire.play(SESSION + "\n>> M <slow@x>␀\n<< t")
        answer = "t"
        while answer == "t":  # the end of the cancelled one and our command race
            wire.play(">> M <quick@x>␀")
            answer = wire.answer()
        assert answer == "c"
    assert cancelled == [True]


def test_callbacks_of_one_connection_in_the_pool_see_the_variables_of_the_loop() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []
    variable.set("set")

    def helo(_ctx: Context, _name: str) -> None:
        seen.append(variable.get())
        variable.set("changed")

    milter = filter_with(helo=helo)
    milter.setconn("inet:0@127.0.0.1")
    milter.set_dispatcher(asyncio_dispatcher())
    address = str(milter.address)
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(milter.main,))
    thread.start()
    with Wire(address) as wire:
        wire.play(SESSION + "\n>> H again␀\n<< c")
    milter.stop()
    thread.join(DEADLINE)
    assert seen == ["set", "set"]


def test_bytes_that_come_while_a_callback_runs_are_taken_afterwards() -> None:
    async def helo(_ctx: Context, _name: str) -> None:
        await asyncio.sleep(0.05)

    with (
        serve(filter_with(helo=helo), dispatcher=asyncio_dispatcher()) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(
            ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H 1␀\n>> H 2␀\n>> H 3␀\n<< c\n<< c\n<< c"
        )


@pytest.mark.parametrize("threads", [0, -1, "4", True])
def test_wrong_number_of_threads_is_named(threads: Any) -> None:
    with pytest.raises(ConfigError, match="threads"):
        asyncio_dispatcher(threads=threads)


def test_coroutine_callbacks_are_served_by_asyncio_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pmilter.dispatchers.registry import choose_dispatcher

    monkeypatch.delenv("PMILTER_DISPATCHER", raising=False)

    async def eom(_ctx: Context) -> None: ...

    milter = filter_with(eom=eom)
    assert getattr(choose_dispatcher(milter), "runs_coroutines", False)
    monkeypatch.setenv("PMILTER_DISPATCHER", "ithread")
    with pytest.raises(ConfigError, match="eom"):
        choose_dispatcher(milter)
