"""What an MTA takes out of a message; the differences were seen on Postfix 3.7 and Sendmail 8.17."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter.client import POSTFIX, SENDMAIL, Content, Dialect, Field, read_message

BOTH = pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL])


def fields(data: bytes, dialect: Dialect) -> list[tuple[bytes, bytes]]:
    return [(field.name, field.value) for field in read_message(data, dialect).fields]


@BOTH
@pytest.mark.parametrize(
    "data", [b"A: 1\nB:2\n\nbody\n", b"A: 1\r\nB:2\r\n\r\nbody\r\n", b"A: 1\nB:2\n\nbody"]
)
def test_line_ends_of_files_and_of_smtp(dialect: Dialect, data: bytes) -> None:
    assert read_message(data, dialect) == Content(
        (Field(b"A", b" 1"), Field(b"B", b"2")), b"body\r\n"
    )


@BOTH
def test_folded_lines_are_joined_by_lf(dialect: Dialect) -> None:
    data = b"A: 1\r\n 2\r\n\t \r\n3: x\r\n\r\n"
    assert fields(data, dialect) == [(b"A", b" 1\n 2\n\t "), (b"3", b" x")]


@BOTH
def test_white_space_before_the_colon_is_dropped(dialect: Dialect) -> None:
    assert fields(b"A \t: 1\n\n", dialect) == [(b"A", b" 1")]


@BOTH
def test_case_eight_bit_bytes_and_trailing_blanks_stay(dialect: Dialect) -> None:
    data = b"x-Lower: h\xc3\xa9 \xe9 \n\nb\xf6dy\n"
    assert fields(data, dialect) == [(b"x-Lower", b" h\xc3\xa9 \xe9 ")]
    assert read_message(data, dialect).body == b"b\xf6dy\r\n"


@BOTH
@pytest.mark.parametrize(
    "line",
    [b"no header", b": no name", b"X Y: two words", b"X-\xe9: eight bits", b"X\x01Y: control"],
)
def test_first_other_line_ends_the_header_and_begins_the_body(
    dialect: Dialect, line: bytes
) -> None:
    content = read_message(b"A: 1\n" + line + b"\nB: 2\n\nrest\n", dialect)
    assert content.fields == (Field(b"A", b" 1"),)
    assert content.body == line + b"\r\nB: 2\r\n\r\nrest\r\n"
    assert not content.blank


@BOTH
def test_white_space_before_any_field_is_body(dialect: Dialect) -> None:
    assert read_message(b" A: 1\n\n", dialect) == Content((), b" A: 1\r\n\r\n", blank=False)


def test_line_with_two_hyphens_is_no_field_for_sendmail() -> None:
    assert fields(b"--A: 1\n\n", SENDMAIL) == []
    assert fields(b"--A: 1\n\n", POSTFIX) == [(b"--A", b" 1")]


@BOTH
@pytest.mark.parametrize(
    ("data", "blank"), [(b"A: 1\n", False), (b"A: 1\n\n", True), (b"", False), (b"\n", True)]
)
def test_message_without_a_body(dialect: Dialect, data: bytes, blank: bool) -> None:
    content = read_message(data, dialect)
    assert (content.body, content.blank) == (b"", blank)


@pytest.mark.parametrize(
    ("dialect", "shown"),
    [
        (POSTFIX, [(b"X-Mailbox-Line", b" From joe Sun"), (b"A", b" 1")]),
        (SENDMAIL, [(b"A", b" 1")]),
    ],
)
def test_delivery_note_of_a_mailbox(dialect: Dialect, shown: list[tuple[bytes, bytes]]) -> None:
    assert fields(b"From joe Sun\nA: 1\n\n", dialect) == shown


def test_postfix_hides_fields_that_it_drops() -> None:
    data = b"Bcc: x\nA: 1\nReturn-Path: <x>\nCONTENT-LENGTH: 1\nResent-Bcc: y\n\n"
    assert fields(data, POSTFIX) == [(b"A", b" 1")]
    assert len(fields(data, SENDMAIL)) == 5


def test_sendmail_ignores_empty_fields_that_it_makes_itself() -> None:
    data = b"Date:\nFrom: \nX-Empty:\nReceived:\n\n"
    assert [name for name, _ in fields(data, SENDMAIL)] == [b"X-Empty", b"Received"]
    assert len(fields(data, POSTFIX)) == 4


def test_nul_ends_a_header_line_for_postfix_and_is_dropped_by_sendmail() -> None:
    data = b"A: x\x00y\n z\x00\n w\n\nb\x00dy\n"
    assert fields(data, POSTFIX) == [(b"A", b" x\n z\n w")]
    assert fields(data, SENDMAIL) == [(b"A", b" xy\n z\n w")]
    assert read_message(data, POSTFIX).body == read_message(data, SENDMAIL).body == b"b\x00dy\r\n"


def test_nul_in_a_name_ends_the_header_for_postfix() -> None:
    assert fields(b"A\x00B: x\n\n", POSTFIX) == []
    assert fields(b"A\x00B: x\n\n", SENDMAIL) == [(b"AB", b" x")]


def test_postfix_takes_a_bare_lf_for_a_line_end() -> None:
    content = read_message(b"A: 1\nB: 2\r\n\r\none\ntwo\r\r\n", POSTFIX)
    assert content.fields == (Field(b"A", b" 1"), Field(b"B", b" 2"))
    assert content.body == b"one\r\ntwo\r\n"


def test_postfix_takes_a_bare_cr_for_a_space() -> None:
    content = read_message(b"A: 1\r2\r\n\r\none\rtwo\r\n", POSTFIX)
    assert content == Content((Field(b"A", b" 1 2"),), b"one two\r\n")


@pytest.mark.parametrize(
    ("data", "word"), [(b"A: 1\nB: 2\r\n\r\n", "linefeed"), (b"A: 1\r2\r\n\r\n", "carriage")]
)
def test_sendmail_refuses_bare_line_breaks_and_closes(data: bytes, word: str) -> None:
    refusal = read_message(data, SENDMAIL).refusal
    assert refusal is not None
    assert refusal.reply.startswith("421 4.5.0")
    assert word in refusal.reply
    assert refusal.closes


def test_postfix_cuts_a_field_at_60000_bytes() -> None:
    [(name, value), after] = fields(b"X-A: " + b"y" * 70_000 + b"\nB: 2\n\n", POSTFIX)
    assert len(name + b":" + value) == 60_000
    assert after == (b"B", b" 2")


def test_cut_field_does_not_end_in_an_empty_line() -> None:
    [(_, value)] = fields(b"X-F: " + b"\n yyyyyyyyy" * 6400 + b"\n\n", POSTFIX)
    assert value.endswith(b"y")


def test_sendmail_refuses_a_header_over_32768_bytes() -> None:
    data = b"".join(b"X-%d: %s\n" % (n, b"y" * 900) for n in range(40)) + b"\n"
    refusal = read_message(data, SENDMAIL).refusal
    assert refusal == ("552 5.6.0 Headers too large (32768 max)", False)
    assert len(fields(data, POSTFIX)) == 40


@BOTH
def test_large_body_is_taken_whole(dialect: Dialect) -> None:
    body = b"0123456789abcdef\r\n" * 100_000
    assert read_message(b"A: 1\r\n\r\n" + body, dialect).body == body


@given(st.binary(max_size=200), st.sampled_from([POSTFIX, SENDMAIL]))
def test_any_bytes_are_a_message(data: bytes, dialect: Dialect) -> None:
    content = read_message(data, dialect)
    assert not content.body or content.body.endswith(b"\r\n")
    for field in content.fields:
        assert dialect.header.match(field.name + b":" + field.value)
        assert b"\r" not in field.value
        assert b"\0" not in field.value


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z-]{3,8}", fullmatch=True),
            st.from_regex(r" [ -~]{1,20}(\n [!-~]{1,5})?", fullmatch=True),
        )
    ),
    st.lists(st.from_regex(r"[ -~]{0,20}", fullmatch=True)),
)
def test_well_formed_message_is_taken_as_written(
    header: list[tuple[str, str]], lines: list[str]
) -> None:
    header = [(f"X{name}", value) for name, value in header]
    text = (
        "".join(f"{name}:{value}\n" for name, value in header)
        + "\n"
        + "".join(f"{line}\n" for line in lines)
    )
    for dialect in (POSTFIX, SENDMAIL):
        content = read_message(text.encode(), dialect)
        assert [(f.name.decode(), f.value.decode()) for f in content.fields] == header
        assert content.body == "".join(f"{line}\r\n" for line in lines).encode()
