"""Every change, alone and together: what is delivered, to the byte, and whether the MTA in memory says the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Status
from pmilter.errors import LocalProtocolError
from tests.e2e.prediction import agree
from tests.e2e.realmta import Letter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pmilter.testing.rig import Instance
    from tests.e2e.prediction import Outcome
    from tests.e2e.realmta import RealMta

    Change = tuple[Any, ...]  # method of Context, and its arguments

pytestmark = pytest.mark.mta

MESSAGE = b"""\
From: a@example.com
To: b@example.org
Subject: hello
X-Twice: one
X-Folded: first
\tsecond
X-Twice: two
Date: Thu, 1 Jan 2026 00:00:00 +0000
Message-Id: <1@example.com>
X-Twice: three

hello
.
..two dots
"""
RECIPIENTS = ("b@example.org", "c@example.org")


def changing(changes: Mapping[str, Sequence[Change]]) -> Milter:
    """A filter that makes the changes which the sender's name stands for."""
    milter = Milter("changing", actions=Action(0x1FF))

    @milter.on("eom")
    def eom(ctx: Context) -> Status:
        for method, *arguments in changes[(ctx.sender or "").strip("<>").partition("@")[0]]:
            getattr(ctx, method)(*arguments)
        return Status.CONTINUE

    return milter


def outcomes_of(
    real_mta: RealMta, changes: Mapping[str, Sequence[Change]], message: bytes = MESSAGE
) -> dict[str, Outcome]:
    letters = {name: Letter(message, f"{name}@example.com", RECIPIENTS) for name in changes}
    return agree(real_mta, changing(changes), letters)


def header_of(outcome: Outcome) -> list[str]:
    assert outcome.message is not None
    return outcome.message.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def body_of(outcome: Outcome) -> bytes:
    assert outcome.message is not None
    return outcome.message.partition(b"\r\n\r\n")[2]


# --- header


def test_header_added(real_mta: RealMta) -> None:
    outcomes = outcomes_of(
        real_mta,
        {
            "new": [("addheader", "X-New", "value")],
            "twice": [("addheader", "X-New", "1"), ("addheader", "X-New", "2")],
            "namesake": [("addheader", "X-Twice", "four")],
            "subject": [("addheader", "subject", "again")],
            "folded": [("addheader", "X-New", "a\r\n b\n\tc")],
            "empty": [("addheader", "X-New", "")],
            "spaces": [("addheader", "X-New", "  two before, two after  ")],
            "8-bit": [("addheader", "X-New", "zoë \udcff")],
            "long": [("addheader", "X-New", "x" * 900)],
            "colon": [("addheader", "X-New", ": odd: ")],
            "percent": [("addheader", "X-New", "100% $& `m4'")],
        },
    )
    assert header_of(outcomes["new"])[-1] == "X-New: value"
    assert header_of(outcomes["folded"])[-3:] == ["X-New: a", " b", "\tc"]
    at_end = real_mta.name == "postfix"
    assert header_of(outcomes["namesake"])[-1 if at_end else 3] == "X-Twice: four"


def test_header_inserted(real_mta: RealMta) -> None:
    changes: dict[str, list[Change]] = {
        f"at-{n}": [("insheader", "X-New", "v", n)] for n in range(16)
    }
    changes["beyond"] = [("insheader", "X-New", "v", 2_000_000)]
    changes["no-position"] = [("insheader", "X-New", "v")]
    changes["two"] = [("insheader", "X-A", "1", 0), ("insheader", "X-B", "2", 0)]
    changes["two-at-1"] = [("insheader", "X-A", "1", 1), ("insheader", "X-B", "2", 1)]
    changes["namesake"] = [("insheader", "X-Twice", "zero", 1), ("chgheader", "X-Twice", 1, "new")]
    changes["folded"] = [("insheader", "X-New", "a\n b", 1)]
    outcomes = outcomes_of(real_mta, changes)
    assert header_of(outcomes["at-0"])[0] == header_of(outcomes["at-1"])[0] == "X-New: v"
    assert header_of(outcomes["two"])[:2] == ["X-B: 2", "X-A: 1"]
    assert header_of(outcomes["beyond"])[-1] == "X-New: v"


