"""Who gets the message after additions and removals; each row was seen on the real MTA."""

from __future__ import annotations

import pytest

from pmilter.client import POSTFIX, SENDMAIL, Dialect
from pmilter.testing.recipients import RecipientList, mailboxes

ROWS = [
    # given by the client, then "+" adds and "-" removes, with the result on Postfix and on Sendmail
    ("<b@x> <b@x>", "", "b@x", "b@x"),
    ("<b@x> <B@x>", "", "b@x", "b@x B@x"),
    ("<b@x>", "+<c@x>", "b@x c@x", "b@x c@x"),
    ("<b@x>", "+b@x", "b@x b@x", "b@x"),
    ("<b@x>", "+b@x +b@x", "b@x b@x", "b@x"),
    ("<b@x>", "+n@x +N@x", "b@x n@x", "b@x n@x N@x"),
    ("<b@x> <c@x>", "-<b@x>", "c@x", "c@x"),
    ("<b@x> <c@x>", "-b@x", "c@x", "c@x"),
    ("<b@x> <c@x>", "-B@x", "b@x c@x", "b@x c@x"),
    ("<b@x> <c@x>", "-q@x", "b@x c@x", "b@x c@x"),
    ("<b@x>", "-b@x", "", ""),
    ("<b@x>", "-b@x +b@x +b@x", "b@x", "b@x"),
    ("<b@x> <c@x>", "+b@x -b@x", "c@x", "c@x"),
    ("<b@x>", "+n@x -n@x +n@x", "b@x n@x", "b@x n@x"),
    ("<b@x>", "+m@x,n@x", "b@x m@x", "b@x m@x n@x"),
    ("<b@x>", "+<m@x>,<n@x>", "b@x m@x", "b@x m@x n@x"),
]


def play(given: str, changes: str, dialect: Dialect) -> str:
    recipients = RecipientList(given.encode().split(), dialect)
    for change in changes.encode().split():
        (recipients.add if change.startswith(b"+") else recipients.remove)(change[1:])
    return b" ".join(recipients.addresses()).decode()


@pytest.mark.parametrize(("given", "changes", "postfix", "sendmail"), ROWS)
def test_recipients_after_changes(given: str, changes: str, postfix: str, sendmail: str) -> None:
    assert play(given, changes, POSTFIX) == postfix
    assert play(given, changes, SENDMAIL) == sendmail


@pytest.mark.parametrize(("dialect", "copies"), [(POSTFIX, 2), (SENDMAIL, 1)])
def test_other_parameters_make_another_recipient_for_postfix(dialect: Dialect, copies: int) -> None:
    recipients = RecipientList([b"<b@x>"], dialect)
    recipients.add(b"<n@x>")
    recipients.add(b"<n@x>", b"NOTIFY=NEVER")
    assert recipients.addresses() == [b"b@x"] + [b"n@x"] * copies


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"a@x", [b"a@x"]),
        (b"<a@x>", [b"a@x"]),
        (b"Joe <a@x>", [b"a@x"]),
        (b"<>", [b""]),
        (b'"a b"@x', [b'"a b"@x']),
        (b"h\xe9@x", [b"h\xe9@x"]),
        (b"us\xc3\xa9r@x", [b"us\xc3\xa9r@x"]),
    ],
)
def test_mailboxes_in_a_text(text: bytes, found: list[bytes]) -> None:
    assert mailboxes(text) == found


def test_ten_thousand_recipients_take_no_time() -> None:
    recipients = RecipientList((b"<%d@x>" % n for n in range(10_000)), POSTFIX)
    assert len(recipients.addresses()) == 10_000
