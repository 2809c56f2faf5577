"""Filters that raise, hang, answer nonsense, or die: the MTA gets its answer, and no mail is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Limits, Milter, Status
from pmilter.dispatchers.registry import MODULES
from pmilter.errors import LocalProtocolError
from pmilter.testing.rig.daemon import wait_for
from tests.e2e.app import running
from tests.e2e.prediction import agree
from tests.e2e.realmta import MESSAGE, Letter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pmilter.testing.rig import Instance, Postfix, SmtpClient
    from tests.e2e.realmta import RealMta

pytestmark = pytest.mark.mta

MESSAGE_STAGES = ["envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"]
LETTERS = {
    name: Letter(sender=f"{name}@example.com")
    for name in ("bad", "good", "bad-again", "good-again")
}


def failing(stage: str, failure: Callable[[Context], Any], **settings: Any) -> Milter:
    """A filter whose callback of one stage fails for senders called bad."""
    milter = Milter("failing", actions=Action(0x1FF), **settings)

    def callback(ctx: Context, *args: Any) -> Any:
        return failure(ctx) if (ctx.sender or "").startswith("<bad") else None

    on: Any = milter.on
    on(stage)(callback)
    return milter


def raising(error: BaseException) -> Callable[[Context], Any]:
    def fail(ctx: Context) -> None:
        raise error

    return fail


# --- exceptions and nonsense


@pytest.mark.parametrize("stage", MESSAGE_STAGES)
def test_callback_that_raises_costs_that_message_a_temporary_failure(
    real_mta: RealMta, stage: str
) -> None:
    outcomes = agree(real_mta, failing(stage, raising(ValueError("no"))), LETTERS)
    for name, outcome in outcomes.items():
        assert (outcome.message is not None) == name.startswith("good")
        assert (outcome.reply or "250").startswith("451" if name.startswith("bad") else "250")


@pytest.mark.parametrize("stage", ["connect", "helo"])
def test_connect_or_helo_that_raises_fails_the_session_and_no_other(
    real_mta: RealMta, stage: str
) -> None:
    milter = Milter("failing")
    calls: list[str] = []

    def callback(*_: Any) -> None:
        calls.append(stage)
        if len(calls) == 1:
            raise ValueError("no")

    on: Any = milter.on
    on(stage)(callback)
    with real_mta.asking(milter) as mta:
        assert mta.send(MESSAGE).code == 451
        assert mta.send(MESSAGE).code == 250
    assert len(real_mta.arrivals(1)) == 1


ERRORS = [
    SystemExit(1), KeyboardInterrupt(), StopIteration(), StopAsyncIteration(), MemoryError(), RecursionError(),
    asyncio.CancelledError(), TimeoutError(), ConnectionResetError(), LocalProtocolError("no"), GeneratorExit(),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_exception_is_answered_and_the_connection_goes_on(
    real_mta: RealMta, error: BaseException
) -> None:
    for stage in "envfrom", "eom":
        with real_mta.asking(failing(stage, raising(error))) as mta, mta.client() as client:
            codes = [letter.send(client).code for letter in LETTERS.values()]
        assert codes == [451, 250, 451, 250]
        assert len(real_mta.arrivals(2)) == 2


@pytest.mark.parametrize(
    "nonsense", [True, 0, "accept", b"a", (), Status.NOREPLY, Status.ALL_OPTS, ...], ids=repr
)
def test_nonsense_is_answered_with_the_fallback(real_mta: RealMta, nonsense: Any) -> None:
    outcomes = agree(real_mta, failing("eom", lambda _ctx: nonsense), LETTERS)
    assert [outcome.message is not None for outcome in outcomes.values()] == [False, True] * 2


@pytest.mark.parametrize("stage", ["envfrom", "envrcpt", "header", "eom"])
@pytest.mark.parametrize(
    "fallback", [Status.REJECT, Status.ACCEPT, Status.CONTINUE, Status.TEMPFAIL]
)
def test_fallback_is_what_the_filter_chose(real_mta: RealMta, stage: str, fallback: Status) -> None:
    milter = failing(stage, raising(ValueError("no")), fallback={stage: fallback})
    outcomes = agree(real_mta, milter, LETTERS)
    passes = fallback in {Status.ACCEPT, Status.CONTINUE}
    assert [outcome.message is not None for outcome in outcomes.values()] == [passes, True] * 2


@pytest.mark.parametrize("stage", ["connect", "helo", *MESSAGE_STAGES])
def test_shutdown_as_the_fallback_ends_the_smtp_session_and_costs_no_mail(
    real_mta: RealMta, stage: str
) -> None:
    milter = Milter("failing", fallback={stage: "shutdown"})
    calls: list[str] = []

    def callback(*_: Any) -> None:
        calls.append(stage)
        if len(calls) == 1:
            raise ValueError("no")

    on: Any = milter.on
    on(stage)(callback)
    with real_mta.asking(milter) as mta:
        assert mta.send(MESSAGE).code == 421
        assert mta.send(MESSAGE).code == 250
    assert len(real_mta.arrivals(1)) == 1


def half_done(ctx: Context) -> None:
    ctx.addheader("X-Half", "done")
    ctx.replacebody(b"half\r\n")
    ctx.chgfrom("<half@example.com>")


def half_done_then_raising(ctx: Context) -> None:
    half_done(ctx)
    raise ValueError("no")


def half_done_then_nonsense(ctx: Context) -> str:
    half_done(ctx)
    return "accept"


@pytest.mark.parametrize("failure", [half_done_then_raising, half_done_then_nonsense])
@pytest.mark.parametrize("fallback", [Status.ACCEPT, Status.CONTINUE])
def test_changes_before_a_failure_are_dropped(
    real_mta: RealMta, failure: Callable[[Context], Any], fallback: Status
) -> None:
    outcomes = agree(real_mta, failing("eom", failure, fallback=fallback), LETTERS)
    plain = MESSAGE.replace(b"\n", b"\r\n")
    arrived = {name: (outcome.sender, outcome.message) for name, outcome in outcomes.items()}
    assert arrived == {name: (letter.sender, plain) for name, letter in LETTERS.items()}


def test_changes_before_a_deadline_are_dropped(
    real_mta: RealMta, released: threading.Event
) -> None:
    def hang(ctx: Context) -> None:
        half_done(ctx)
        released.wait()

    milter = failing("eom", hang, fallback=Status.ACCEPT, limits=Limits(eom_time=0.2))
    with real_mta.asking(milter) as mta:
        assert mta.send(MESSAGE, "bad@example.com").code == 250
        released.set()
    [arrival] = real_mta.arrivals(1)
    assert (arrival.sender, arrival.message) == ("bad@example.com", MESSAGE.replace(b"\n", b"\r\n"))


def test_wrong_calls_raise_and_send_nothing(real_mta: RealMta) -> None:
    milter = Milter("wrong", actions=Action.ADDHDRS)
    raised: list[bool] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except LocalProtocolError:
            raised.append(True)
        else:
            raised.append(False)

    @milter.on("header")
    def header(ctx: Context, name: str, value: str) -> None:
        if name == "Subject":
            attempt(lambda: ctx.addheader("X-Early", "v"))
            attempt(ctx.progress)

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        attempt(lambda: ctx.addheader("X-Bad", "a\nb"))
        attempt(lambda: ctx.addheader("X:Bad", "a"))
        attempt(lambda: ctx.addheader("", "a"))
        attempt(lambda: ctx.addheader("X-Bad", "a\0b"))
        attempt(lambda: ctx.chgheader("Subject", 1, "no grant"))
        attempt(lambda: ctx.replacebody(b"no grant"))
        attempt(lambda: ctx.quarantine("no grant"))

    [outcome] = agree(real_mta, milter, {"one": Letter()}).values()
    assert outcome.message == MESSAGE.replace(b"\n", b"\r\n")
    assert raised == [True] * 18


def test_limits_that_content_can_reach_cost_that_message_alone(real_mta: RealMta) -> None:
    milter = Milter(
        "limited", limits=Limits(recipients=2, headers=20, header_bytes=2000, arguments=2)
    )
    on: Any = milter.on
    for stage in "envfrom", "envrcpt", "header":
        on(stage)(lambda *_: None)
    letters = {
        "recipients": Letter(recipients=tuple(f"{n}@example.org" for n in range(4))),
        "headers": Letter(b"X-Many: x\n" * 30 + MESSAGE),
        "header-bytes": Letter(b"X-Long: " + b"\n ".join([b"x" * 90] * 30) + b"\n" + MESSAGE),
        "arguments": Letter(mail_args=("SIZE=1", "BODY=8BITMIME", "RET=HDRS", "ENVID=1")),
        "plain": Letter(),
    }
    outcomes = agree(real_mta, milter, letters)
    assert len(outcomes["recipients"].rejected) == 2
    assert outcomes["recipients"].recipients == ("0@example.org", "1@example.org")
    failed = {name: outcome.stage for name, outcome in outcomes.items() if outcome.stage}
    assert failed == {"headers": "eom", "header-bytes": "eom", "arguments": "envfrom"}


# --- hanging


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("stage", ["envfrom", "envrcpt", "header", "eom"])
def test_callback_that_hangs_is_answered_for(
    real_mta: RealMta, released: threading.Event, stage: str
) -> None:
    milter = failing(
        stage, lambda _ctx: released.wait() and None, limits=Limits(command_time=0.2, eom_time=0.2)
    )
    with real_mta.asking(milter) as mta, mta.client() as client:
        assert LETTERS["bad"].send(client).code == 451
        assert (
            LETTERS["good"].send(client).code == 451
        )  # the late one still has the connection's state
        with mta.client() as other:
            assert LETTERS["good"].send(other).code == 250
        released.set()
    assert len(real_mta.arrivals(1)) == 1


@pytest.mark.parametrize("by_itself", [True, False], ids=["by-itself", "by-the-filter"])
def test_progress_keeps_postfix_waiting(
    postfix: Callable[..., Postfix], *, by_itself: bool
) -> None:
    milter = Milter(
        "slow", actions=Action.ADDHDRS, limits=Limits(progress_time=0.3 if by_itself else 60)
    )
    never = threading.Event()

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        ctx.addheader("X-Early", "v")
        for _ in range(8):
            never.wait(0.3)
            if not by_itself:
                ctx.progress()

    mta = postfix(milter, settings={"milter_content_timeout": "1s"})
    assert mta.send(MESSAGE).code == 250
    assert mta.delivered()[0].header("X-Early") == ["v"]


def test_progress_passes_on_both(real_mta: RealMta) -> None:
    def progress(ctx: Context) -> None:
        ctx.addheader("X-First", "1")
        ctx.progress()
        thread = threading.Thread(target=ctx.progress)
        thread.start()
        thread.join()
        ctx.addheader("X-Second", "2")

    outcomes = agree(real_mta, failing("eom", progress), LETTERS)
    assert b"X-First: 1\r\nX-Second: 2\r\n" in (outcomes["bad"].message or b"")


# --- dying


@pytest.mark.parametrize("dispatcher", list(MODULES))
def test_filter_that_is_killed_loses_no_mail(
    real_mta: RealMta, tmp_path: Path, dispatcher: str
) -> None:
    options = "--listen", real_mta.address, "--dispatcher", dispatcher
    with ExitStack() as stack:
        app = stack.enter_context(running(tmp_path, *options))
        client = stack.enter_context(real_mta.mta.client())
        assert client.send(MESSAGE, "before@example.com").code == 250
        message = app.wait_header + MESSAGE
        _begin(client, message)
        pid = app.await_callback()
        os.kill(pid, signal.SIGKILL)
        assert client.read().code == 451
        assert client.send(MESSAGE, "same@example.com").code == 451
        if pid == app.process.pid:  # else only the child of this connection has died
            app.process.wait()
            assert real_mta.mta.send(MESSAGE, "down@example.com").code == 451
            stack.enter_context(running(tmp_path, *options))
        app.go()
        assert real_mta.mta.send(message, "retry@example.com").code == 250
    arrivals = real_mta.arrivals(2)
    assert {arrival.sender for arrival in arrivals} == {"before@example.com", "retry@example.com"}
    assert all(b"X-Tagged: " in arrival.message for arrival in arrivals)


def _begin(client: SmtpClient, message: bytes) -> None:
    for command in "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>", "DATA":
        assert client.command(command).code < 400
    client.write(message.replace(b"\n", b"\r\n") + b".\r\n")


def test_submitted_mail_waits_for_a_filter_that_was_killed(
    mta_factory: Callable[..., Instance], unused: str, tmp_path: Path
) -> None:
    mta = mta_factory(unused)
    options = "--listen", unused, "--dispatcher", "ithread"
    with running(tmp_path, *options) as app:
        submitting = threading.Thread(target=mta.submit, args=(app.wait_header + MESSAGE,))
        submitting.start()
        os.kill(app.await_callback(), signal.SIGKILL)
        submitting.join()
        [waiting] = mta.queued(1)
        assert waiting.queue in {"maildrop", "clientqueue"}
    with running(tmp_path, *options) as app:
        app.go()
        mta.flush()
        [delivered] = mta.delivered(1)
    assert delivered.header("X-Tagged")
    assert wait_for(lambda: not mta.queued(), timeout=10)


def test_filter_that_is_away_and_comes_back(real_mta: RealMta) -> None:
    with real_mta.mta.client() as client:
        assert client.send(MESSAGE).code == 451
    milter = Milter("late")
    milter.on("eom")(lambda _ctx: None)
    with real_mta.asking(milter) as mta:
        assert mta.send(MESSAGE, "late@example.com").code == 250
    assert [arrival.sender for arrival in real_mta.arrivals(1)] == ["late@example.com"]


def test_more_connections_than_the_filter_takes_are_told_to_come_back(real_mta: RealMta) -> None:
    milter = Milter("full", limits=Limits(connections=1))
    milter.on("eom")(lambda _ctx: None)
    with real_mta.asking(milter) as mta, mta.client() as first:
        first.helo()
        with mta.client() as second:
            assert second.send(MESSAGE, "second@example.com").code == 451
        assert first.send(MESSAGE, "first@example.com").code == 250
    assert [arrival.sender for arrival in real_mta.arrivals(1)] == ["first@example.com"]
