"""Content of every kind: what the filter is shown and what is delivered, to the byte."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Status, Step
from pmilter.testing import Mta
from tests.e2e.prediction import CLIENT, HELO, agree, simulate
from tests.e2e.realmta import Letter
from tests.e2e.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.testing.rig import Instance, Postfix
    from tests.e2e.realmta import RealMta

pytestmark = pytest.mark.mta

OWN = b"""\
From: a@example.com
To: b@example.org
Date: Thu, 1 Jan 2026 00:00:00 +0000
Message-Id: <1@example.com>
"""

CONTENTS = {
    "no-body": b"Subject: s\n",
    "empty-body": b"Subject: s\n\n",
    "blank-body": b"Subject: s\n\n\n\n",
    "no-blank-line": b"Subject: s\nthis is no header\n",
    "dots": b"Subject: s\n\n.\n..\n.x\n...\n",
    "no-line-end": b"Subject: s\n\none\ntwo",
    "folded": b"Subject: one\n two\n\tthree\n   four\n\nbody\n",
    "spaces": b"X-None:v\nX-One: v\nX-Two:  v\nX-Tab:\tv\nX-After: v  \n\nbody\n",
    "empty-value": b"X-Empty:\nX-Blank: \nX-Blanks:   \n\nbody\n",
    "name-blank": b"X-Blank : v\n\nbody\n",
    "case": b"x-CaSe: v\n\nbody\n",
    "repeated": b"X-A: 1\nX-B: 2\nX-A: 3\nX-A: 1\n\nbody\n",
    "latin-1": b"Subject: zo\xeb\nX-All: \x80\xa0\xff\n\nzo\xeb\n",
    "utf-8": "Subject: zoë €\nX-Zoë: v\n\nzoë €\n".encode(),
    "controls": b"X-C: \x01\x08\x0b\x1b\x7f\n\n\x01\x08\x0b\x0c\x1b\x7f\n",
    "nul": b"X-Nul: a\0b\n\na\0b\n",
    "long-line": b"Subject: s\n\n" + b"x" * 900 + b"\n",
    "colons": b"X-A: b: c: d\nX-B:: c\n\nbody\n",
    "from-line": b"From nobody Thu Jan  1 00:00:00 2026\nSubject: s\n\nFrom here\n",
    "received": b"Received: from x by y; Thu, 1 Jan 2026 00:00:00 +0000\nSubject: s\n\nbody\n",
    "bcc": b"Bcc: c@example.org\nSubject: s\n\nbody\n",
    "many-headers": b"".join(b"X-%d: %d\n" % (n, n) for n in range(500)) + b"\nbody\n",
    "big-header": b"Subject: " + b"\n ".join([b"x" * 60] * 300) + b"\n\nbody\n",
    "chunks": b"Subject: s\n\n" + b"0123456789abcde\n" * 13_000,
    "mime": b"Subject: s\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nzo\xc3\xab\n",
}  # fmt: skip


def letter_with(content: bytes) -> Letter:
    if content.startswith(b"From "):
        line, _, rest = content.partition(b"\n")
        return Letter(line + b"\n" + OWN + rest)
    return Letter(OWN + content)


@pytest.mark.parametrize("steps", [Step(0), Step.HDR_LEADSPC])
def test_content_is_shown_and_delivered(real_mta: RealMta, steps: Step) -> None:
    witness = Witness(stages=("header", "eoh", "body", "eom"), steps=steps)
    letters = {name: letter_with(content) for name, content in CONTENTS.items()}
    outcomes = agree(real_mta, witness.milter, letters)
    # The model was played first: each half of the events is one side's.
    seen = witness.take()
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    assert None not in {outcome.message for outcome in outcomes.values()}
    assert ("header", "Subject", "zo\udceb" if not steps else " zo\udceb") in seen
    space = " " if steps else ""
    assert ("header", "Subject", f"{space}one\n two\n\tthree\n   four") in seen


@pytest.mark.parametrize("steps", [Step(0), Step.HDR_LEADSPC])
def test_changed_values_keep_their_leading_space(real_mta: RealMta, steps: Step) -> None:
    milter = Milter("spaces", actions=Action.ADDHDRS | Action.CHGHDRS, steps=steps)
    lines: list[str] = []

    @milter.on("header")
    def header(ctx: Context, name: str, value: str) -> None:
        if name.startswith("X-"):
            lines.append(f"{name}:{value}")

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        ctx.addheader("X-New", "v")
        ctx.addheader("X-New-One", " v")
        ctx.insheader("X-Ins", "v", 1)
        ctx.chgheader("X-Old", 1, "v")
        ctx.chgheader("X-Older", 1, "  v")

    content = b"X-Old: a\nX-Older:a\nX-Kept:b\nX-Kept:  c\n\nbody\n"
    [outcome] = agree(real_mta, milter, {"one": letter_with(content)}).values()
    assert outcome.message is not None
    delivered = [line for line in outcome.message.decode().split("\r\n") if line.startswith("X-")]
    space = "" if steps else " "
    assert set(delivered) == {
        f"X-Ins:{space}v", f"X-Old:{space}v", f"X-Older:{space}  v", "X-Kept:b", "X-Kept:  c",
        f"X-New:{space}v", f"X-New-One:{space} v",
    }  # fmt: skip
    shown = ["X-Old:a", "X-Older:a", "X-Kept:b", "X-Kept: c"]
    if steps:
        shown = ["X-Old: a", "X-Older:a", "X-Kept:b", "X-Kept:  c"]
    assert lines == shown * 2


def test_every_byte_of_header_and_body_survives_a_round_trip(real_mta: RealMta) -> None:
    milter = Milter("copy", actions=Action.CHGHDRS | Action.CHGBODY | Action.ADDHDRS)
    bodies: list[bytes] = []

    @milter.on("header")
    def header(ctx: Context, name: str, value: str) -> None:
        if name == "X-All":
            ctx.state.value = value

    @milter.on("body")
    def body(ctx: Context, chunk: bytes) -> None:
        ctx.state.body = getattr(ctx.state, "body", b"") + chunk

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        bodies.append(ctx.state.body)
        ctx.addheader("X-Copy", ctx.state.value)
        ctx.chgheader("X-All", 1, ctx.state.value)
        ctx.replacebody(ctx.state.body)

    every = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")
    printable = bytes(byte for byte in range(32, 256))
    letter = letter_with(b"X-All: " + printable + b"\n\n" + every + b"\n\0\n")
    [outcome] = agree(real_mta, milter, {"one": letter}).values()
    assert outcome.message is not None
    lines = outcome.message.split(b"\r\n")
    assert b"X-All: " + printable in lines
    assert b"X-Copy: " + printable in lines
    assert bodies == [every + b"\r\n\0\r\n"] * 2
    assert outcome.message.endswith(b"\r\n\r\n" + every + b"\r\n\0\r\n")


def test_message_of_20_mb_passes_and_is_replaced(mta_factory: Callable[..., Instance]) -> None:
    milter = Milter("big", actions=Action.CHGBODY)
    digests: list[tuple[str, int]] = []

    @milter.on("body")
    def body(ctx: Context, chunk: bytes) -> None:
        ctx.state.chunks = getattr(ctx.state, "chunks", [])
        ctx.state.chunks.append(chunk)

    @milter.on("eom")
    def eom(ctx: Context) -> Status:
        whole = b"".join(ctx.state.chunks)
        digests.append((hashlib.sha256(whole).hexdigest(), len(ctx.state.chunks)))
        if ctx.sender == "<replace@example.com>":
            ctx.replacebody(whole[: len(whole) // 2])
            ctx.replacebody(whole[len(whole) // 2 :].swapcase())
        return Status.ACCEPT

    line = b"0123456789" * 90
    text = b"".join(b"%s%d\r\n" % (line, n) for n in range(23_000))
    assert len(text) > 20_000_000
    mta = mta_factory(milter)
    message = OWN + b"\r\n" + text
    assert mta.send(message, "pass@example.com").code == 250
    assert mta.delivered(timeout=30)[0].body == text
    assert mta.send(message, "replace@example.com").code == 250
    assert mta.delivered(timeout=30)[0].body == text
    chunks = -(-len(text) // 65_535)
    assert digests == [(hashlib.sha256(text).hexdigest(), chunks)] * 2


def test_bare_line_ends(real_mta: RealMta) -> None:
    for odd in b"a\nb\r\n", b"a\rb\r\n":
        witness = Witness(stages=("body", "eom"))
        letter = OWN.replace(b"\n", b"\r\n") + b"\r\n" + odd
        with Mta(witness.milter, connect=CLIENT, helo=HELO, dialect=real_mta.name) as memory:
            predicted = simulate(memory, Letter(letter))
        model = witness.take()
        with real_mta.asking(witness.milter) as mta, mta.client() as client:
            client.helo()
            client.command("MAIL FROM:<a@example.com>")
            client.command("RCPT TO:<b@example.org>")
            client.command("DATA")
            client.write(letter + b".\r\n")
            reply = client.read()
        if real_mta.name == "postfix":
            [arrival] = real_mta.arrivals(1)
            assert arrival.message == predicted.message
        else:
            assert (reply, real_mta.arrivals(0)) == (predicted.reply, [])
        assert witness.take() == model


# --- addresses


ADDRESSES = [
    "simple@example.com", "CaSe@Example.COM", "a+b=c@example.com", '"quoted local"@example.com', '"a@b"@example.com',
    "a%b@example.com", "with.dots@sub.example.com", "x" * 60 + "@example.com",
]  # fmt: skip


def test_addresses_are_shown_as_typed(real_mta: RealMta) -> None:
    witness = Witness(stages=("envfrom", "envrcpt"))
    letters = {
        address: Letter(sender=address, recipients=(address.replace(".com", ".org"),))
        for address in ADDRESSES
    }
    agree(real_mta, witness.milter, letters)
    shown = [
        event
        for address in ADDRESSES
        for event in (
            ("envfrom", f"<{address}>"),
            ("envrcpt", f"<{address.replace('.com', '.org')}>"),
        )
    ]
    assert witness.take() == shown * 2


def test_null_sender(real_mta: RealMta) -> None:
    witness = Witness(stages=("envfrom",))
    [outcome] = agree(real_mta, witness.milter, {"null": Letter(sender="")}).values()
    assert outcome.sender == ""
    assert witness.take() == [("envfrom", "<>")] * 2


def test_8_bit_addresses_of_clients_that_do_not_ask_for_smtputf8(real_mta: RealMta) -> None:
    witness = Witness(stages=("envfrom", "envrcpt"))
    # Postfix takes nothing but UTF-8.
    sender = {"postfix": "zoë@example.com", "sendmail": "zo\udceb@example.com"}[real_mta.name]
    letter = Letter(sender=sender, recipients=("zoë@example.org",))
    [outcome] = agree(real_mta, witness.milter, {"8-bit": letter}).values()
    assert (outcome.sender, outcome.recipients) == (sender, ("zoë@example.org",))
    assert witness.take() == [("envfrom", f"<{sender}>"), ("envrcpt", "<zoë@example.org>")] * 2


def test_smtputf8(postfix: Callable[..., Postfix]) -> None:
    milter = Milter("eai", actions=Action(0x1FF))
    seen: list[Any] = []

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        seen.append(
            (ctx.sender, ctx.recipients, ctx.getsymval("mail_addr"), ctx.getsymval("rcpt_addr"))
        )
        ctx.addrcpt("<łukasz@example.org>")
        ctx.chgfrom("<новый@example.com>")
        ctx.addheader("X-Nev", "érték")

    mta = postfix(milter)
    result = mta.send(
        OWN + b"Subject: zo\xc3\xab\n\nhello\n",
        "jörg@example.com",
        ["zoë@exämple.org"],
        mail_args=["SMTPUTF8"],
    )
    assert result.code == 250
    [delivered] = mta.delivered()
    assert seen == [
        ("<jörg@example.com>", ["<zoë@exämple.org>"], "jörg@example.com", "zoë@exämple.org")
    ]
    assert delivered.sender == "новый@example.com"
    assert sorted(delivered.recipients) == ["zoë@exämple.org", "łukasz@example.org"]
    assert delivered.header("X-Nev") == ["érték"]
    assert delivered.header("Subject") == ["zoë"]
    assert "SMTPUTF8" in delivered.sender_args
