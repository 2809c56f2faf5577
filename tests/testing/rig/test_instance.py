"""What both private MTAs must do alike, seen by a filter that has nothing of pmilter in it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Status
from pmilter.errors import ConnectionClosed, MilterError, MilterTimeout
from tests.testing.rig.wirefilter import WireFilter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.testing.rig import Instance

pytestmark = pytest.mark.mta

MESSAGE = b"Subject: hello\n\nhello\n"
TAG = [b"hX-Wire\0yes\0", b"c"]
QUARANTINE = [b"qlooks odd\0", b"c"]

StartMta = Callable[..., Any]


@pytest.fixture(params=["postfix", "sendmail"])
def start(request: pytest.FixtureRequest) -> StartMta:
    factory: StartMta = request.getfixturevalue(request.param)
    return factory


@pytest.fixture
def tagger(public_path: Path) -> Iterator[WireFilter]:
    with WireFilter({b"E": TAG}, path=public_path / "tagger.sock") as tagger:
        yield tagger


def processes_with(text: str) -> list[str]:
    """The command lines and working directories of all processes that hold `text`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            about = (process / "cmdline").read_text(errors="replace") + str(
                (process / "cwd").readlink()
            )
        except OSError:
            continue
        if text in about:
            found.append(about)
    return found


@pytest.mark.parametrize("family", ["inet", "unix"])
def test_message_passes_through_the_filter_to_the_sink(
    start: StartMta, public_path: Path, family: str
) -> None:
    with WireFilter(
        {b"E": TAG}, path=public_path / "f.sock" if family == "unix" else None
    ) as tagger:
        mta = start(tagger.address)
        assert mta.send(MESSAGE).code == 250
        [message] = mta.delivered()
    assert message.header("X-Wire") == ["yes"]
    assert message.header("Subject") == ["hello"]
    assert message.body == b"hello\r\n"
    assert (message.sender, message.recipients) == ("a@example.com", ("b@example.org",))
    assert tagger.data(b"M") == [b"<a@example.com>\0"]


@pytest.mark.parametrize("family", ["inet", "unix"])
def test_milter_object_is_served_as_long_as_the_mta_lives(start: StartMta, family: str) -> None:
    milter = Milter("tagger", actions=Action.ADDHDRS)

    @milter.on("eom")
    def eom(ctx: Context) -> Status:
        ctx.addheader("X-Tagged", family)
        return Status.ACCEPT

    with type(start())(milter, socket=family) as mta:
        assert mta.send(MESSAGE).code == 250
        assert mta.delivered()[0].header("X-Tagged") == [family]
    assert "pmilter-main" not in {thread.name for thread in threading.enumerate()}


def test_message_passes_without_a_filter(start: StartMta) -> None:
    mta = start()
    assert mta.send(MESSAGE).stage is None
    assert mta.delivered()[0].body == b"hello\r\n"


def test_filters_are_asked_in_order(start: StartMta, tagger: WireFilter) -> None:
    with WireFilter() as second:
        mta = start(tagger.address, second.address)
        mta.send(MESSAGE)
        mta.delivered()
        assert b"X-Wire\0yes\0" in second.data(b"L")
        assert b"X-Wire\0yes\0" not in tagger.data(b"L")


def test_recipient_refused_by_the_filter_is_seen(start: StartMta) -> None:
    def check(data: bytes) -> list[bytes]:
        return [b"y550 5.1.1 nobody here\0"] if data.startswith(b"<nobody@") else [b"c"]

    with WireFilter({b"R": check}) as picky:
        mta = start(picky.address)
        result = mta.send(MESSAGE, recipients=["nobody@example.org", "b@example.org"])
        assert result.stage is None
        assert list(result.rejected) == ["nobody@example.org"]
        assert result.rejected["nobody@example.org"].code == 550
        assert "nobody here" in result.rejected["nobody@example.org"]
        assert mta.delivered()[0].recipients == ("b@example.org",)
        assert mta.send(MESSAGE, recipients=["nobody@example.org"]).stage == "envrcpt"


@pytest.mark.parametrize(
    ("letter", "stage"),
    [(b"C", "connect"), (b"M", "envfrom"), (b"R", "envrcpt"), (b"T", "data"), (b"E", "eom")],
)
def test_refusal_is_seen_at_its_stage(start: StartMta, letter: bytes, stage: str) -> None:
    with WireFilter({letter: [b"r"]}) as stern:
        result = start(stern.address).send(MESSAGE)
    assert result.stage == stage
    assert 500 <= result.code <= 599


