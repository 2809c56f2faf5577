from __future__ import annotations

import asyncio
import contextvars
import fcntl
import logging
import socket
import termios
import threading
from array import array
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Limits, Milter, Reply, Status, asyncio_dispatcher
from pmilter.testing.rig.serve import serve
from tests.support.notation import frame
from tests.support.processes import DEADLINE
from tests.support.waiting import until
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

OPENED = "\n>> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c"
SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c"


def filter_with(limits: Limits | None = None, **callbacks: Any) -> Milter:
    milter = Milter("looped", actions=Action(0x1FF), limits=limits)
    for stage, function in callbacks.items():
        on: Any = milter.on
        on(stage)(function)
    return milter


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


def test_more_than_a_little_may_come_while_a_callback_runs() -> None:
    async def helo(_ctx: Context, _name: str) -> None:
        await asyncio.sleep(0.2)

    seen: list[int] = []
    milter = filter_with(helo=helo, header=lambda _ctx, _name, value: seen.append(len(value)))
    with serve(milter, dispatcher=asyncio_dispatcher()) as address, Wire(str(address)) as wire:
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H 1␀")
        wire.play(">> M <a@x>␀\n>> R <b@x>␀\n>> T")
        for _ in range(16):
            wire.send(frame("L", b"a\0" + b"x" * 60_000 + b"\0"))
        wire.play("\n".join(["<< c"] * 20))
    assert seen == [60_000] * 16


# The conversation sends changes of more than 256 KiB by themselves, less of them with the verdict.
@pytest.mark.parametrize("size", [250_000, 8_000_000])
@pytest.mark.parametrize("scheme", ["inet:0@127.0.0.1", "unix"])
def test_an_answer_larger_than_the_socket_takes_at_once_arrives_whole(
    scheme: str, size: int, tmp_path: Path
) -> None:
    async def eom(ctx: Context) -> None:
        ctx.replacebody(b"x" * size)

    address = f"unix:{tmp_path}/s" if scheme == "unix" else scheme
    with (
        serve(filter_with(eom=eom), address, dispatcher=asyncio_dispatcher()) as bound,
        Wire(str(bound)) as wire,
    ):
        wire.play(SESSION + OPENED + "\n>> E")
        received = 0
        while received < size + 5 * (size // 65535 + 1) + 5:
            received += len(wire.sock.recv(1_000_000))
        wire.play(">> Q\n<< EOF")


@pytest.mark.parametrize("early", [True, False])
def test_what_comes_before_an_answer_is_taken_is_answered_after_it(
    early: bool,  # whether it comes while the callback still runs
    tmp_path: Path,
) -> None:
    came: Any = None

    async def eom(ctx: Context) -> None:
        nonlocal came
        came = asyncio.Event()
        loops.append(asyncio.get_running_loop())
        ctx.replacebody(b"x" * 250_000)
        if early:
            await came.wait()

    loops: list[asyncio.AbstractEventLoop] = []
    with (
        serve(filter_with(eom=eom), f"unix:{tmp_path}/s", dispatcher=asyncio_dispatcher()) as at,
        Wire(str(at)) as wire,
    ):
        wire.play(SESSION + OPENED + "\n>> E")
        until(lambda: bool(loops))
        if not early:
            wire.sock.recv(1, socket.MSG_PEEK)
        wire.play(">> M <a@x>␀\n>> R <b@x>␀\n>> T")
        until(lambda: is_received(wire.sock))
        loops[0].call_soon_threadsafe(came.set)
        while (answer := wire.answer()).startswith("b "):
            pass
        assert answer == "c"
        wire.play("<< c\n<< c\n<< c\n>> Q\n<< EOF")


def is_received(sock: socket.socket) -> bool:
    """Return whether the other end has received all that was sent."""
    unread = array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, unread)
    return unread[0] == 0


@pytest.mark.parametrize("size", [250_000, 8_000_000])
def test_peer_that_is_gone_before_it_has_taken_all_is_closed(size: int, tmp_path: Path) -> None:
    async def eom(ctx: Context) -> None:
        ctx.replacebody(b"x" * size)

    async def close(_ctx: Context) -> None:
        closed.set()

    closed = threading.Event()
    milter = filter_with(eom=eom, close=close)
    with serve(milter, f"unix:{tmp_path}/s", dispatcher=asyncio_dispatcher()) as address:
        with Wire(str(address)) as wire:
            wire.play(SESSION + OPENED + "\n>> E")
            wire.sock.recv(1, socket.MSG_PEEK)
        assert closed.wait(DEADLINE)


