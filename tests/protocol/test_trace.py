from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter.errors import RemoteProtocolError
from pmilter.protocol import FrameReader, decode_answer, decode_command
from pmilter.protocol.constants import Action, Step
from pmilter.protocol.messages import ANSWERS, COMMANDS, Body, ChgHeader, Header, Message, Options
from pmilter.protocol.trace import LINE, elide, format_message, message_name, show

CAPTURES = sorted((Path(__file__).parents[1] / "data/captures").glob("*.json"))


@pytest.mark.parametrize(
    ("code", "payload", "line"),
    [
        (b"O", b"\0\0\0\6\0\0\1\xff\0\x1f\xff\xff", "OPTNEG version=6 actions=all steps=all"),
        (b"O", b"\0\0\0\2\0\0\0\0\0\0\0\0", "OPTNEG version=2 actions=none steps=none"),
        (
            b"O",
            b"\0\0\0\6\0\0\1\1\0\0\0\2\0\0\0\2i {mail_addr}\0\0\0\0\x09x\0",
            "OPTNEG version=6 actions=ADDHDRS|SETSYMLIST steps=NOHELO ENVFROM=[i {mail_addr}]",
        ),
        (b"O", b"\0\0\0\6\x80\0\0\0\0\0\0\0", "OPTNEG version=6 actions=0x80000000 steps=none"),
        (b"D", b"Mi\0004X1\0{mail_addr}\0a@b.c\0", "MACRO MAIL i=4X1 {mail_addr}=a@b.c"),
        (b"D", b"C", "MACRO CONNECT"),
        (b"D", b"\x01", r"MACRO \x01"),
        (
            b"C",
            b"mail.example.com\x004\x04\xd2192.0.2.1\0",
            "CONNECT mail.example.com [192.0.2.1]:1234",
        ),
        (b"C", b"[::1]\x006\0\x19::1\0", "CONNECT [::1] [::1]:25"),
        (b"C", b"localhost\0L\0\0/run/x\0", "CONNECT localhost unix:/run/x"),
        (b"C", b"unknown\0U", "CONNECT unknown unknown"),
        (b"H", b"mx\0", "HELO mx"),
        (b"M", b"<a@b.c>\0SIZE=1\0BODY=8BITMIME\0", "MAIL <a@b.c> SIZE=1 BODY=8BITMIME"),
        (b"R", b"<x@y.z>\0", "RCPT <x@y.z>"),
        (b"T", b"", "DATA"),
        (b"U", b"FOO bar\0", "UNKNOWN FOO bar"),
        (b"L", b"Subject\0one\n two\0", r"HEADER Subject: one\n two"),
        (b"L", b"X-Empty\0\0", "HEADER X-Empty:"),
        (b"N", b"", "EOH"),
        (b"B", b"hi\r\n", r'BODY 4 bytes "hi\r\n"'),
        (b"B", b"", "BODY 0 bytes"),
        (b"E", b"", "BODYEOB"),
        (b"E", b"rest", 'BODYEOB 4 bytes "rest"'),
        (b"A", b"", "ABORT"),
        (b"Q", b"", "QUIT"),
        (b"K", b"", "QUIT_NC"),
    ],
)
def test_command_is_shown_with_its_arguments(code: bytes, payload: bytes, line: str) -> None:
    assert format_message(decode_command(code[0], payload)) == line


