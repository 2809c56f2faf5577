from __future__ import annotations

import pytest

from pmilter.cli.sample import milter
from pmilter.testing.mta import Mta

INSIDE = ("desk.example.org", "192.0.2.99")
OUTSIDE = ("mail.example.com", "198.51.100.1")


def with_attachment(name: str) -> bytes:
    return (
        b"Subject: see attachment\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nhi\n--x\n"
        b"Content-Disposition: attachment; filename=" + name.encode() + b"\n\ndata\n--x--\n"
    )


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_mail_from_the_office_is_left_alone(dialect: str) -> None:
    with Mta(milter, connect=INSIDE, dialect=dialect) as mta:
        result = mta.send(b"Subject: hello\n\nhello\n")

    assert (result.verdict, result.changes, result.errors) == ("accept", [], [])


@pytest.mark.parametrize("client", [OUTSIDE, ("mail.example.com", "2001:db8::1"), "/run/x", None])
def test_mail_from_elsewhere_is_marked(client: tuple[str, str] | str | None) -> None:
    with Mta(milter, connect=client) as mta:
        result = mta.send(b"Subject: hello\n\nhello\n")

    assert result.message is not None
    assert result.message.startswith(b"Subject: [external] hello\r\nX-Received-From: ")


def test_marks_of_one_message_do_not_reach_the_next() -> None:
    with Mta(milter, connect=OUTSIDE) as mta:
        mta.send(b"Subject: one\n\nhello\n")
        result = mta.send(b"From: a@example.com\n\nhello\n")

    assert result.message is not None
    assert b"Subject: [external] \r\n" in result.message


def test_subject_of_any_bytes_survives() -> None:
    with Mta(milter, connect=OUTSIDE) as mta:
        result = mta.send(b"Subject: caf\xe9\n folded\n\nhello\n")

    assert result.message is not None
    assert result.message.startswith(b"Subject: [external] caf\xe9\r\n folded\r\n")


def test_former_colleague_is_refused_and_the_others_get_their_mail() -> None:
    with Mta(milter, connect=INSIDE) as mta:
        result = mta.send(b"\nhello\n", recipients=["Carol@Example.ORG", "bob@example.org"])

    assert result.recipients == ["bob@example.org"]
    assert result.rejected == {
        "Carol@Example.ORG": "550 5.1.6 Carol has left us, please write to info@example.org"
    }


@pytest.mark.parametrize("name", ["a.exe", '"My Invoice.PDF.EXE"', "x.js", "x.scr"])
def test_program_is_refused_at_the_end(name: str) -> None:
    with Mta(milter, connect=INSIDE) as mta:
        result = mta.send(with_attachment(name))

    assert (result.verdict, result.stage) == ("reject", "eom")
    assert result.reply == "550-5.7.1 Programs are not accepted here,\n550 5.7.1 please send a link"


def test_other_attachments_pass() -> None:
    with Mta(milter, connect=INSIDE) as mta:
        assert mta.send(with_attachment("exe.pdf")).verdict == "accept"
