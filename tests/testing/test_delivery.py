"""The message after changes, as Postfix and as Sendmail deliver it; the rows were compared with the real ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter.client import POSTFIX, SENDMAIL, Content, Dialect, Field, read_message
from pmilter.protocol.messages import (
    AddHeader,
    AddRcpt,
    AddRcptPar,
    ChgFrom,
    ChgHeader,
    DelRcpt,
    InsHeader,
    Message,
    Quarantine,
    ReplBody,
)
from pmilter.testing.delivery import Delivery, HeaderList, deliver

BOTH = pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL])


def header(
    dialect: Dialect,
    *changes: Message,
    message: bytes = b"X: 1\nX: 2\nX: 3\nZ: z\n\n",
    leadspc: bool = False,
) -> str:
    """The header after changes, fields joined by a bar; most of the rows are about three fields X."""
    content = read_message(message, dialect)
    delivered = deliver(content, b"<a@x>", [b"<b@y>"], changes, dialect, leadspc=leadspc).message
    return (
        delivered.removesuffix(b"\r\n\r\n")
        .replace(b": ", b":")
        .replace(b"\r\n", b"|")
        .decode("latin-1")
    )


def chg(index: int, value: bytes, name: bytes = b"X") -> ChgHeader:
    return ChgHeader(index, name, value)


DELETIONS = [
    # indexes deleted, and what is left on Postfix, which renumbers, and on Sendmail, which does not
    ((1,), "X:2|X:3|Z:z", "X:2|X:3|Z:z"),
    ((1, 1, 1), "Z:z", "X:2|X:3|Z:z"),
    ((1, 2, 3), "X:2|Z:z", "Z:z"),
    ((3, 2, 1), "Z:z", "Z:z"),
    ((2, 2), "X:1|Z:z", "X:1|X:3|Z:z"),
    ((4,), "X:1|X:2|X:3|Z:z", "X:1|X:2|X:3|Z:z"),
    ((0,), "X:2|X:3|Z:z", "X:2|X:3|Z:z"),
]


@pytest.mark.parametrize(("indexes", "postfix", "sendmail"), DELETIONS)
def test_deleting(indexes: tuple[int, ...], postfix: str, sendmail: str) -> None:
    changes = [chg(index, b"") for index in indexes]
    assert header(POSTFIX, *changes) == postfix
    assert header(SENDMAIL, *changes) == sendmail


def test_change_after_deletion_revives_the_field_on_sendmail() -> None:
    changes = (chg(1, b""), chg(1, b"new"))
    assert header(SENDMAIL, *changes) == "X:new|X:2|X:3|Z:z"
    assert header(POSTFIX, *changes) == "X:new|X:3|Z:z"


@BOTH
@pytest.mark.parametrize(
    ("index", "after"), [(0, "X:N|X:2|X:3|Z:z"), (1, "X:N|X:2|X:3|Z:z"), (3, "X:1|X:2|X:N|Z:z")]
)
def test_changing(dialect: Dialect, index: int, after: str) -> None:
    assert header(dialect, chg(index, b"N")) == after


def test_changed_name_takes_the_new_spelling_on_postfix_only() -> None:
    change = chg(2, b"N", b"x")
    assert header(POSTFIX, change) == "X:1|x:N|X:3|Z:z"
    assert header(SENDMAIL, change) == "X:1|X:N|X:3|Z:z"


def test_change_of_a_missing_field_adds_it() -> None:
    assert header(POSTFIX, chg(1, b"n", b"New"), chg(9, b"n")) == "X:1|X:2|X:3|Z:z|New:n|X:n"
    assert header(SENDMAIL, chg(1, b"n", b"New"), chg(9, b"n")) == "X:n|X:1|X:2|X:3|Z:z|New:n"


@BOTH
def test_deleting_a_missing_field_does_nothing(dialect: Dialect) -> None:
    assert header(dialect, chg(1, b"", b"New")) == "X:1|X:2|X:3|Z:z"


def test_adding_where_the_name_exists() -> None:
    changes = (AddHeader(b"X", b"n"), AddHeader(b"x", b"m"))
    assert header(POSTFIX, *changes) == "X:1|X:2|X:3|Z:z|X:n|x:m"
    assert header(SENDMAIL, *changes) == "x:m|X:n|X:1|X:2|X:3|Z:z"


@BOTH
def test_adding_a_new_name(dialect: Dialect) -> None:
    assert header(dialect, AddHeader(b"New", b"n")) == "X:1|X:2|X:3|Z:z|New:n"


@BOTH
def test_added_field_can_be_changed(dialect: Dialect) -> None:
    assert (
        header(dialect, AddHeader(b"New", b"n"), chg(1, b"m", b"new"), chg(1, b"", b"New"))
        == "X:1|X:2|X:3|Z:z"
    )


INSERTIONS = [
    # positions: Postfix counts its Received, Sendmail also seven fields that it may add later
    (0, "A:a|X:1|X:2|X:3|Z:z", "A:a|X:1|X:2|X:3|Z:z"),
    (1, "A:a|X:1|X:2|X:3|Z:z", "A:a|X:1|X:2|X:3|Z:z"),
    (2, "X:1|A:a|X:2|X:3|Z:z", "A:a|X:1|X:2|X:3|Z:z"),
    (4, "X:1|X:2|X:3|A:a|Z:z", "A:a|X:1|X:2|X:3|Z:z"),
    (8, "X:1|X:2|X:3|Z:z|A:a", "A:a|X:1|X:2|X:3|Z:z"),
    (9, "X:1|X:2|X:3|Z:z|A:a", "X:1|A:a|X:2|X:3|Z:z"),
    (99, "X:1|X:2|X:3|Z:z|A:a", "X:1|X:2|X:3|Z:z|A:a"),
]


@pytest.mark.parametrize(("position", "postfix", "sendmail"), INSERTIONS)
def test_inserting(position: int, postfix: str, sendmail: str) -> None:
    assert header(POSTFIX, InsHeader(position, b"A", b"a")) == postfix
    assert header(SENDMAIL, InsHeader(position, b"A", b"a")) == sendmail


@BOTH
@pytest.mark.parametrize("position", [0, 1])
def test_later_insertion_at_the_same_position_stands_above(dialect: Dialect, position: int) -> None:
    changes = (InsHeader(position, b"A", b"a"), InsHeader(position, b"B", b"b"))
    assert header(dialect, *changes) == "B:b|A:a|X:1|X:2|X:3|Z:z"


@BOTH
def test_insertion_at_1_is_below_the_received_and_at_0_above(dialect: Dialect) -> None:
    changes = (InsHeader(1, b"Below", b""), InsHeader(0, b"Above", b""))
    assert header(dialect, *changes, message=b"Z: z\n\n") == "Above:|Below:|Z:z"


@BOTH
def test_inserted_field_counts_for_changes(dialect: Dialect) -> None:
    assert header(dialect, InsHeader(0, b"X", b"0"), chg(1, b"N")) == "X:N|X:1|X:2|X:3|Z:z"


@BOTH
def test_the_mta_s_own_received_cannot_be_changed(dialect: Dialect) -> None:
    message = b"Received: old\nX: 1\n\n"
    assert header(dialect, chg(1, b"N", b"Received"), message=message) == "Received:N|X:1"
    assert header(dialect, chg(1, b"", b"Received"), message=message) == "X:1"


def test_sendmail_adds_a_received_above_its_own() -> None:
    changes = (InsHeader(0, b"A", b"a"), AddHeader(b"Received", b"new"))
    assert (
        header(SENDMAIL, *changes, message=b"Received: old\n\n") == "A:a|Received:new|Received:old"
    )


def test_sendmail_puts_an_added_date_in_the_place_of_its_own() -> None:
    message = b"X: 1\nDate: old\n\n"
    assert header(SENDMAIL, AddHeader(b"Date", b"new"), message=message) == "Date:new|X:1|Date:old"
    assert header(SENDMAIL, chg(2, b"new", b"Date"), message=message) == "Date:new|X:1|Date:old"
    assert header(POSTFIX, AddHeader(b"Date", b"new"), message=message) == "X:1|Date:old|Date:new"


@BOTH
def test_deleted_date_stays_deleted(dialect: Dialect) -> None:
    assert header(dialect, chg(1, b"", b"Date"), message=b"Date: old\nX: 1\n\n") == "X:1"


def test_fields_that_sendmail_drops_at_the_end() -> None:
    message = b"To: t\nBcc: b\nReturn-Path: <r>\nContent-Length: 1\nFull-Name: f\nX: 1\n\n"
    assert header(SENDMAIL, message=message) == "To:t|X:1"
    assert header(SENDMAIL, AddHeader(b"Return-Path", b"<r>"), message=b"X: 1\n\n") == "X:1"
    assert (
        header(POSTFIX, AddHeader(b"Return-Path", b"<r>"), message=b"X: 1\n\n")
        == "X:1|Return-Path:<r>"
    )


def test_sendmail_empties_bcc_where_no_other_field_names_a_recipient() -> None:
    assert header(SENDMAIL, message=b"Bcc: b\nX: 1\n\n") == "Bcc:|X:1"
    assert header(SENDMAIL, AddHeader(b"To", b"t"), message=b"Bcc: b\nX: 1\n\n") == "Bcc:|X:1|To:t"
    assert header(SENDMAIL, chg(1, b"", b"Cc"), message=b"Cc: c\nBcc: b\nX: 1\n\n") == "X:1"


# --- values


@BOTH
def test_values_get_a_space_unless_they_bring_their_own(dialect: Dialect) -> None:
    content = Content((Field(b"Z", b"z"),), b"")
    for leadspc, line in ((False, b"A: v\r\n"), (True, b"A:v\r\n")):
        message = deliver(
            content, b"", [], [AddHeader(b"A", b"v")], dialect, leadspc=leadspc
        ).message
        assert message == b"Z:z\r\n" + line + b"\r\n"


@BOTH
def test_folded_value_has_crlf_when_delivered(dialect: Dialect) -> None:
    fields = HeaderList([], dialect)
    fields.add(b"A", b"one\n two\n\tthree")
    assert fields.encode() == b"A: one\r\n two\r\n\tthree\r\n"


@pytest.mark.parametrize(("dialect", "fold"), [(POSTFIX, b"\t"), (SENDMAIL, b" ")])
def test_line_without_white_space_becomes_a_continuation(dialect: Dialect, fold: bytes) -> None:
    fields = HeaderList([], dialect)
    fields.add(b"A", b"one\ntwo\n")
    assert fields.encode() == b"A: one\r\n" + fold + b"two\r\n" + fold + b"\r\n"


@BOTH
def test_eight_bit_bytes_are_delivered_as_they_are(dialect: Dialect) -> None:
    fields = HeaderList([Field(b"A", b" \xc3\xa9 \xe9")], dialect)
    fields.change(1, b"A", b"\xff")
    fields.add(b"B", b"\xe9")
    assert fields.encode() == b"A: \xff\r\nB: \xe9\r\n"


# --- body


def body(dialect: Dialect, *chunks: bytes, message: bytes = b"X: 1\n\nold\n") -> bytes:
    changes = [ReplBody(chunk) for chunk in chunks]
    return deliver(read_message(message, dialect), b"", [], changes, dialect).message.partition(
        b"\r\n"
    )[2]


@BOTH
@pytest.mark.parametrize(
    ("chunks", "after"),
    [
        ((), b"\r\nold\r\n"),
        ((b"new\r\n",), b"\r\nnew\r\n"),
        ((b"new",), b"\r\nnew\r\n"),
        ((b"",), b"\r\n"),
        ((b"one\r", b"\ntwo\n", b"three"), b"\r\none\r\ntwo\r\nthree\r\n"),
        ((b"bare\rcr\0nul\n.\n",), b"\r\nbare\rcr\0nul\r\n.\r\n"),
    ],
)
def test_new_body(dialect: Dialect, chunks: tuple[bytes, ...], after: bytes) -> None:
    assert body(dialect, *chunks) == after


@BOTH
def test_large_new_body(dialect: Dialect) -> None:
    chunk = b"x" * 65_533 + b"\r\n"
    assert body(dialect, *[chunk] * 32) == b"\r\n" + chunk * 32


def test_blank_line_after_a_header_without_body() -> None:
    assert body(POSTFIX, message=b"X: 1\n") == b""
    assert body(SENDMAIL, message=b"X: 1\n") == b"\r\n"
    for dialect in (POSTFIX, SENDMAIL):
        assert body(dialect, message=b"X: 1\n\n") == b"\r\n"
        assert body(dialect, b"new\r\n", message=b"X: 1\n") == b"\r\nnew\r\n"
        assert body(dialect, message=b"X: 1\nno field\n") == b"\r\nno field\r\n"


# --- envelope


def envelope(*changes: Message) -> Delivery:
    return deliver(Content((), b""), b"<a@x>", [b"<b@y>"], changes, POSTFIX)


@pytest.mark.parametrize(("text", "sender"), [(b"<n@x>", b"n@x"), (b"n@x", b"n@x"), (b"<>", b"")])
def test_new_sender(text: bytes, sender: bytes) -> None:
    assert envelope(ChgFrom(text, b"ENVID=1")).sender == sender


def test_envelope_without_changes_has_no_brackets() -> None:
    assert envelope()[1:] == (b"a@x", [b"b@y"], None)


def test_recipients_are_added_and_removed() -> None:
    changed = envelope(AddRcpt(b"<c@y>"), AddRcptPar(b"<d@y>", b"NOTIFY=NEVER"), DelRcpt(b"<b@y>"))
    assert changed.recipients == [b"c@y", b"d@y"]


def test_quarantine_keeps_the_latest_reason() -> None:
    assert envelope(Quarantine(b"one"), Quarantine(b"two")).quarantine == b"two"


# --- laws


_names = st.sampled_from([b"X", b"x", b"Date", b"Received", b"New"])
_values = st.sampled_from([b"", b"v", b"w\n x"])
_changes = st.lists(
    st.one_of(
        st.builds(AddHeader, _names, _values),
        st.builds(InsHeader, st.integers(0, 20), _names, _values),
        st.builds(ChgHeader, st.integers(0, 5), _names, _values),
    ),
    max_size=12,
)


@given(_changes, st.sampled_from([POSTFIX, SENDMAIL]))
def test_any_changes_leave_a_well_formed_header(changes: list[Message], dialect: Dialect) -> None:
    content = read_message(b"Received: r\nX: 1\nDate: d\nX: 2\n\nbody\n", dialect)
    message = deliver(content, b"", [], changes, dialect).message
    assert message.endswith(b"\r\n\r\nbody\r\n")
    assert read_message(message, POSTFIX).body == b"body\r\n"


@given(st.lists(st.integers(1, 6), min_size=1, unique=True), st.sampled_from([POSTFIX, SENDMAIL]))
def test_deleting_from_the_highest_index_down_is_the_same_everywhere(
    indexes: list[int], dialect: Dialect
) -> None:
    fields = [Field(b"X", b" %d" % n) for n in range(1, 7)]
    kept = HeaderList(fields, dialect)
    for index in sorted(indexes, reverse=True):
        kept.change(index, b"X", b"")
    expected = b"".join(b"X: %d\r\n" % n for n in range(1, 7) if n not in indexes)
    assert kept.encode() == expected
