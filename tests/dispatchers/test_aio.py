from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from pmilter import Context, Limits, Milter, Reply, asyncio_dispatcher
from pmilter.errors import ConfigError
from pmilter.testing.rig.serve import serve
from tests.support.processes import DEADLINE
from tests.support.waiting import until
from tests.support.wire import Wire

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c"


def filter_with(**callbacks: Any) -> Milter:
    milter = Milter("looped")
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


HANGING = """
import threading
from pmilter import Limits, Milter, asyncio_dispatcher
milter = Milter("hangs", limits=Limits(command_time=0.1, grace=0.1))
@milter.on("helo")
def helo(ctx, name):
    threading.Event().wait()
milter.set_dispatcher(asyncio_dispatcher())
milter.setconn("inet:0@127.0.0.1")
print(milter.address, flush=True)
milter.main()
print("main has returned", flush=True)
"""


def test_callback_that_hangs_in_its_thread_does_not_keep_the_process_from_ending() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANGING], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        try:
            with Wire(run.stdout.readline().strip()) as wire:
                wire.play(SESSION.removesuffix("<< c") + "<< t")
            run.terminate()
            assert run.stdout.readline() == "main has returned\n"
            assert run.wait(DEADLINE / 2) == 0
        finally:
            run.kill()


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_what_a_close_that_waited_for_a_late_callback_raises_is_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    go = threading.Event()

    def helo(_ctx: Context, _name: str) -> None:
        go.wait(DEADLINE)

    def close(_ctx: Context) -> None:
        raise ValueError("of the close callback")

    async def close_later(ctx: Context) -> None:
        await asyncio.sleep(0)
        close(ctx)

    def told() -> bool:
        return any(record.exc_text or record.exc_info for record in caplog.records)

    milter = filter_with(helo=helo, close=close if kind == "function" else close_later)
    milter.set_limits(Limits(command_time=0.1))
    with serve(milter, dispatcher=asyncio_dispatcher()) as address:
        with Wire(str(address)) as wire:
            wire.play(SESSION.removesuffix("<< c") + "<< t\n>> Q\n<< EOF")
        go.set()
        until(told)
    assert "the close callback failed" in caplog.messages
    assert "of the close callback" in caplog.text


@pytest.mark.parametrize(
    ("threads", "error"), [(0, ConfigError), (-1, ConfigError), ("4", TypeError), (True, TypeError)]
)
def test_wrong_number_of_threads_is_named(threads: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="threads"):
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


def test_uvloop_serves_as_the_stock_loop_does() -> None:
    loops: list[str] = []

    async def helo(_ctx: Context, _name: str) -> None:
        loops.append(type(asyncio.get_running_loop()).__module__)

    async def envfrom(_ctx: Context, _sender: str, *_: str) -> None:
        await asyncio.sleep(0.01)

    milter = filter_with(helo=helo, envfrom=envfrom, envrcpt=lambda *_: None)
    with serve(milter, dispatcher=asyncio_dispatcher(uvloop=True)) as address:
        with Wire(str(address)) as wire:
            wire.play(SESSION + "\n>> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> Q\n<< EOF")
    assert loops == ["uvloop"]


def test_uvloop_that_is_not_installed_is_asked_for_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ConfigError, match=r"pmilter\[uvloop\]"):
        asyncio_dispatcher(uvloop=True)