@pytest.mark.parametrize("position", [0, 1])
def test_header_is_inserted_above_or_below_the_mta_s_own_received(
    real_mta: RealMta, position: int
) -> None:
    milter = Milter("inserting", actions=Action.ADDHDRS)
    milter.on("eom")(lambda ctx: ctx.insheader("X-New", "value", position))
    with real_mta.asking(milter) as mta:
        assert mta.send(MESSAGE).code == 250
    [arrival] = real_mta.arrivals(1)
    assert arrival.received_at == (len(b"X-New: value\r\n") if position == 0 else 0)
    assert arrival.message.startswith(b"X-New: value\r\nFrom: ")


def test_header_changed(real_mta: RealMta) -> None:
    changes: dict[str, list[Change]] = {
        f"number-{n}": [("chgheader", "X-Twice", n, "new")] for n in range(6)
    }
    changes |= {
        "other-case": [("chgheader", "x-TWICE", 2, "new")],
        "missing": [("chgheader", "X-New", 1, "new")],
        "missing-third": [("chgheader", "X-New", 3, "new")],
        "folded": [("chgheader", "X-Folded", 1, "a\n b\n\tc")],
        "unfolded": [("chgheader", "X-Folded", 1, "plain")],
        "twice": [("chgheader", "Subject", 1, "new"), ("chgheader", "Subject", 1, "newer")],
        "added": [("addheader", "X-New", "a"), ("chgheader", "X-New", 1, "b")],
        "8-bit": [("chgheader", "Subject", 1, "zoë \udcff")],
        "date": [("chgheader", "Date", 1, "Fri, 2 Jan 2026 00:00:00 +0000")],
        "message-id": [("chgheader", "Message-Id", 1, "<2@example.com>")],
    }
    outcomes = outcomes_of(real_mta, changes)
    before = header_of(outcomes_of(real_mta, {"none": []})["none"])
    assert before == MESSAGE.partition(b"\n\n")[0].decode().split("\n")
    for n, line in (1, 3), (2, 6), (3, 9):
        after = [*before[:line], "X-Twice: new", *before[line + 1 :]]
        assert header_of(outcomes[f"number-{n}"]) == after
    assert header_of(outcomes["missing"]) == [*before, "X-New: new"]


def test_header_deleted(real_mta: RealMta) -> None:
    changes: dict[str, list[Change]] = {
        f"number-{n}": [("chgheader", "X-Twice", n, None)] for n in range(6)
    }
    changes |= {
        "empty": [("chgheader", "Subject", 1, "")],
        "all-from-below": [("chgheader", "X-Twice", n, "") for n in (3, 2, 1)],
        "all-from-above": [("chgheader", "X-Twice", n, "") for n in (1, 2, 3)],
        "revived": [("chgheader", "Subject", 1, None), ("chgheader", "Subject", 1, "new")],
        "added": [("addheader", "X-New", "a"), ("chgheader", "X-New", 1, None)],
        "inserted": [("insheader", "X-New", "a", 1), ("chgheader", "X-New", 1, None)],
        "from-and-to": [("chgheader", "From", 1, None), ("chgheader", "To", 1, None)],
        "missing": [("chgheader", "X-New", 1, None)],
    }
    outcomes = outcomes_of(real_mta, changes)
    assert not any("X-Twice" in line for line in header_of(outcomes["all-from-below"]))
    left = [line for line in header_of(outcomes["all-from-above"]) if "X-Twice" in line]
    assert left == (["X-Twice: two"] if real_mta.name == "postfix" else [])


# --- body


