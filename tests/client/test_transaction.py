"""One message: the order of its commands, what ends it early, and who is left of the recipients."""

from __future__ import annotations

import pytest

from pmilter.client import (
    POSTFIX,
    SENDMAIL,
    Content,
    Dialect,
    Dialogue,
    Envelope,
    Field,
    GivenMacros,
    Recipient,
    Refusal,
    Transaction,
    Verdict,
)
from pmilter.protocol.constants import Family, Status
from pmilter.protocol.messages import Connect
from tests.client.mta_script import ALL, Script

CONTENT = Content((Field(b"Subject", b" hello"), Field(b"X-A", b"1")), b"body\r\n")
CONNECT = r">> C x␀U"


def play(
    dialect: Dialect, script: str, envelope: Envelope, content: Content = CONTENT
) -> tuple[Verdict, Transaction]:
    """Play a message after a connect without helo, and return its verdict."""
    dialogue = Dialogue(dialect)
    dialogue.macros.give(
        GivenMacros({"connect": {}, "envfrom": {}, "envrcpt": {}, "eom": {}, "i": None})
    )
    player = Script(f"{ALL}>> D C\n{CONNECT}\n<< c\n{script}")
    player.run(dialogue.open())
    player.run(dialogue.connect(Connect(b"x", Family.UNKNOWN)))
    transaction = Transaction(dialogue, envelope, content)
    verdict = player.run(transaction.run())
    player.finish()
    return verdict, transaction


def to(*recipients: bytes) -> Envelope:
    return Envelope(b"<a@x>", (), tuple(map(Recipient, recipients)))


MAIL = ">> D M\n>> M <a@x>␀\n<< c\n"
RCPT = ">> D R\n>> R <b@y>␀\n<< c\n"


def test_whole_message_in_order_on_sendmail() -> None:
    script = (
        MAIL + RCPT + ">> T\n<< c\n>> L Subject␀hello␀\n<< c\n>> L X-A␀1␀\n<< c\n>> N\n<< c\n"
        r">> B body\r\n" + "\n<< c\n>> D E\n>> E\n<< c"
    )
    verdict, transaction = play(SENDMAIL, script, to(b"<b@y>"))
    assert verdict == Verdict(Status.ACCEPT, "eom")
    assert [recipient.address for recipient in transaction.recipients] == [b"<b@y>"]


def test_whole_message_in_order_on_postfix() -> None:
    script = (
        MAIL
        + RCPT
        + ">> D T\n>> T\n<< c\n>> D L\n>> L Subject␀hello␀\n<< c\n>> D L\n>> L X-A␀1␀\n<< c\n>> D N\n>> N\n<< c\n"
        r">> D B"
        "\n"
        r">> B body\r\n" + "\n<< c\n>> D E\n>> E\n<< c\n>> A"
    )
    assert play(POSTFIX, script, to(b"<b@y>"))[0] == Verdict(Status.ACCEPT, "eom")


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ("T a", Verdict(Status.ACCEPT, "data")),
        ("T d", Verdict(Status.DISCARD, "data")),
        ("L r", Verdict(Status.REJECT, "header")),
        ("N t", Verdict(Status.TEMPFAIL, "eoh")),
        ("B y", Verdict(Status.REJECT, "body", "554 5.7.1 no")),
        ("E d", Verdict(Status.DISCARD, "eom")),
        ("E a", Verdict(Status.ACCEPT, "eom")),
    ],
)
def test_verdict_ends_the_message_where_it_falls(answers: str, verdict: Verdict) -> None:
    stage, answer = answers.split()
    steps = {
        "T": ">> T",
        "L": ">> L Subject␀hello␀",
        "N": ">> N",
        "B": r">> B body\r\n",
        "E": ">> D E\n>> E",
    }
    script = MAIL + RCPT
    for code, step in steps.items():
        script += (
            f"{step}\n<< {'c' if code != stage else {'y': 'y 554 5.7.1 no␀'}.get(answer, answer)}\n"
        )
        if code == stage:
            break
    aborts = ">> A" if (code, answer) == ("T", "d") else ""
    content = CONTENT._replace(fields=CONTENT.fields[:1])
    assert play(SENDMAIL, script + aborts, to(b"<b@y>"), content)[0] == verdict


