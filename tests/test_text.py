from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter import LocalProtocolError, printable
from pmilter.text import decode, encode


@given(st.binary())
def test_any_bytes_survive_the_round_trip(data: bytes) -> None:
    assert encode(decode(data), "text") == data


def test_utf8_is_decoded_as_utf8() -> None:
    assert decode(b"J\xc3\xbcrgen") == "Jürgen"


def test_other_bytes_become_lone_surrogates() -> None:
    assert decode(b"J\xfcrgen") == "J\udcfcrgen"


def test_a_surrogate_that_no_byte_stands_for_is_refused_by_name() -> None:
    with pytest.raises(LocalProtocolError, match="subject"):
        encode("\ud800", "subject")


def test_wrong_type_names_the_argument() -> None:
    with pytest.raises(TypeError, match="subject must be str, not bytes"):
        encode(b"x", "subject")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("Grüße", "Grüße"),
        ("a\r\nFrom: forged", r"a\r\nFrom: forged"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\udcfc", r"\udcfc"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\x00\x7f\x85\u2028", r"\x00\x7f\x85\u2028"),
        ("", ""),
    ],
)
def test_printable_shows_what_a_terminal_would_act_on(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_printable_is_always_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