def test_body_replaced(real_mta: RealMta) -> None:
    megabyte = b"".join(b"%07d %s\r\n" % (n, b"x" * 60) for n in range(15_000))
    outcomes = outcomes_of(
        real_mta,
        {
            "small": [("replacebody", b"new\r\n")],
            "empty": [("replacebody", b"")],
            "one-byte": [("replacebody", b"x")],
            "line-end": [("replacebody", b"\r\n")],
            "no-line-end": [("replacebody", b"one\r\ntwo")],
            "lf": [("replacebody", b"one\ntwo\n")],
            "dots": [("replacebody", b".\r\n..\r\n.x\r\n")],
            "8-bit": [("replacebody", b"\xff\xfe zo\xc3\xab\r\n")],
            "pieces": [("replacebody", b"one\r"), ("replacebody", b"\ntwo\r\n")],
            "pieces-apart": [
                ("replacebody", b"one\r\n"),
                ("addheader", "X-New", "v"),
                ("replacebody", bytearray(b"two\r\n")),
            ],
            "megabyte": [("replacebody", megabyte)],
            "chunk": [("replacebody", b"x" * 900 + b"\r\n")] * 75,
            "leading-blank": [("replacebody", b"\r\n\r\nx\r\n")],
            "from-line": [("replacebody", b"From here\r\n")],
        },
    )
    assert body_of(outcomes["small"]) == b"new\r\n"
    assert body_of(outcomes["empty"]) == b""
    assert body_of(outcomes["no-line-end"]) == b"one\r\ntwo\r\n"
    assert body_of(outcomes["lf"]) == b"one\r\ntwo\r\n"
    assert body_of(outcomes["dots"]) == b".\r\n..\r\n.x\r\n"
    assert body_of(outcomes["pieces"]) == b"one\r\ntwo\r\n"
    assert body_of(outcomes["pieces-apart"]) == b"one\r\ntwo\r\n"
    assert body_of(outcomes["megabyte"]) == megabyte
    assert header_of(outcomes["pieces-apart"])[-1] == "X-New: v"


@pytest.mark.parametrize("message", [b"Subject: s\nX-A: b\n", b"Subject: s\nX-A: b\n\n", b"\nx\n"])
def test_message_without_body_or_header_changed(real_mta: RealMta, message: bytes) -> None:
    fields = b"From: a@example.com\nTo: b@example.org\nDate: Thu, 1 Jan 2026 00:00:00 +0000\nMessage-Id: <1@example.com>\n"
    outcomes_of(
        real_mta,
        {
            "nothing": [],
            "header": [("addheader", "X-New", "v")],
            "body": [("replacebody", b"new\r\n")],
            "emptied": [("replacebody", b"")],
        },
        fields + message,
    )


# --- envelope


def test_recipients_changed(real_mta: RealMta) -> None:
    outcomes = outcomes_of(
        real_mta,
        {
            "added": [("addrcpt", "<new@example.org>")],
            "bare": [("addrcpt", "new@example.org")],
            "parameters": [("addrcpt", "<new@example.org>", "NOTIFY=NEVER")],
            "par": [("addrcpt_par", "new@example.org", "NOTIFY=NEVER")],
            "no-par": [("addrcpt_par", "new@example.org", None)],
            "again": [("addrcpt", "<b@example.org>")],
            "added-twice": [("addrcpt", "<new@example.org>"), ("addrcpt", "<new@example.org>")],
            "deleted": [("delrcpt", "<b@example.org>")],
            "deleted-bare": [("delrcpt", "b@example.org")],
            "deleted-other-case": [("delrcpt", "<B@example.org>")],
            "deleted-unknown": [("delrcpt", "<other@example.org>")],
            "moved": [("delrcpt", "<b@example.org>"), ("addrcpt", "<new@example.org>")],
            "moved-back": [("delrcpt", "<b@example.org>"), ("addrcpt", "<b@example.org>")],
            "undone": [("addrcpt", "<new@example.org>"), ("delrcpt", "<new@example.org>")],
            "nobody": [("delrcpt", "<b@example.org>"), ("delrcpt", "<c@example.org>")],
        },
    )
    with_new = ("b@example.org", "c@example.org", "new@example.org")
    for name in "added", "bare", "parameters", "par", "no-par":
        assert outcomes[name].recipients == with_new
    assert outcomes["deleted"].recipients == ("c@example.org",)
    assert outcomes["moved"].recipients == ("c@example.org", "new@example.org")
    assert outcomes["nobody"].message is None


