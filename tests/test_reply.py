from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter import LocalProtocolError, Reply


def wire(reply: Reply) -> bytes:
    return reply.encode().text


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(550, "5.1.1", "no such user"), b"550 5.1.1 no such user"),
        (Reply("451", "4.7.1", "later"), b"451 4.7.1 later"),
        (Reply(550, None, "no"), b"550 no"),
        (Reply(550), b"550 "),
        (Reply(550, "5.7.1"), b"550 5.7.1 "),
        (Reply(421, "4.3.2", "closing"), b"421 4.3.2 closing"),
        (Reply(550, "5.123.456", "x"), b"550 5.123.456 x"),
    ],
)
def test_one_line(reply: Reply, text: bytes) -> None:
    assert wire(reply) == text


def test_every_line_carries_code_and_xcode() -> None:
    reply = Reply(550, "5.7.1", "first", "", "last")
    assert wire(reply) == b"550-5.7.1 first\r\n550-5.7.1 \r\n550 5.7.1 last"
    assert str(reply) == "550-5.7.1 first\n550-5.7.1 \n550 5.7.1 last"


def test_percent_is_doubled_on_the_wire_and_read_once() -> None:
    reply = Reply(451, "4.7.1", "queue 100% full, %s %%")
    assert wire(reply) == b"451 4.7.1 queue 100%% full, %%s %%%%"
    assert str(reply) == "451 4.7.1 queue 100% full, %s %%"


def test_other_than_ascii_becomes_a_question_mark() -> None:
    assert wire(Reply(550, None, "für \udcff 😀")) == b"550 f?r ? ?"


def test_text_that_begins_with_a_digit_is_not_taken_for_an_xcode() -> None:
    assert wire(Reply(550, None, "2 many")) == b"550 5.0.0 2 many"


@pytest.mark.parametrize(
    "code",
    [250, 354, 600, 55, 5500, -550, "550 ", "550\n", "5xx", "", "５５０"],  # noqa: RUF001  # digits of another script
)
def test_code_is_three_digits_of_class_4_or_5(code: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"^code must be"):
        Reply(code, None, "x")


@pytest.mark.parametrize("code", [550.0, None, True, b"550"])
def test_code_of_another_type(code: Any) -> None:
    with pytest.raises(TypeError, match="code must be int or str"):
        Reply(code)


@pytest.mark.parametrize(
    "xcode", ["4.7.1", "5.7", "5", "5.7.1.1", "5.1234.1", "5.7.1 ", "5.7.1\n", "x", "2.0.0"]
)
def test_xcode_is_of_the_same_class(xcode: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^xcode must have the form"):
        Reply(550, xcode, "x")


def test_xcode_of_another_type() -> None:
    with pytest.raises(TypeError, match="xcode must be str or None"):
        Reply(550, 5.7)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("line", ["a\rb", "a\nb", "a\r\n250 ok", "a\0b", "\n"])
def test_line_cannot_begin_another_reply(line: str) -> None:
    with pytest.raises(LocalProtocolError, match="must not contain CR, LF or NUL"):
        Reply(550, None, "first", line)


def test_line_of_980_bytes_is_the_longest() -> None:
    assert len(wire(Reply(550, None, "x" * 980))) == 984
    with pytest.raises(LocalProtocolError, match="at most 980 bytes, not 981"):
        Reply(550, None, "x" * 981)


def test_percent_signs_count_as_the_client_reads_them() -> None:
    assert len(wire(Reply(550, None, "%" * 980))) == 4 + 2 * 980


def test_32_lines_are_the_most() -> None:
    assert wire(Reply(550, None, *["x"] * 32)).count(b"\r\n") == 31
    with pytest.raises(LocalProtocolError, match="at most 32 lines, not 33"):
        Reply(550, None, *["x"] * 33)


def test_line_of_another_type() -> None:
    with pytest.raises(TypeError, match="line of a reply must be str, not bytes"):
        Reply(550, None, b"x")  # type: ignore[arg-type]  # that is the point


def test_equal_replies_are_one() -> None:
    assert {Reply(550, None, "x"), Reply("550", "", "x"), Reply(551)} == {
        Reply(550, None, "x"),
        Reply(551),
    }
    assert Reply(550) != "550 "


def test_repr_makes_the_same_reply_again() -> None:
    reply = Reply(550, "5.7.1", "a", "b")
    assert eval(repr(reply)) == reply


def test_reply_cannot_be_changed() -> None:
    reply = Reply(550, None, "x")
    with pytest.raises(AttributeError):
        reply.code = "250"
    assert wire(reply) == b"550 x"


LINES = st.lists(st.text(max_size=30), min_size=1, max_size=5)


@given(st.integers(400, 599), LINES)
def test_whatever_is_taken_is_one_well_formed_reply(code: int, lines: list[str]) -> None:
    try:
        text = wire(Reply(code, None, *lines))
    except LocalProtocolError:
        assert any(set(line) & set("\r\n\0") for line in lines)
        return
    found = text.split(b"\r\n")
    assert all(line.startswith(b"%d" % code) for line in found)
    assert {line[3:4] for line in found[:-1]} <= {b"-"}
    assert found[-1][3:4] == b" "
    assert text.isascii()
    assert b"%" not in text.replace(b"%%", b"")
    assert not any({*line} & {*b"\r\n\0"} for line in found)