def test_refused_recipients_are_left_out() -> None:
    script = (
        MAIL
        + RCPT
        + ">> D R\n>> R <c@y>␀\n<< y 550 5.1.1 no␀\n>> D R\n>> R <d@y>␀\n<< t\n>> T\n<< a"
    )
    verdict, transaction = play(SENDMAIL, script, to(b"<b@y>", b"<c@y>", b"<d@y>"))
    assert verdict.status is Status.ACCEPT
    assert [recipient.address for recipient in transaction.recipients] == [b"<b@y>"]
    assert [
        (recipient.address, refusal.status, refusal.reply)
        for recipient, refusal in transaction.rejected
    ] == [
        (b"<c@y>", Status.REJECT, "550 5.1.1 no"),
        (b"<d@y>", Status.TEMPFAIL, None),
    ]


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [("r", "r", Status.REJECT), ("t", "r", Status.TEMPFAIL), ("r", "t", Status.TEMPFAIL)],
)
def test_message_without_a_recipient_left_is_refused_and_aborted(
    first: str, second: str, status: Status
) -> None:
    script = MAIL + f">> D R\n>> R <b@y>␀\n<< {first}\n>> D R\n>> R <c@y>␀\n<< {second}\n>> A"
    verdict, transaction = play(SENDMAIL, script, to(b"<b@y>", b"<c@y>"))
    assert verdict == Verdict(status, "envrcpt")
    assert transaction.recipients == []


def test_accept_at_a_recipient_takes_the_others_unseen() -> None:
    verdict, transaction = play(
        SENDMAIL, MAIL + ">> D R\n>> R <b@y>␀\n<< a", to(b"<b@y>", b"<c@y>")
    )
    assert verdict == Verdict(Status.ACCEPT, "envrcpt")
    assert [recipient.address for recipient in transaction.recipients] == [b"<b@y>", b"<c@y>"]


def test_discard_at_a_recipient_drops_the_message_and_aborts() -> None:
    verdict, _ = play(SENDMAIL, MAIL + ">> D R\n>> R <b@y>␀\n<< d\n>> A", to(b"<b@y>", b"<c@y>"))
    assert verdict == Verdict(Status.DISCARD, "envrcpt")


def test_421_at_a_recipient_ends_the_session() -> None:
    script = MAIL + ">> D R\n>> R <b@y>␀\n<< y 421 4.7.0 bye␀\n>> Q\n>> CLOSE"
    verdict, transaction = play(SENDMAIL, script, to(b"<b@y>", b"<c@y>"))
    assert verdict == Verdict(Status.TEMPFAIL, "envrcpt", "421 4.7.0 bye")
    assert len(transaction.rejected) == 1


def test_recipient_refused_by_the_mta_counts_as_rejected() -> None:
    envelope = Envelope(
        b"<a@x>", (), (Recipient(b"<b@y>", (), "550 5.1.1 User unknown"), Recipient(b"<c@y>"))
    )
    verdict, transaction = play(POSTFIX, MAIL + ">> D R\n>> R <c@y>␀\n<< a\n>> A", envelope)
    assert verdict.status is Status.ACCEPT
    assert transaction.rejected == [
        (envelope.recipients[0], Verdict(Status.REJECT, "envrcpt", "550 5.1.1 User unknown"))
    ]


def test_content_that_the_mta_refuses_is_not_shown() -> None:
    content = Content((), b"", refusal=Refusal("552 5.6.0 too large", closes=False))
    verdict, _ = play(SENDMAIL, MAIL + RCPT + ">> T\n<< c\n>> A", to(b"<b@y>"), content)
    assert verdict == Verdict(Status.REJECT, "data", "552 5.6.0 too large")


def test_content_for_which_the_mta_hangs_up_closes_without_a_word() -> None:
    content = Content((), b"", refusal=Refusal("421 4.5.0 Bare linefeed", closes=True))
    verdict, _ = play(SENDMAIL, MAIL + RCPT + ">> T\n<< c\n>> CLOSE", to(b"<b@y>"), content)
    assert verdict == Verdict(Status.TEMPFAIL, "data", "421 4.5.0 Bare linefeed")