def test_several_recipients_in_one_address(real_mta: RealMta) -> None:
    both = "new@example.org, other@example.org"
    outcomes = outcomes_of(
        real_mta,
        {
            "added": [("addrcpt", both)],
            "undone": [("addrcpt", both), ("delrcpt", both)],
            "name": [("addrcpt", "Joe <new@example.org>")],
        },
    )
    assert outcomes["name"].recipients == ("b@example.org", "c@example.org", "new@example.org")


@pytest.mark.parametrize(
    ("address", "params"),
    [
        ("<new@example.org>", "NOTIFY=SOON"),
        ("<new@example.org>", "NOTIFY=NEVER ORCPT=new@example.org"),
        ("<new@example.org>", "FOO=BAR"),
        ("<new@example.org>", "junk"),
        ("<new@example.org>", ""),
        (" new@example.org", "NOTIFY=NEVER"),
        ("Joe <new@example.org>", "NOTIFY=NEVER"),
        ("new@example.org, other@example.org", "NOTIFY=NEVER"),
        ("<>", "NOTIFY=NEVER"),
        ("<>", None),
    ],
)
def test_odd_recipient_is_refused_by_the_library_or_gets_the_message(
    mta_factory: Callable[..., Instance], address: str, params: str | None
) -> None:
    # Sendmail prints a line of its own into the SMTP reply for what it cannot read here, and ends at a bad ORCPT.
    milter = Milter("changing", actions=Action(0x1FF))

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        try:
            ctx.addrcpt(address, params)
        except LocalProtocolError:
            ctx.addheader("X-Refused", "yes")

    mta = mta_factory(milter)
    with mta.client() as client:
        for command in "EHLO x", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>", "DATA":
            client.command(command)
        client.write(Letter().message.replace(b"\n", b"\r\n") + b".\r\n")
        assert client.read().startswith("250 ")
    [delivered] = mta.delivered()
    assert delivered.header("X-Refused") or "new@example.org" in delivered.recipients


def test_sender_changed(real_mta: RealMta) -> None:
    outcomes = outcomes_of(
        real_mta,
        {
            "brackets": [("chgfrom", "<new@example.com>")],
            "bare": [("chgfrom", "new@example.com")],
            "null": [("chgfrom", "<>")],
            "old-name": [("setsender", "<new@example.com>")],
            "parameters": [("chgfrom", "<new@example.com>", "RET=HDRS ENVID=42")],
            "twice": [("chgfrom", "<new@example.com>"), ("chgfrom", "<newer@example.com>")],
        },
    )
    senders = [outcome.sender for outcome in outcomes.values()]
    assert senders == [
        "new@example.com", "new@example.com", "", "new@example.com", "new@example.com", "newer@example.com",
    ]  # fmt: skip


def test_parameters_of_new_addresses_arrive(real_mta: RealMta) -> None:
    milter = Milter("changing", actions=Action(0x1FF))

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        ctx.addrcpt("<new@example.org>", "NOTIFY=DELAY,FAILURE ORCPT=rfc822;old@example.org")
        ctx.chgfrom("<new@example.com>", "RET=HDRS ENVID=abc123")

    with real_mta.asking(milter) as mta:
        assert mta.send(MESSAGE, rcpt_args=["NOTIFY=NEVER"]).code == 250
    delivered = real_mta.delivered(1)  # maybe more: recipients of different parameters may go apart
    args = dict(
        pair for one in delivered for pair in zip(one.recipients, one.recipient_args, strict=True)
    )
    assert set(args["new@example.org"]) == {"NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;old@example.org"}
    assert "NOTIFY=NEVER" in args["b@example.org"]
    assert {one.sender for one in delivered} == {"new@example.com"}
    assert {"RET=HDRS", "ENVID=abc123"} <= set(delivered[0].sender_args)


