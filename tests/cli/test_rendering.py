from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from pmilter.cli.account import Account, Exchange, Outcome
from pmilter.cli.rendering import Page, explain
from pmilter.cli.scenes import Client, Scene
from pmilter.protocol.constants import Action, Family, Step
from pmilter.protocol.messages import (
    Accept,
    AddHeader,
    Connect,
    Continue,
    Eom,
    Header,
    Mail,
    Message,
    Options,
    Quit,
    ReplyCode,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

SCENE = Scene(
    "A title", "A story.", Client("c", "192.0.2.1"), "a@b.c", ("x@y.z",), b"Subject: one\n\nhi\n"
)
OFFER = Exchange(Options(6, 0x1FF, 0x1FFFFF), {}, [Options(6, Action.ADDHDRS, Step.NODATA)])
CONNECT = Exchange(Connect(b"c", Family.INET, 25, b"192.0.2.1"), {"j": "mx", "v": "1"})
MAIL = Exchange(Mail(b"<a@b.c>"), {"i": "4X1", "v": "1"}, [Continue()])
HEADERS = (
    Exchange(Header(b"Subject", b"one"), {"i": "4X1"}),
    Exchange(Header(b"To", b"x@y.z"), {"i": "4X1"}),
)


def account(
    *exchanges: Exchange,
    message: bytes | None = b"Subject: one\r\n\r\nhi\r\n",
    verdict: str = "accept",
    stage: str = "eom",
    reply: str | None = None,
    rejected: Mapping[str, str] | None = None,
) -> Account:
    outcome = Outcome(
        verdict=verdict,
        stage=stage,
        reply=reply,
        rejected=rejected or {},
        sender="a@b.c",
        recipients=() if message is None else ("x@y.z",),
        message=message,
    )
    return Account(SCENE, exchanges, outcome)


def page(
    *accounts: Account, width: int = 80, encoding: str = "utf-8", colours: bool = False
) -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(
        file=out,
        width=width,
        force_terminal=colours,
        color_system="standard" if colours else None,
        highlight=False,
        _environ={},
    )
    writer = Page(console)
    for number, one in enumerate(accounts, 1):
        writer.account(number, one)
    out.seek(0)
    return out.read()


def test_account_tells_what_was_asked_answered_changed_and_delivered() -> None:
    end = Exchange(Eom(), {}, [AddHeader(b"X", b"1"), Accept()])
    changed = b"Subject: one\r\nX: 1\r\n\r\nhi\r\n"

    text = page(account(OFFER, CONNECT, MAIL, *HEADERS, end, Exchange(Quit()), message=changed))

    assert text == (
        "\n"
        "Before all mail: what MTA and filter agree on ──────────────────────────────────\n"
        "  negotiate  → OPTNEG version=6 actions=all steps=all\n"
        "             ← OPTNEG version=6 actions=ADDHDRS steps=NODATA\n"
        "\n"
        "  The filter may call addheader, insheader.\n"
        "  It does not want to be asked at data.\n"
        "\n"
        "1. A title ─────────────────────────────────────────────────────────────────────\n"
        "  A story.\n"
        "\n"
        "  connect    → CONNECT c [192.0.2.1]:25\n"
        "               macros j=mx v=1\n"
        "  envfrom    → MAIL <a@b.c>\n"
        "               macros i=4X1\n"
        "             ← CONTINUE\n"
        "  header     → HEADER Subject: one\n"
        "             → HEADER To: x@y.z\n"
        "  eom        → BODYEOB\n"
        "             ← ADDHEADER X: 1\n"
        "             ← ACCEPT\n"
        "  close      → QUIT\n"
        "\n"
        "  message     Subject: one\n"
        "             +X: 1\n"
        "\n"
        "              hi\n"
        "\n"
        "  outcome    ✔ delivered to x@y.z\n"
    )


def test_agreement_is_told_once() -> None:
    text = page(account(OFFER, MAIL), account(OFFER, MAIL))

    assert text.count("Before all mail") == 1
    assert text.count("OPTNEG") == 2
    assert "2. A title" in text


def test_macros_are_told_anew_for_each_connection() -> None:
    assert page(account(CONNECT), account(CONNECT)).count("macros j=mx") == 2


def test_unchanged_message_is_said_to_be_so() -> None:
    assert "  message    delivered as it was sent\n" in page(account(MAIL))


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        (
            account(verdict="reject", message=None, reply="550-5.7.1 one\n550 5.7.1 two"),
            [
                "✘ rejected at eom: nobody gets the message",
                "  the client reads 550-5.7.1 one",
                "  the client reads 550 5.7.1 two",
            ],
        ),
        (
            account(verdict="tempfail", stage="envfrom", message=None),
            ["✘ refused for now at envfrom: nobody gets the message"],
        ),
        (
            account(verdict="discard", message=None),
            ["✘ discarded at eom: nobody gets the message"],
        ),
        (
            account(reply="250 queued", rejected={"o@y.z": "550 no"}),
            [
                "✘ o@y.z is refused",
                "  the client reads 550 no",
                "✔ delivered to x@y.z",
                "  the client reads 250 queued",
            ],
        ),
        (
            account(verdict="reject", stage="envrcpt", message=None, rejected={"x@y.z": "reject"}),
            ["✘ x@y.z is refused", "  the client reads reject"],
        ),
        (
            account(verdict="reject", message=None, rejected={"o@y.z": "550 no"}),
            [
                "✘ o@y.z is refused",
                "  the client reads 550 no",
                "✘ rejected at eom: nobody gets the message",
            ],
        ),
    ],
    ids=["rejected", "for now", "discarded", "one recipient", "all recipients", "both"],
)
def test_outcome_is_told_as_client_and_recipient_see_it(told: Account, lines: list[str]) -> None:
    _, _, outcome = page(told).partition("  outcome    ")

    assert [line.removeprefix(" " * 13) for line in outcome.splitlines()] == lines


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long = "word " * 60
    messages: list[Message] = [
        ReplyCode(f"550 {long}".encode()),
        AddHeader(b"X", b"x" * 500),
        Accept(),
    ]
    told = account(
        OFFER,
        Exchange(Header(b"X", long.encode()), {"long": long}),
        Exchange(Eom(), {}, messages),
        message=f"X: {long}\r\n\r\nhi\r\n".encode(),
        rejected={"o@y.z": f"550 {long}"},
    )

    lines = page(told, width=width).splitlines()

    assert max(map(len, lines)) <= width
    assert any(len(line) > width - 8 for line in lines if line.endswith("word"))


