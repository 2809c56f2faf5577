from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter import LocalProtocolError, arguments


@pytest.mark.parametrize("name", ["Subject", "X-A", "!#$%&'*+-./0123456789;<=>?@[]^_`{|}~"])
def test_header_name_may_hold_33_to_126_without_colon(name: str) -> None:
    assert arguments.header_name(name) == name.encode("ascii")


@pytest.mark.parametrize(
    "name",
    ["", " ", "A B", "A:", ":", "A\r\nB", "A\0", "A\t", "Ä", "\x7f", "\udcff"],
)
def test_other_header_names_are_refused(name: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^name "):
        arguments.header_name(name)


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ("", b""),
        ("yes", b"yes"),
        (" leading", b" leading"),
        ("trailing ", b"trailing "),
        ("a\n b", b"a\n b"),
        ("a\n\tb", b"a\n\tb"),
        ("a\r\n b", b"a\n b"),
        ("a\r\n\tb\n c", b"a\n\tb\n c"),
        ("Grüße", b"Gr\xc3\xbc\xc3\x9fe"),
        ("\udcff\udc80", b"\xff\x80"),
        ("\x01\x1b\x7f", b"\x01\x1b\x7f"),
    ],
)
def test_header_value_on_the_wire(value: str, wire: bytes) -> None:
    assert arguments.header_value(value) == wire


@pytest.mark.parametrize(
    "value",
    ["a\rb", "a\r", "\r\n", "\n", "a\nb", "a\n", "a\r\nb", "a\n b\nc", "a\r\r\n b", "a\0b", "\0"],
)
def test_header_value_cannot_begin_another_line(value: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^value"):
        arguments.header_value(value)


@given(st.text(st.sampled_from("ab \t\r\n\0:")))
def test_no_header_value_injects_a_header_or_ends_the_header(value: str) -> None:
    try:
        wire = arguments.header_value(value)
    except LocalProtocolError:
        return
    assert b"\r" not in wire
    assert b"\0" not in wire
    assert all(line[:1] in (b" ", b"\t") for line in wire.split(b"\n")[1:])


@pytest.mark.parametrize("text", ["a\r", "a\n", "\0", "\t", "\x7f"])
def test_plain_text_has_no_control_characters(text: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^reason must not contain control characters"):
        arguments.plain(text, "reason")


@pytest.mark.parametrize("text", ["<a@example.com>", "a@example.com", "<>", "<ü@example.com>"])
def test_address_is_taken_as_it_is(text: str) -> None:
    assert arguments.address(text) == text.encode()


@pytest.mark.parametrize("text", ["", " "])
def test_empty_address_is_refused_and_the_null_sender_named(text: str) -> None:
    with pytest.raises(LocalProtocolError, match=r'^address .*"<>"'):
        arguments.address(text)


@pytest.mark.parametrize("number", [0, 1, 2**31 - 1])
def test_index_is_passed_on(number: int) -> None:
    assert arguments.index(number, "index") == number


@pytest.mark.parametrize("number", [-1, 2**31, 2**63])
def test_index_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"^index must be from 0 .* not {number}"):
        arguments.index(number, "index")


@pytest.mark.parametrize("number", [True, 1.0, "1", None])
def test_index_must_be_an_integer(number: Any) -> None:
    with pytest.raises(TypeError, match="index must be int"):
        arguments.index(number, "index")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (arguments.header_name, "name"),
        (arguments.header_value, "value"),
        (arguments.address, "address"),
    ],
)
@pytest.mark.parametrize("value", [None, b"x", 5])
def test_text_must_be_text_and_the_error_names_it(function: Any, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be str, not"):
        function(value)