@pytest.mark.parametrize(
    ("code", "payload", "line"),
    [
        (b"c", b"", "CONTINUE"),
        (b"a", b"", "ACCEPT"),
        (b"r", b"", "REJECT"),
        (b"t", b"", "TEMPFAIL"),
        (b"d", b"", "DISCARD"),
        (b"s", b"", "SKIP"),
        (b"p", b"", "PROGRESS"),
        (b"4", b"", "SHUTDOWN"),
        (b"f", b"", "CONN_FAIL"),
        (b"y", b"550 5.7.1 100%% no\0", "REPLYCODE 550 5.7.1 100% no"),
        (b"y", b"550-one\r\n550 two\0", r"REPLYCODE 550-one\r\n550 two"),
        (b"h", b"X-Seen\0yes\0", "ADDHEADER X-Seen: yes"),
        (b"i", b"\0\0\0\0X-Top\0yes\0", "INSHEADER 0 X-Top: yes"),
        (b"i", b"\0\0\0\1X-Top\0\0", "INSHEADER 1 X-Top:"),
        (b"m", b"\0\0\0\2Subject\0new\0", "CHGHEADER 2 Subject: new"),
        (b"m", b"\0\0\0\1Subject\0\0", "CHGHEADER 1 Subject: (deleted)"),
        (b"b", b"new\r\n", r'REPLBODY 5 bytes "new\r\n"'),
        (b"+", b"<x@y.z>\0", "ADDRCPT <x@y.z>"),
        (b"2", b"<x@y.z>\0NOTIFY=NEVER\0", "ADDRCPT_PAR <x@y.z> NOTIFY=NEVER"),
        (b"2", b"<x@y.z>\0", "ADDRCPT_PAR <x@y.z>"),
        (b"-", b"<x@y.z>\0", "DELRCPT <x@y.z>"),
        (b"e", b"<>\0ENVID=1\0", "CHGFROM <> ENVID=1"),
        (b"q", b"looks odd\0", "QUARANTINE looks odd"),
    ],
)
def test_answer_is_shown_with_its_arguments(code: bytes, payload: bytes, line: str) -> None:
    assert format_message(decode_answer(code[0], payload)) == line


def test_terminal_escapes_and_foreign_bytes_are_shown_as_escapes() -> None:
    line = format_message(Header(b"Subject", b"\x1b[31mred\xe9\xe2\x80\xae"))

    assert line == r"HEADER Subject: \x1b[31mred\udce9\u202e"


def test_text_of_other_scripts_is_left_readable() -> None:
    assert show("grüße, 你好".encode(), 40) == "grüße, 你好"


def test_long_line_loses_its_middle() -> None:
    line = format_message(Header(b"X", b"a" * 500 + b"z" * 500), 40)

    assert line == "HEADER X: " + "a" * 17 + "..." + "z" * 10


def test_line_may_be_longer_than_usual() -> None:
    line = format_message(Header(b"X", b"a" * 5000), 1000)

    assert len(line) == 1000


def test_text_that_fits_is_not_touched() -> None:
    assert elide("x" * 40, 40) == "x" * 40


def test_body_of_a_megabyte_is_one_short_line() -> None:
    line = format_message(Body(b"\0" * 1_048_576))

    assert line.startswith(r'BODY 1048576 bytes "\x00\x00')
    assert len(line) == LINE


def test_bits_without_a_name_are_shown_beside_those_with_one() -> None:
    line = format_message(Options(6, Action.ADDHDRS, Step.NOHELO | 0x40000000))

    assert line.endswith("steps=NOHELO|0x40000000")


def test_name_is_that_of_the_code() -> None:
    assert message_name(ChgHeader(1, b"Subject", b"")) == "CHGHEADER"


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_everything_that_real_mtas_said_has_a_line(path: Path) -> None:
    readers = {"mta": FrameReader(), "filter": FrameReader()}
    lines = 0
    for event in json.loads(path.read_text())["events"]:
        reader = readers.get(event["dir"])
        if reader is None or "hex" not in event:
            continue
        reader.feed(bytes.fromhex(event["hex"]))
        while frame := reader.next_frame():
            message = (decode_command if event["dir"] == "mta" else decode_answer)(*frame)
            assert_line(format_message(message), LINE)
            lines += 1
    assert lines


@given(
    code=st.sampled_from(sorted({*COMMANDS, *ANSWERS})),
    payload=st.binary(max_size=400),
    limit=st.integers(16, 300),
)
def test_whatever_can_be_decoded_has_a_printable_line_within_the_limit(
    code: int, payload: bytes, limit: int
) -> None:
    for decode in (decode_command, decode_answer):
        try:
            message: Message = decode(code, payload)
        except RemoteProtocolError:
            continue
        assert_line(format_message(message, limit), limit)


def assert_line(line: str, limit: int) -> None:
    assert line.isprintable()
    assert 0 < len(line) <= limit