def test_very_narrow_or_wide_terminals_get_a_legible_width() -> None:
    assert max(map(len, page(account(OFFER), width=20).splitlines())) == 60
    assert max(map(len, page(account(OFFER), width=300).splitlines())) == 100


def test_terminals_without_unicode_get_other_signs() -> None:
    text = page(account(OFFER, MAIL), encoding="ascii")

    assert text.isascii()
    assert "  envfrom    > MAIL <a@b.c>\n" in text
    assert "  outcome    + delivered to x@y.z\n" in text


def test_colours_change_nothing_but_the_colours() -> None:
    told = account(OFFER, CONNECT, MAIL)
    coloured = page(told, colours=True)

    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == page(told)


def test_nothing_of_a_message_reaches_the_terminal_raw() -> None:
    evil = "\x1b[2J\x07"
    told = account(
        Exchange(Header(evil.encode(), evil.encode()), {}, [ReplyCode(b"550 " + evil.encode())]),
        message=f"X: {evil}\r\n\r\nhi\r\n".encode(),
        reply=f"550 {evil}",
        rejected={evil: evil},
    )

    assert "\x1b" not in page(told)
    assert "\x07" not in page(told)


def test_square_brackets_are_text_and_not_markup() -> None:
    text = page(account(Exchange(Header(b"Subject", b"[bold]x[/bold] :smile:"))))

    assert "[bold]x[/bold] :smile:" in text


def test_agreement_is_explained_in_sentences() -> None:
    steps = Step.NOHELO | Step.NR_HDR | Step.NR_CONN

    assert list(explain(Options(6, 0, steps))) == [
        "The filter may change nothing.",
        "It does not want to be asked at helo.",
        "It never has an answer at connect and header, so that the MTA need not wait there.",
    ]
