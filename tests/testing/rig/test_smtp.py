from __future__ import annotations

import socket
import threading
from typing import Self

import pytest

from pmilter.errors import ConnectionClosed, MilterTimeout
from pmilter.testing.rig import SmtpClient, SmtpReply, SmtpResult

GOOD = [
    b"220 hi",
    b"250 helo",
    b"250 mail",
    b"250 rcpt",
    b"354 go",
    b"250 2.0.0 Ok: queued as 4X1",
    b"221 bye",
]
STAGES = ["connect", "helo", "envfrom", "envrcpt", "data", "eom"]


class Script:
    """A server that greets, and answers each line (after a 354 each message) with the next reply, then closes."""

    def __init__(self, *replies: bytes) -> None:
        self._replies = replies
        self.heard: list[bytes] = []
        self.error: OSError | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rwb") as stream:
            try:
                for reply in self._replies:
                    stream.write(reply + b"\r\n")
                    stream.flush()
                    end = b".\r\n" if reply.startswith(b"354") else None
                    heard = stream.readline()
                    while end and not heard.endswith(b"\r\n" + end) and heard != end:
                        heard += stream.readline()
                    self.heard.append(heard)
            except OSError as error:
                self.error = error


def send_to(script: Script, message: bytes = b"\n", **options: object) -> SmtpResult:
    with SmtpClient(script.address) as client:
        return client.send(message, **options)  # type: ignore[arg-type]  # each test gives its own


def test_accepted_message_has_all_replies_by_stage() -> None:
    with Script(*GOOD) as script:
        result = send_to(script)
    assert result.stage is None
    assert result.reply == "250 2.0.0 Ok: queued as 4X1"
    assert result.code == 250
    assert result.rejected == {}
    assert list(result.replies) == STAGES
    assert result.replies["envrcpt"] == ["250 rcpt"]
    assert script.heard[:4] == [
        b"EHLO client.example.com\r\n",
        b"MAIL FROM:<a@example.com>\r\n",
        b"RCPT TO:<b@example.org>\r\n",
        b"DATA\r\n",
    ]


@pytest.mark.parametrize("step", range(6))
def test_refusal_ends_the_attempt_at_its_stage(step: int) -> None:
    refusal = b"550 5.7.1 go away"
    replies = [*GOOD[:step], refusal, b"250 reset", b"221 bye"]
    with Script(*replies) as script:
        result = send_to(script)
    assert (result.stage, result.reply, result.code) == (STAGES[step], "550 5.7.1 go away", 550)
    assert list(result.replies) == STAGES[: step + 1]


@pytest.mark.parametrize(("step", "reset"), [(2, False), (3, True), (4, True), (5, False)])
def test_open_transaction_is_reset_after_a_refusal(step: int, *, reset: bool) -> None:
    with Script(*GOOD[:step], b"451 later", b"250 reset", b"221 bye") as script:
        send_to(script)
    assert (b"RSET\r\n" in script.heard) is reset


def test_no_reset_after_421() -> None:
    with Script(*GOOD[:3], b"421 closing", b"221 bye") as script:
        result = send_to(script)
    assert result.stage == "envrcpt"
    assert script.heard[3:] == [b"QUIT\r\n", b""]


def test_refused_recipients_are_kept_while_others_are_accepted() -> None:
    replies = [*GOOD[:3], b"550 no", b"250 yes", b"451 later", *GOOD[4:]]
    with Script(*replies) as script:
        result = send_to(script, recipients=["a@y", "b@y", "c@y"])
    assert result.stage is None
    assert result.rejected == {"a@y": "550 no", "c@y": "451 later"}
    assert result.replies["envrcpt"] == ["550 no", "250 yes", "451 later"]


def test_envelope_parameters_and_brackets_go_out_as_given() -> None:
    with Script(*GOOD) as script:
        send_to(
            script,
            sender="",
            recipients=["<b@y>"],
            mail_args=["RET=HDRS", "ENVID=1"],
            rcpt_args=["NOTIFY=NEVER"],
        )
    assert script.heard[1:3] == [
        b"MAIL FROM:<> RET=HDRS ENVID=1\r\n",
        b"RCPT TO:<b@y> NOTIFY=NEVER\r\n",
    ]