def test_quarantine(real_mta: RealMta) -> None:
    changes: dict[str, list[Change]] = {
        "held": [
            ("quarantine", "looks 100% odd"),
            ("addheader", "X-New", "v"),
            ("addrcpt", "new@example.org"),
        ]
    }
    assert outcomes_of(real_mta, changes)["held"].message is None
    [held] = real_mta.mta.held(1)
    assert held.sender == "held@example.com"
    assert sorted(held.recipients) == [*RECIPIENTS, "new@example.org"]
    if real_mta.name == "sendmail":
        assert held.reason == "looks 100% odd"
    real_mta.mta.release(held.queue_id)
    [arrival] = real_mta.arrivals(1)
    assert arrival.recipients == (*RECIPIENTS, "new@example.org")
    assert b"X-New: v\r\n" in arrival.message


# --- together


def test_changes_of_every_kind_at_once(real_mta: RealMta) -> None:
    everything: list[Change] = [
        ("replacebody", b"first\r\n"),
        ("addheader", "X-New", "v"),
        ("progress",),
        ("insheader", "X-Top", "v", 0),
        ("chgheader", "Subject", 1, "new"),
        ("chgheader", "X-Twice", 2, None),
        ("addrcpt", "new@example.org"),
        ("progress",),
        ("delrcpt", "<b@example.org>"),
        ("chgfrom", "new@example.com"),
        ("replacebody", b"second\r\n"),
        ("progress",),
    ]
    outcome = outcomes_of(real_mta, {"all": everything})["all"]
    assert body_of(outcome) == b"first\r\nsecond\r\n"
    assert outcome.sender == "new@example.com"
    assert outcome.recipients == ("c@example.org", "new@example.org")
    assert "Subject: new" in header_of(outcome)


@pytest.mark.parametrize("verdict", [Status.REJECT, Status.TEMPFAIL, Status.DISCARD])
def test_changes_are_dropped_with_a_message_that_is_not_accepted(
    real_mta: RealMta, verdict: Status
) -> None:
    milter = Milter("changing", actions=Action(0x1FF))

    @milter.on("eom")
    def eom(ctx: Context) -> Status:
        if ctx.sender != "<bad@example.com>":
            return Status.CONTINUE
        ctx.addheader("X-New", "v")
        ctx.replacebody(b"new\r\n")
        ctx.quarantine("not this one")
        ctx.addrcpt("new@example.org")
        return verdict

    letters = {name: Letter(sender=f"{name}@example.com") for name in ("bad", "good")}
    outcomes = agree(real_mta, milter, letters)
    assert outcomes["bad"].message is None
    assert outcomes["good"].message == Letter().message.replace(b"\n", b"\r\n")
    assert real_mta.mta.held() == []


def random_change(draw: random.Random) -> Change:
    name = draw.choice(["X-Twice", "x-twice", "Subject", "X-New", "X-Folded", "X-Other"])
    value = draw.choice(["v", "", "a\n\tb", "a\r\n  b\n c", " lead", "zoë", "x" * 300])
    address = draw.choice(["b@example.org", "<c@example.org>", "d@example.org", "<C@Example.org>"])
    return draw.choice(
        [
            ("addheader", name, value),
            ("insheader", name, value, draw.randrange(20)),
            ("chgheader", name, draw.randrange(5), value),
            ("chgheader", name, draw.randrange(5), None),
            ("addrcpt", address),
            ("delrcpt", address),
            ("chgfrom", draw.choice(["new@example.com", "<other@example.com>", "<>"])),
            ("replacebody", draw.choice([b"", b"x", b"one\r\n", b".\r\n", b"\n\n"])),
        ]
    )


@pytest.mark.parametrize("seed", range(2))
def test_random_changes(real_mta: RealMta, seed: int) -> None:
    draw = random.Random(seed)
    outcomes_of(
        real_mta,
        {f"r{n}": [random_change(draw) for _ in range(draw.randint(1, 6))] for n in range(40)},
    )
