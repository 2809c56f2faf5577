from __future__ import annotations

import socket
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from pmilter.errors import MilterTimeout
from pmilter.testing.rig import Delivered, Sink

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


def converse(sink: Sink, *parts: bytes) -> bytes:
    """Send all at once and return everything the sink says until it closes."""
    with closing(socket.create_connection(("127.0.0.1", sink.port), 10)) as connection:
        connection.sendall(b"".join(parts))
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def deliver(sink: Sink, data: bytes, mail: bytes = b"<a@x>", *rcpts: bytes) -> Delivered:
    commands = [b"EHLO me\r\n", b"MAIL FROM:" + mail + b"\r\n"]
    commands += [b"RCPT TO:" + rcpt + b"\r\n" for rcpt in rcpts or [b"<b@y>"]]
    converse(sink, *commands, b"DATA\r\n", data, b".\r\nQUIT\r\n")
    [message] = sink.take()
    return message


def test_every_byte_of_a_message_is_kept(sink: Sink) -> None:
    line = bytes(byte for byte in range(256) if byte not in b"\r\n")
    assert (
        deliver(sink, b"A: b\r\n\r\n" + line + b"\r\n").message == b"A: b\r\n\r\n" + line + b"\r\n"
    )


def test_lines_longer_than_smtp_allows_are_kept(sink: Sink) -> None:
    message = b"A: " + 5000 * b"x" + b"\r\n\r\n"
    assert deliver(sink, message).message == message


def test_bare_cr_and_lf_are_kept(sink: Sink) -> None:
    assert deliver(sink, b"a\rb\nc\r\n").message == b"a\rb\nc\r\n"


def test_one_leading_dot_is_removed(sink: Sink) -> None:
    assert deliver(sink, b"..\r\n...a\r\n.b\r\n").message == b".\r\n..a\r\nb\r\n"


def test_envelope_keeps_parameters_beside_addresses(sink: Sink) -> None:
    message = deliver(
        sink,
        b"",
        b"<a@x> BODY=8BITMIME RET=HDRS",
        b"<b@y> NOTIFY=NEVER ORCPT=rfc822;b@y",
        b"<c@y>",
    )
    assert message.sender == "a@x"
    assert message.sender_args == ("BODY=8BITMIME", "RET=HDRS")
    assert message.recipients == ("b@y", "c@y")
    assert message.recipient_args == (("NOTIFY=NEVER", "ORCPT=rfc822;b@y"), ())


def test_null_sender_is_the_empty_string(sink: Sink) -> None:
    assert deliver(sink, b"", b"<>").sender == ""


def test_quoted_local_part_may_hold_a_bracket_and_a_blank(sink: Sink) -> None:
    message = deliver(sink, b"", rb'<"a> \"b"@x> SIZE=1')
    assert message.sender == r'"a> \"b"@x'
    assert message.sender_args == ("SIZE=1",)


def test_raw_8_bit_addresses_survive_as_surrogates(sink: Sink) -> None:
    assert deliver(sink, b"", b"<\xfca@x>").sender == "\udcfca@x"


def test_messages_of_one_connection_have_envelopes_of_their_own(sink: Sink) -> None:
    one = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n1\r\n.\r\n"
    two = b"MAIL FROM:<c@x>\r\nRCPT TO:<d@y>\r\nDATA\r\n2\r\n.\r\n"
    converse(sink, one, two)
    assert [(m.sender, m.recipients, m.message) for m in sink.take(2)] == [
        ("a@x", ("b@y",), b"1\r\n"),
        ("c@x", ("d@y",), b"2\r\n"),
    ]


def test_replies_follow_the_dialogue(sink: Sink) -> None:
    said = converse(sink, b"EHLO me\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n.\r\nQUIT\r\n")
    codes = [line[:4] for line in said.splitlines()]
    assert codes == [b"220 ", *[b"250-"] * 4, b"250 ", b"250 ", b"250 ", b"354 ", b"250 ", b"221 "]


def test_message_that_breaks_off_is_not_delivered(sink: Sink) -> None:
    said = converse(sink, b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nhalf\r\n")
    assert said.endswith(b"554 5.6.0 Message is cut off or too big\r\n")
    with pytest.raises(MilterTimeout):
        sink.take(timeout=0)


def test_take_waits_for_a_message_that_is_on_its_way(sink: Sink) -> None:
    taken: list[Delivered] = []
    taker = threading.Thread(target=lambda: taken.extend(sink.take(2)))
    taker.start()
    converse(sink, b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n", 2 * b"DATA\r\n.\r\n")
    taker.join(10)
    assert len(taken) == 2


def test_take_that_times_out_leaves_what_came(sink: Sink) -> None:
    converse(sink, b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n1\r\n.\r\n")
    with pytest.raises(MilterTimeout, match=r"1 of 2 messages were delivered within 0\.01 s"):
        sink.take(2, timeout=0.01)
    assert sink.take()[0].message == b"1\r\n"


def test_closed_sink_does_not_listen() -> None:
    with Sink() as sink:
        port = sink.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)


def message(data: bytes) -> Delivered:
    return Delivered("a@x", (), ("b@y",), ((),), data)


def test_headers_keep_order_case_folding_and_spaces_but_the_first() -> None:
    mail = message(b"Subject: one\r\n two\r\nX:v\r\nsubject:  3\r\n\r\nbody: no\r\n")
    assert mail.headers == [("Subject", "one\r\n two"), ("X", "v"), ("subject", " 3")]
    assert mail.header("SUBJECT") == ["one\r\n two", " 3"]
    assert mail.header("Y") == []
    assert mail.body == b"body: no\r\n"


@pytest.mark.parametrize("data", [b"A: b\r\n", b"A: b\r\n\r\n"])
def test_message_without_body(data: bytes) -> None:
    assert (message(data).headers, message(data).body) == ([("A", "b")], b"")


def test_message_without_headers() -> None:
    assert (message(b"\r\nA: b\r\n\r\n").headers, message(b"\r\nA: b\r\n\r\n").body) == (
        [],
        b"A: b\r\n\r\n",
    )