def test_utf_8_addresses_go_out_as_utf_8() -> None:
    with Script(*GOOD) as script:
        send_to(script, sender="jörg@x")
    assert script.heard[1] == b"MAIL FROM:<j\xc3\xb6rg@x>\r\n"


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (b"a\nb\r\nc\n", b"a\r\nb\r\nc\r\n.\r\n"),
        (b"no end", b"no end\r\n.\r\n"),
        (b"", b".\r\n"),
        (b".\n..a\nb.\n", b"..\r\n...a\r\nb.\r\n.\r\n"),
        (b"\x80\xff\x00\rx\n", b"\x80\xff\x00\rx\r\n.\r\n"),
    ],
)
def test_message_is_sent_with_crlf_and_stuffed_dots(message: bytes, sent: bytes) -> None:
    with Script(*GOOD) as script:
        send_to(script, message)
    assert script.heard[4] == sent


def test_second_message_of_a_connection_says_no_second_ehlo() -> None:
    with Script(*GOOD[:6], *GOOD[2:]) as script, SmtpClient(script.address) as client:
        client.send(b"1\n")
        assert client.send(b"2\n").stage is None
    assert [heard for heard in script.heard if heard.startswith(b"EHLO")] == [
        b"EHLO client.example.com\r\n"
    ]


def test_reply_of_several_lines_is_joined_by_lf() -> None:
    with (
        Script(b"220-one\r\n220-two\r\n220 three", b"221 bye") as script,
        SmtpClient(script.address) as client,
    ):
        assert client.greeting == "220-one\n220-two\n220 three"
        assert client.greeting.lines == ["220-one", "220-two", "220 three"]
        assert client.greeting.code == 220


def test_commands_go_out_byte_for_byte() -> None:
    with Script(b"220 hi", b"500 what", b"221 bye") as script, SmtpClient(script.address) as client:
        assert client.command(b"\xff\x00 X").code == 500
    assert script.heard[0] == b"\xff\x00 X\r\n"


def test_refused_data_returns_that_reply() -> None:
    with (
        Script(b"220 hi", b"503 no recipients", b"221 bye") as script,
        SmtpClient(script.address) as client,
    ):
        assert client.data(b"x\n") == "503 no recipients"


def test_server_that_closes_instead_of_a_reply_is_an_error() -> None:
    with Script(b"220 hi") as script, SmtpClient(script.address) as client:
        client.write(b"NOOP\r\n")
        with pytest.raises(ConnectionClosed, match="closed the connection instead of a reply"):
            client.read()


def test_server_that_closes_at_connect_is_an_error() -> None:
    with Script() as script, pytest.raises(ConnectionClosed):
        SmtpClient(script.address)


def test_silence_is_a_timeout() -> None:
    with (
        Script(b"220 hi") as script,
        SmtpClient(script.address, timeout=0.05) as client,
        pytest.raises(MilterTimeout, match=r"no SMTP reply within 0\.05 s"),
    ):
        client.read()


def test_abort_resets_the_connection() -> None:
    with Script(b"220 hi", b"250 more") as script, SmtpClient(script.address) as client:
        client.abort()
    assert isinstance(script.error, ConnectionResetError)


def test_error_in_the_block_closes_without_quit() -> None:
    with (
        Script(b"220 hi", b"250 more") as script,
        pytest.raises(ZeroDivisionError),
        SmtpClient(script.address),
    ):
        raise ZeroDivisionError
    assert script.heard == [b"", b""]


@pytest.mark.parametrize(
    ("reply", "queue_id"),
    [
        ("250 2.0.0 Ok: queued as 4X1", "4X1"),
        ("250 2.0.0 6AMMkvBo021177 Message accepted for delivery", "6AMMkvBo021177"),
        ("550 5.7.1 no", None),
    ],
)
def test_queue_id_is_found_in_either_mta_s_reply(reply: str, queue_id: str | None) -> None:
    assert SmtpResult(SmtpReply(reply), None, {}, {}).queue_id == queue_id