def test_quarantined_message_is_held_until_released(start: StartMta) -> None:
    with WireFilter({b"E": QUARANTINE}) as wary:
        mta = start(wary.address)
        result = mta.send(MESSAGE, "a@example.com", ["b@example.org", "c@example.org"])
        [held] = mta.held()
        assert held.queue_id == result.queue_id
        assert held.queue == "hold"
        assert held.sender == "a@example.com"
        assert set(held.recipients) == {"b@example.org", "c@example.org"}
        assert held.reason == {"postfix": None, "sendmail": "looks odd"}[mta.name]
        assert mta.queued() == []
        mta.release(held.queue_id)
        assert set(mta.delivered()[0].recipients) == {"b@example.org", "c@example.org"}
        assert mta.held() == []


def test_submitted_message_is_filtered_and_delivered(start: StartMta, tagger: WireFilter) -> None:
    mta = start(tagger.address)
    mta.submit(MESSAGE, "a@example.com", ["b@example.org", "c@example.org"])
    [message] = mta.delivered()
    assert message.header("X-Wire") == ["yes"]
    assert message.body == b"hello\r\n"
    assert message.sender == "a@example.com"
    assert set(message.recipients) == {"b@example.org", "c@example.org"}


def test_null_sender_can_be_submitted(start: StartMta) -> None:
    mta = start()
    mta.submit(MESSAGE, "")
    assert mta.delivered()[0].sender == ""


def test_8_bit_bytes_are_delivered_exactly(start: StartMta, tagger: WireFilter) -> None:
    body = bytes(byte for byte in range(1, 256) if byte not in b"\r\n") + b"\r\n"
    mta = start(tagger.address)
    assert mta.send(b"Subject: \xfc\xff\n\n" + body, mail_args=["BODY=8BITMIME"]).code == 250
    [message] = mta.delivered()
    assert message.body == body
    assert message.header("Subject") == ["\udcfc\udcff"]
    assert b"".join(tagger.data(b"B")) == body


def test_instances_run_side_by_side(start: StartMta, tagger: WireFilter) -> None:
    plain, tagged = start(), start(tagger.address)
    plain.send(b"Subject: plain\n\n\n")
    tagged.send(b"Subject: tagged\n\n\n")
    assert plain.delivered()[0].header("Subject") == ["plain"]
    [message] = tagged.delivered()
    assert message.header("Subject") == ["tagged"]
    assert message.header("X-Wire") == ["yes"]
    with pytest.raises(MilterTimeout):
        plain.delivered(timeout=0)


@pytest.mark.parametrize(
    ("action", "codes"), [("tempfail", [451]), ("accept", [250]), ("reject", [550, 554])]
)
def test_default_action_answers_for_a_dead_filter(
    start: StartMta, unused: str, action: str, codes: list[int]
) -> None:
    mta = start(unused, default_action=action)
    assert mta.send(MESSAGE).code in codes


def test_filter_that_dies_in_mid_message_loses_no_mail(start: StartMta, public_path: Path) -> None:
    path = public_path / "f.sock"
    with WireFilter(path=path, dies_at=[b"E"]) as dying:
        mta = start(dying.address)
        assert mta.send(MESSAGE).code == 451
    path.unlink()
    with WireFilter(path=path):
        assert mta.send(MESSAGE).code == 250
    assert mta.delivered()[0].body == b"hello\r\n"
    with pytest.raises(MilterTimeout):
        mta.delivered(timeout=0)


def test_submitted_mail_waits_for_a_dead_filter(start: StartMta, public_path: Path) -> None:
    path = public_path / "f.sock"
    mta = start(f"unix:{path}")
    mta.submit(MESSAGE)
    [waiting] = mta.queued(1)
    assert waiting.sender == "a@example.com"
    with WireFilter({b"E": TAG}, path=path):
        mta.flush()
        assert mta.delivered()[0].header("X-Wire") == ["yes"]
    assert mta.held() == []


def test_connection_takes_many_messages_and_rset(start: StartMta, tagger: WireFilter) -> None:
    mta = start(tagger.address)
    with mta.client() as client:
        assert client.send(b"Subject: 1\n\n\n").stage is None
        assert client.command("MAIL FROM:<dropped@example.com>").code == 250
        assert client.command("RSET").code == 250
        assert client.send(b"Subject: 2\n\n\n").stage is None
    subjects = sorted(message.header("Subject")[0] for message in mta.delivered(2))
    assert subjects == ["1", "2"]
    assert tagger.data(b"M").count(b"<a@example.com>\0") == 2
    assert tagger.data(b"M").count(b"<dropped@example.com>\0") == 1