def test_peer_that_is_gone_before_its_answer_costs_the_others_none(tmp_path: Path) -> None:
    async def helo(_ctx: Context, name: str) -> None:
        if name == "gone":
            gone.close()

    async def close(_ctx: Context) -> None:
        closed.set()

    closed = threading.Event()
    milter = filter_with(helo=helo, close=close)
    with (
        serve(milter, f"unix:{tmp_path}/s", dispatcher=asyncio_dispatcher()) as address,
        Wire(str(address)) as gone,
        Wire(str(address)) as other,
    ):
        other.play(SESSION)
        gone.play(SESSION.replace("H x", "H gone").removesuffix("<< c"))
        assert closed.wait(DEADLINE)
        other.play(">> H x␀\n<< c")


def test_callback_may_give_another_awaitable_than_a_coroutine() -> None:
    async def helo(_ctx: Context, _name: str) -> Reply:
        await asyncio.sleep(0)
        return Reply(451, None, "from a task")

    class Wrapper:
        func = staticmethod(helo)

        def __call__(self, ctx: Context, name: str) -> asyncio.Task[Reply]:
            return asyncio.create_task(helo(ctx, name))

    milter = filter_with(helo=Wrapper())
    with serve(milter, dispatcher=asyncio_dispatcher()) as address, Wire(str(address)) as wire:
        wire.play(SESSION.removesuffix("<< c") + "<< y 451 from a task␀")


