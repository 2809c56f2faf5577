from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Limits, LocalProtocolError, Milter, Status
from pmilter.dispatchers.deadlines import Slot, TakenOver, Watch
from pmilter.dispatchers.registry import dispatcher_named
from pmilter.effects import Call
from pmilter.outcomes import CallFailed
from pmilter.testing.rig.serve import serve
from tests.support.processes import DEADLINE
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.outcomes import CallTimedOut

ENVELOPE = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> M <a@x>␀\n<< c"
QUICK = Limits(command_time=0.2, eom_time=0.5, progress_time=0.1, grace=1)
THREADED = pytest.mark.parametrize("dispatcher", ["ithread", "asyncio"])


def filter_with(limits: Limits = QUICK, **callbacks: Callable[..., Any]) -> Milter:
    milter = Milter("late", actions=Action.ADDHDRS, limits=limits)
    for stage, function in callbacks.items():
        on: Any = milter.on
        on(stage)(function)
    return milter


class Hang:
    """A callback that returns when the test says so, and keeps its Context."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.returned = threading.Event()
        self.contexts: list[Context] = []

    def __call__(self, ctx: Context, *_: object) -> None:
        self.contexts.append(ctx)
        if len(self.contexts) == 1:
            self.go.wait(DEADLINE)
            self.returned.set()


@THREADED
def test_hanging_callback_is_answered_in_time_and_other_connections_are_not_held_up(
    dispatcher: str,
) -> None:
    hang = Hang()
    milter = filter_with(envrcpt=hang)
    with serve(milter, dispatcher=dispatcher_named(dispatcher)) as address:
        with Wire(str(address)) as stuck, Wire(str(address)) as other:
            stuck.play(ENVELOPE + "\n>> R <b@x>␀\n<< t")
            other.play(ENVELOPE + "\n>> R <b@x>␀\n<< c")
        hang.go.set()
        assert hang.returned.wait(DEADLINE)


@THREADED
def test_until_a_late_callback_returns_nothing_is_shown_and_afterwards_all_is(
    dispatcher: str,
) -> None:
    hang = Hang()
    seen: list[str] = []
    milter = filter_with(envrcpt=hang, data=lambda _: seen.append("data"))
    with (
        serve(milter, dispatcher=dispatcher_named(dispatcher)) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(ENVELOPE + "\n>> R <b@x>␀\n<< t\n>> R <c@x>␀\n<< t")
        assert len(hang.contexts) == 1
        hang.go.set()
        assert hang.returned.wait(DEADLINE)
        answer = "t"
        while answer == "t":  # its return and our command race
            wire.play(">> R <d@x>␀")
            answer = wire.answer()
        assert answer == "c"
        wire.play(">> T\n<< c")
    assert seen == ["data"]
    assert hang.contexts[1] is not hang.contexts[0]


@THREADED
def test_context_of_a_late_callback_is_of_no_use_any_more(dispatcher: str) -> None:
    hang = Hang()
    milter = filter_with(envrcpt=hang)
    with (
        serve(milter, dispatcher=dispatcher_named(dispatcher)) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(ENVELOPE + "\n>> R <b@x>␀\n<< t")
        ctx = hang.contexts[0]
        uses: list[Callable[[], object]] = [
            lambda: ctx.getsymval("i"), ctx.getpriv, lambda: ctx.setreply(550), lambda: ctx.state,
            lambda: ctx.addheader("X", "y"), ctx.progress, lambda: ctx.sender, ctx.time_left,
        ]  # fmt: skip
        for use in uses:
            with pytest.raises(LocalProtocolError, match="deadline"):
                use()
        hang.go.set()


@THREADED
def test_private_data_outlives_a_late_callback(dispatcher: str) -> None:
    hang = Hang()
    milter = filter_with(
        connect=lambda ctx, *_: ctx.setpriv("kept"),
        envrcpt=hang,
        close=hang.contexts.append,
    )
    with serve(milter, dispatcher=dispatcher_named(dispatcher)) as address:
        with Wire(str(address)) as wire:
            wire.play(ENVELOPE + "\n>> R <b@x>␀\n<< t")
            hang.go.set()
            assert hang.returned.wait(DEADLINE)
            wire.play(">> Q\n<< EOF")
    assert hang.contexts[-1].getpriv() == "kept"


@THREADED
def test_close_waits_for_a_late_callback(dispatcher: str) -> None:
    hang = Hang()
    order: list[str] = []
    closed = threading.Event()

    def close(_: Context) -> None:
        order.append("returned" if hang.returned.is_set() else "still running")
        closed.set()

    milter = filter_with(envrcpt=hang, close=close)
    with serve(milter, dispatcher=dispatcher_named(dispatcher)) as address:
        with Wire(str(address)) as wire:
            wire.play(ENVELOPE + "\n>> R <b@x>␀\n<< t\n>> Q\n<< EOF")
        assert not closed.is_set()
        hang.go.set()
        assert closed.wait(DEADLINE)
    assert order == ["returned"]


@THREADED
def test_progress_is_sent_by_itself_while_eom_runs_and_late_changes_are_not(
    dispatcher: str,
) -> None:
    hang = Hang()

    def eom(ctx: Context) -> Status:
        ctx.addheader("X-Late", "yes")
        hang(ctx)
        return Status.ACCEPT

    with (
        serve(filter_with(eom=eom), dispatcher=dispatcher_named(dispatcher)) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(
            ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> E\n<< p\n<< p"
        )
        answers = [wire.answer()]
        while answers[-1] == "p":
            answers.append(wire.answer())
        assert answers[-1] == "t"
        hang.go.set()


def test_where_no_thread_can_be_started_for_a_late_call_it_is_taken_over_at_a_later_look(
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusals = 2
    taken: list[CallTimedOut] = []

    def take_over(error: CallTimedOut) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise RuntimeError("can't start new thread")
        taken.append(error)

    slot = Slot(take_over, 1.0)
    ticket = slot.enter()

    def callback() -> None:
        for _ in range(2):
            slot.look(time.monotonic() + 6)
            assert taken == []

    call = Call()
    call.stage, call.timeout = "helo", 5.0
    call.function, call.arguments = callback, ()
    with pytest.raises(TakenOver):  # though it returns now, its time was up
        slot.perform(call, ticket)
    (message,) = caplog.messages
    assert "can't start new thread" in message
    for _ in range(2):
        slot.look(time.monotonic() + 6)
        (error,) = taken
        assert error.stage == "helo"


def a_call(function: Callable[[], object], timeout: float | None = 5.0) -> Call:
    call = Call()
    call.stage, call.timeout, call.function, call.arguments = "helo", timeout, function, ()
    return call


@pytest.mark.parametrize(("timeout", "within"), [(5.0, (5.0, 7.0)), (None, (0.0, 0.0))])
def test_parent_is_shown_by_when_a_call_under_way_must_have_ended(
    timeout: float | None, within: tuple[float, float]
) -> None:
    due = memoryview(bytearray(8)).cast("d")
    slot = Slot(lambda _: None, 1.0, due)
    shown: list[float] = []
    before = time.monotonic() if timeout else 0.0
    slot.perform(a_call(lambda: shown.append(due[0]), timeout), slot.enter())
    least, most = within
    assert before + least <= shown[0] <= before + most
    assert due[0] == 0.0


def test_call_that_raises_is_not_due_any_more() -> None:
    due = memoryview(bytearray(8)).cast("d")
    slot = Slot(lambda _: None, 1.0, due)
    with pytest.raises(CallFailed):
        slot.perform(a_call(lambda: 1 // 0), slot.enter())
    assert due[0] == 0.0


def test_call_that_was_taken_over_is_due_until_another_thread_goes_on() -> None:
    due = memoryview(bytearray(8)).cast("d")
    slot = Slot(lambda _: None, 1.0, due)
    with pytest.raises(TakenOver):
        slot.perform(a_call(lambda: slot.look(time.monotonic() + 6)), slot.enter())
    assert due[0] > 0.0  # until another thread has really taken it over
    slot.enter()
    assert due[0] == 0.0


def test_watch_ends_when_it_is_closed_and_has_nothing_left() -> None:
    watch = Watch(QUICK)
    slots = [watch.slot(lambda _: None) for _ in range(3)]
    for slot in slots:
        watch.forget(slot)

    def close() -> None:
        watch.close()
        watch.close()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(DEADLINE)
    assert not closing.is_alive()


@THREADED
def test_fallback_of_the_stage_is_the_answer(dispatcher: str) -> None:
    hang = Hang()
    milter = Milter("late", limits=QUICK, fallback={"envfrom": Status.REJECT})
    milter.on("envfrom")(hang)
    with (
        serve(milter, dispatcher=dispatcher_named(dispatcher)) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> M <a@x>␀\n<< r")
        hang.go.set()


@THREADED
def test_time_left_counts_down_from_the_limit(dispatcher: str) -> None:
    left: list[float | None] = []
    milter = filter_with(
        Limits(command_time=100, eom_time=None),
        helo=lambda ctx, _: left.append(ctx.time_left()),
        data=lambda _: None,
        eom=lambda ctx: left.append(ctx.time_left()),
    )
    with (
        serve(milter, dispatcher=dispatcher_named(dispatcher)) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(
            ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> T\n<< c\n>> E\n<< c"
        )
    assert left[0] is not None
    assert 90 < left[0] <= 100
    assert left[1] is None


@THREADED
def test_where_a_late_callback_is_is_logged(
    dispatcher: str, caplog: pytest.LogCaptureFixture
) -> None:
    hang = Hang()
    with (
        serve(filter_with(envrcpt=hang), dispatcher=dispatcher_named(dispatcher)) as address,
        Wire(str(address)) as wire,
    ):
        wire.play(ENVELOPE + "\n>> R <b@x>␀\n<< t")
        hang.go.set()
    (line,) = [message for message in caplog.messages if "did not return" in message]
    assert "envrcpt" in line
    assert "self.go.wait" in line