def test_client_can_vanish_in_mid_message(start: StartMta, tagger: WireFilter) -> None:
    mta = start(tagger.address)
    with mta.client() as client:
        client.helo()
        client.command("MAIL FROM:<a@example.com>")
        client.command("RCPT TO:<b@example.org>")
        assert client.command("DATA").code == 354
        client.write(b"Subject: half\r\n")
        client.abort()
    assert mta.send(MESSAGE).code == 250
    assert mta.delivered()[0].header("Subject") == ["hello"]


def test_envelope_parameters_reach_filter_and_sink(start: StartMta, tagger: WireFilter) -> None:
    mta = start(tagger.address)
    mta.send(MESSAGE, mail_args=["RET=HDRS", "ENVID=e1"], rcpt_args=["NOTIFY=FAILURE"])
    [message] = mta.delivered()
    assert {"RET=HDRS", "ENVID=e1"} <= set(message.sender_args)
    assert "NOTIFY=FAILURE" in message.recipient_args[0]
    assert tagger.data(b"M") == [b"<a@example.com>\0RET=HDRS\0ENVID=e1\0"]


def test_log_names_the_message(start: StartMta) -> None:
    mta = start()
    queue_id = mta.send(MESSAGE).queue_id
    assert queue_id is not None
    assert mta.logged(rf"{queue_id}: (from=\S+),")[1] == "from=<a@example.com>"
    assert queue_id in mta.log()


def test_log_that_lacks_the_pattern_is_shown(start: StartMta) -> None:
    mta = start()
    with pytest.raises(MilterTimeout, match="has no 'xyzzy'") as caught:
        mta.logged("xyzzy", timeout=0)
    assert caught.value.__notes__[0].startswith(f"last lines of the log of {mta.name}:")


def test_missing_delivery_shows_the_log(start: StartMta) -> None:
    mta = start()
    with pytest.raises(MilterTimeout, match="0 of 1 messages") as caught:
        mta.delivered(timeout=0.01)
    assert caught.value.__notes__[0].startswith(f"last lines of the log of {mta.name}:")


def test_missing_quarantine_shows_the_log(start: StartMta) -> None:
    with pytest.raises(MilterTimeout, match="0 of 1 messages were held within 0 s") as caught:
        start().held(1, timeout=0)
    assert "last lines of the log" in caught.value.__notes__[0]


def test_closed_connection_shows_the_log(start: StartMta) -> None:
    def read_past_quit(mta: Instance) -> None:
        with mta.client() as client:
            client.command("QUIT")
            client.read()

    with pytest.raises(ConnectionClosed) as caught:
        read_past_quit(start())
    assert "last lines of the log" in caught.value.__notes__[0]


def test_version_is_a_number(start: StartMta) -> None:
    assert start().version[0].isdigit()


def test_nothing_is_left_after_the_block(start: StartMta, tagger: WireFilter) -> None:
    kind = type(start())
    with kind(tagger.address) as mta:
        mta.send(MESSAGE)
        client = mta.client().__enter__()  # still open when the MTA is stopped
        assert mta.directory.exists()
        assert processes_with(str(mta.directory))
    client.close()
    assert not mta.directory.exists()
    assert processes_with(str(mta.directory)) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(mta.smtp_address, 10)


def test_nothing_is_left_after_an_error_in_the_block(start: StartMta) -> None:
    kind = type(start())
    with pytest.raises(ZeroDivisionError), kind() as mta:
        raise ZeroDivisionError
    assert not mta.directory.exists()
    assert processes_with(str(mta.directory)) == []


BROKEN: dict[str, dict[str, Any]] = {
    "postfix": {"settings": {"mail_owner": "no-such-user"}},
    "sendmail": {"mc": "LOCAL_CONFIG\nQbroken queue line\n"},
}


def test_nothing_is_left_after_a_failed_start(start: StartMta) -> None:
    kind = type(start())
    mta = kind(**BROKEN[kind.name])
    with pytest.raises(MilterError, match="ended with status") as caught, mta:
        pass
    assert "last lines of the log" in caught.value.__notes__[0]
    assert not mta.directory.exists()
    assert processes_with(str(mta.directory)) == []
