"""Every dispatcher, over TCP and over UNIX sockets, as `pmilter run` serves it; and how fast Sendmail is over TCP."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter
from pmilter.dispatchers import asyncio_dispatcher
from pmilter.dispatchers.registry import MODULES
from tests.e2e.app import running
from tests.e2e.realmta import MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pmilter.testing.rig import Instance
    from tests.e2e.realmta import RealMta

pytestmark = pytest.mark.mta

ALL = pytest.mark.parametrize("dispatcher", list(MODULES))


def check_mail_is_tagged(mta: Instance) -> None:
    with mta.client() as one, mta.client() as two:
        assert one.send(MESSAGE, "1@example.com").code == 250
        assert two.send(MESSAGE, "2@example.com").code == 250
        assert one.send(MESSAGE, "3@example.com", ["c@example.org", "d@example.org"]).code == 250
    tags = sorted(message.header("X-Tagged")[0].rpartition(" ")[0] for message in mta.delivered(3))
    assert tags == [
        "<1@example.com> ['<b@example.org>']",
        "<2@example.com> ['<b@example.org>']",
        "<3@example.com> ['<c@example.org>', '<d@example.org>']",
    ]


def check_mail_is_tagged_one_by_one(mta: Instance) -> None:
    with mta.client() as client:
        for _ in range(3):
            assert client.send(MESSAGE).code == 250
    assert len([message.header("X-Tagged") for message in mta.delivered(3)]) == 3


def check_for(dispatcher: str) -> Callable[[Instance], None]:
    one_at_a_time = dispatcher == "sequential"
    return check_mail_is_tagged_one_by_one if one_at_a_time else check_mail_is_tagged


@ALL
def test_smoke_over_tcp(real_mta: RealMta, tmp_path: Path, dispatcher: str) -> None:
    with running(tmp_path, "--listen", real_mta.address, "--dispatcher", dispatcher):
        check_for(dispatcher)(real_mta.mta)


@ALL
def test_smoke_over_a_unix_socket(
    mta_factory: Callable[..., Instance], public_path: Path, dispatcher: str
) -> None:
    address = f"unix:{public_path}/f.sock"
    options = "--listen", address, "--mode", "666", "--dispatcher", dispatcher
    with running(public_path, *options):
        check_for(dispatcher)(mta_factory(address))


@pytest.mark.parametrize("socket", ["inet", "unix"])
def test_coroutine_callbacks(mta_factory: Callable[..., Instance], socket: str) -> None:
    milter = Milter("async", actions=Action.ADDHDRS)

    @milter.on("envrcpt")
    async def envrcpt(ctx: Context, rcpt: str, *args: str) -> None:
        ctx.state.rcpt = rcpt

    @milter.on("eom")
    async def eom(ctx: Context) -> None:
        ctx.addheader("X-Tagged", ctx.state.rcpt)

    mta = mta_factory(milter, socket=socket, dispatcher=asyncio_dispatcher())
    assert mta.send(MESSAGE).code == 250
    assert mta.delivered()[0].header("X-Tagged") == ["<b@example.org>"]


# --- stopping


@ALL
def test_signal_costs_no_message(real_mta: RealMta, tmp_path: Path, dispatcher: str) -> None:
    with running(tmp_path, "--listen", real_mta.address, "--dispatcher", dispatcher) as app:
        with real_mta.mta.client() as client:
            for command in "EHLO x", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>", "DATA":
                client.command(command)
            message = (app.wait_header + MESSAGE).replace(b"\n", b"\r\n")
            client.write(message + b".\r\n")
            app.await_callback()
            app.process.send_signal(signal.SIGTERM)
            app.go()
            assert client.read().code == 250
            late = client.send(MESSAGE, "late@example.com")
            # The signal takes its time on a busy machine; a message that was begun before it counted is finished.
            assert (
                late.code == 250 or late.reply == "421 4.3.2 Service shutting down, try again later"
            )
        assert app.process.wait(timeout=15) == 0, app.log
    arrivals = real_mta.arrivals(2 if late.code == 250 else 1)
    assert all(b"X-Tagged: <" in arrival.message for arrival in arrivals)


# --- speed

# Both MTAs write a macro packet and its command apart, and wait for the acknowledgement between the two, which the
# system delays by 40 ms. Sendmail does so at five steps of each message, Postfix where replies are negotiated away.
SLOW = 0.040
MESSAGES = 20


def seconds_a_message(mta: Instance) -> float:
    """The time that a quarter of them kept within, so that other load on the machine does not count."""
    times = []
    with mta.client() as client:
        client.helo()
        for _ in range(MESSAGES):
            begin = time.perf_counter()
            assert client.send(MESSAGE).code == 250
            times.append(time.perf_counter() - begin)
    mta.delivered(MESSAGES)
    return sorted(times)[MESSAGES // 4]


@ALL
def test_message_over_tcp_waits_for_no_delayed_acknowledgement(
    real_mta: RealMta, tmp_path: Path, dispatcher: str
) -> None:
    with running(tmp_path, "--listen", real_mta.address, "--dispatcher", dispatcher):
        assert seconds_a_message(real_mta.mta) < SLOW


def test_message_without_replies_waits_for_no_delayed_acknowledgement(real_mta: RealMta) -> None:
    milter = Milter("quiet")
    on: Any = milter.on
    for stage in "envfrom", "envrcpt", "data", "header", "eoh", "body":
        on(stage, noreply=True)(lambda *_: None)
    milter.on("eom")(lambda _ctx: None)
    with real_mta.asking(milter) as mta:
        assert seconds_a_message(mta) < SLOW