@pytest.mark.parametrize("size", [250_000, 8_000_000])
def test_peer_that_takes_no_answer_is_closed(
    size: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level("INFO", "pmilter")

    async def eom(ctx: Context) -> None:
        ctx.replacebody(b"x" * size)

    async def close(_ctx: Context) -> None:
        await asyncio.sleep(0)
        closed.set()

    closed = threading.Event()
    milter = filter_with(Limits(frame_time=0.1), eom=eom, close=close)
    with (
        serve(milter, f"unix:{tmp_path}/s", dispatcher=asyncio_dispatcher()) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(SESSION + OPENED + "\n>> E")
        assert closed.wait(DEADLINE)
    assert any("takes no more" in message for message in caplog.messages)


def test_peer_that_is_silent_for_too_long_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pmilter")
    milter = filter_with(Limits(negotiation=0.1), helo=lambda *_: None)
    with serve(milter, dispatcher=asyncio_dispatcher()) as address, Wire(str(address)) as wire:
        assert wire.sock.recv(10) == b""
    assert any("nothing came" in message for message in caplog.messages)


def test_late_callback_in_the_pool_is_left_alone_and_the_connection_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    over, closed = threading.Event(), threading.Event()

    def envfrom(_ctx: Context, sender: str, *_: str) -> None:
        if sender == "<slow@x>":
            over.wait(DEADLINE)

    milter = filter_with(Limits(command_time=0.1), envfrom=envfrom, close=lambda _ctx: closed.set())
    with serve(milter, dispatcher=asyncio_dispatcher()) as address, Wire(str(address)) as wire:
        wire.play(SESSION + "\n>> M <slow@x>␀\n<< t\n>> M <quick@x>␀\n<< t\n>> Q\n<< EOF")
        assert not closed.is_set()  # not beside the one that still runs
        over.set()
        assert closed.wait(DEADLINE)
    assert any("over.wait(DEADLINE)" in message for message in caplog.messages)


def test_log_tells_where_a_late_coroutine_waits(caplog: pytest.LogCaptureFixture) -> None:
    async def deep() -> None:
        await asyncio.sleep(DEADLINE)  # here

    async def helo(_ctx: Context, _name: str) -> None:
        await deep()

    milter = filter_with(Limits(command_time=0.1), helo=helo)
    with serve(milter, dispatcher=asyncio_dispatcher()) as address, Wire(str(address)) as wire:
        wire.play(SESSION.removesuffix("<< c") + "<< t")
    assert any("# here" in message for message in caplog.messages)


def test_progress_is_sent_while_the_end_of_message_takes_its_time() -> None:
    go: Any = None

    async def eom(_ctx: Context) -> None:
        await go.wait()

    async def connect(_ctx: Context, *_: object) -> None:
        nonlocal go
        go = go or asyncio.Event()

    async def helo(_ctx: Context, name: str) -> None:
        if name == "go":
            go.set()

    milter = filter_with(Limits(progress_time=0.05), connect=connect, helo=helo, eom=eom)
    with (
        serve(milter, dispatcher=asyncio_dispatcher()) as address,
        Wire(str(address)) as wire,
        Wire(str(address)) as other,
    ):
        wire.play(SESSION + OPENED + "\n>> E\n<< p\n<< p")
        other.play(SESSION.replace("H x", "H go"))
        while (line := wire.answer()) == "p":
            pass
        assert line == "c"


def test_timeouts_of_asyncio_work_in_callbacks() -> None:
    async def helo(_ctx: Context, _name: str) -> Reply:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(DEADLINE)
        except TimeoutError:
            return Reply(451, None, "in time")
        return Reply(550, None, "never")

    with serve(filter_with(helo=helo), dispatcher=asyncio_dispatcher()) as address:
        with Wire(str(address)) as wire:
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< y 451 in time␀")


def test_connection_that_is_lost_while_a_coroutine_waits_is_closed_when_that_has_ended() -> None:
    async def envfrom(_ctx: Context, *_: str) -> None:
        waits.set()
        await asyncio.sleep(0.05)
        order.append("envfrom")

    async def close(_ctx: Context) -> None:
        order.append("close")
        closed.set()

    order: list[str] = []
    waits, closed = threading.Event(), threading.Event()
    with serve(
        filter_with(envfrom=envfrom, close=close), dispatcher=asyncio_dispatcher()
    ) as address:
        wire = Wire(str(address))
        wire.play(SESSION + "\n>> M <a@x>␀")
        assert waits.wait(DEADLINE)
        wire.reset()
        assert closed.wait(DEADLINE)
    assert order == ["envfrom", "close"]


def test_variables_that_a_coroutine_sets_are_there_for_the_next_of_its_connection_only() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    async def helo(_ctx: Context, name: str) -> None:
        seen.append(variable.get())
        variable.set(name)
        await asyncio.sleep(0)

    with serve(filter_with(helo=helo), dispatcher=asyncio_dispatcher()) as address:
        with Wire(str(address)) as one, Wire(str(address)) as two:
            one.play(SESSION)
            two.play(SESSION)
            one.play(">> H y␀\n<< c")
    assert seen == ["unset", "unset", "x"]


def test_late_callback_in_the_pool_does_not_disturb_a_coroutine_of_another_connection() -> None:
    over = threading.Event()
    go: Any = None

    async def helo(_ctx: Context, name: str) -> None:
        nonlocal go
        go = go or asyncio.Event()
        if name == "wait":
            await go.wait()
        elif name == "go":
            go.set()
        else:
            await asyncio.sleep(0)

    def envfrom(_ctx: Context, *_: str) -> None:
        over.wait(DEADLINE)

    milter = filter_with(Limits(command_time=1.0), helo=helo, envfrom=envfrom)
    with (
        serve(milter, dispatcher=asyncio_dispatcher()) as address,
        Wire(str(address)) as late,
        Wire(str(address)) as waiting,
        Wire(str(address)) as other,
    ):
        late.play(SESSION + "\n>> M <a@x>␀")
        assert late.is_silent(0.5)
        waiting.play(SESSION.replace("H x", "H wait").removesuffix("<< c"))
        late.play("<< t")
        over.set()
        other.play(SESSION.replace("H x", "H go"))
        waiting.play("<< c")


def test_callback_that_still_waits_for_a_thread_at_its_deadline_is_never_called() -> None:
    go = threading.Event()
    seen: list[str] = []

    def helo(_ctx: Context, name: str) -> None:
        seen.append(name)
        if name == "first":
            go.wait(DEADLINE)

    milter = filter_with(Limits(command_time=0.1), helo=helo)
    with (
        serve(milter, dispatcher=asyncio_dispatcher(threads=1)) as address,
        Wire(str(address)) as one,
        Wire(str(address)) as two,
    ):
        for wire, name in ((one, "first"), (two, "second")):
            wire.play(SESSION.replace("H x", f"H {name}").removesuffix("<< c") + "<< t")
        go.set()
        answer = "t"
        while answer == "t":  # the first one's return and our command race
            two.play(">> H third␀")
            answer = two.answer()
        assert answer == "c"
    assert "second" not in seen
    assert seen[-1] == "third"


def test_progress_that_another_thread_sends_comes_before_the_verdict() -> None:
    async def eom(ctx: Context) -> Status:
        thread = threading.Thread(target=ctx.progress)
        thread.start()
        thread.join()
        return Status.ACCEPT

    with serve(filter_with(eom=eom), dispatcher=asyncio_dispatcher()) as address:
        with Wire(str(address)) as wire:
            wire.play(SESSION + OPENED + "\n>> E\n<< p\n<< a\n>> Q\n<< EOF")


def test_log_that_raises_harms_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if "closing in state" in record.getMessage():
            raise KeyError("in a filter of the log's")
        return True

    logger = logging.getLogger("pmilter")
    logger.addFilter(refuse)
    milter = filter_with(helo=lambda *_: None)
    try:
        with (
            serve(milter, dispatcher=asyncio_dispatcher()) as address,
            Wire(str(address)) as good,
            Wire(str(address)) as bad,
        ):
            good.play(SESSION)
            bad.play(">> nonsense\n<< EOF")
            good.play(">> H x␀\n<< c")
    finally:
        logger.removeFilter(refuse)
    assert "a connection failed" in caplog.messages
