"""The MTA in memory against the real ones: the same message and changes give the same view and the same delivery.

What the real ones add by themselves (their Received, missing fields) is given or taken away, as `delivery` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pmilter import Action, Context, Milter, Step
from pmilter.testing import Mta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.testing.rig import Instance

pytestmark = pytest.mark.mta

HEADER = b"From: a@b\nTo: b@c\nMessage-Id: <1@x>\nDate: Sun, 22 Nov 2026 00:00:00 +0000\n"
MESSAGE = (
    b"Received: from old by x; Sun, 22 Nov 2026 00:00:00 +0000\n" + HEADER + b"Subject : hello\n  folded\n\ttabbed\n"
    b"X-Dup: one\nX-Dup: two\nX-Dup: three\nX-Nospace:v\nX-Empty:\n\nfirst line\n.dot line\nlast line\n"
)  # fmt: skip

Script = list[tuple[Any, ...]]


def chg(index: int, value: str, name: str = "X-Dup") -> tuple[Any, ...]:
    return "chgheader", name, index, value


CHANGES: dict[str, Script] = {
    "none": [],
    "delete 1 1 1": [chg(1, ""), chg(1, ""), chg(1, "")],
    "delete 1 2 3": [chg(1, ""), chg(2, ""), chg(3, "")],
    "delete 3 2 1": [chg(3, ""), chg(2, ""), chg(1, "")],
    "delete and change": [chg(1, ""), chg(1, "new")],
    "delete what is not there": [chg(1, "", "X-Miss"), chg(7, "")],
    "change what is not there": [chg(1, "added", "X-Miss"), chg(7, "seven")],
    "change in another case": [chg(2, "zwei", "x-DUP")],
    "change Received": [chg(1, "changed", "Received"), chg(2, "other", "Received")],
    "change and delete a date": [chg(1, "", "Date"), chg(2, "Mon, 23 Nov 2026 00:00:00 +0000", "Date")],
    "insert at 0 twice": [("insheader", "A", "1", 0), ("insheader", "B", "2", 0)],
    "insert at 1 twice": [("insheader", "A", "1", 1), ("insheader", "B", "2", 1)],
    **{f"insert at {n}": [("insheader", "A", "1", n)] for n in (2, 3, 7, 8, 9, 10, 15, 19, 20, 21, 99)},
    "insert, change, add": [("insheader", "X-Dup", "0", 0), chg(1, "one!"), ("addheader", "X-Dup", "more")],
    "insert and change Received": [("insheader", "Received", "top", 0), chg(1, "changed", "Received")],
    "add where the name exists": [("addheader", "X-Dup", "new"), ("addheader", "x-dup", "newer")],
    "add and change": [("addheader", "X-New", "n"), chg(1, "m", "X-New"), ("addheader", "X-New", "o")],
    "add Received": [("addheader", "Received", "from filter")],
    "add Date": [("addheader", "Date", "Mon, 23 Nov 2026 00:00:00 +0000")],
    "add what is dropped": [("addheader", name, "x@y") for name in ("Bcc", "Return-Path", "Content-Length", "Full-Name")],
    "fold": [("addheader", "X-F", "a\n b\n\tc"), chg(1, "a\r\n b", "Subject")],
    "eight bits": [("addheader", "X-8", "h\u00e9\udce9")],
    "new body": [("replacebody", b"a\nb\r"), ("replacebody", b"\nc\rd\x00e\r\n.\r\nend")],
    "no body": [("replacebody", b"")],
    "new sender": [("chgfrom", "new@example.org")],
    "null sender": [("chgfrom", "<>")],
    "recipients": [("addrcpt", "<b@x.org>"), ("addrcpt", "n@x.org"), ("addrcpt", "N@x.org"), ("delrcpt", "C@x.org")],
    "delete and add a recipient": [("delrcpt", "<b@x.org>"), ("addrcpt", "b@x.org"), ("addrcpt", "b@x.org")],
    "several recipients at once": [("addrcpt", "m@x.org, n@x.org"), ("addrcpt_par", "<b@x.org>", "NOTIFY=NEVER")],
}  # fmt: skip

CONTENTS: dict[str, bytes] = {
    "no body": HEADER,
    "blank line only": HEADER + b"\n",
    "no last line end": HEADER + b"\nabc",
    "odd fields": HEADER + b"Subject : s\nX-Tab:\tv\nX-Trail: v   \nX-Fold:\n a\n\t \n b\nX-8: h\xc3\xa9 \xe9\nNo field\nX: v\n\nb\xf6dy\n",
    "delivery note": b"From joe Sun\n" + HEADER + b"\nx\n",
    "hidden fields": HEADER + b"Return-Path: <x@y>\nContent-Length: 5\nBcc: a@b\nFull-Name: Me\n\nx\n",
    "bcc alone": HEADER.replace(b"To: b@c\n", b"") + b"Bcc: a@b\n\nx\n",
    "hyphens": HEADER + b"--x: y\n\nz\n",
    "tab before the colon": HEADER + b"X-A\t : y\n\nz\n",
    "eight bits in a name": HEADER + b"X-\xe9: y\n\nz\n",
    "NULs": HEADER + b"X-Nul: a\x00b\nX-N2: x\n y\x00z\n w\n\nz\x00q\n",
    "NUL in a name": HEADER + b"X-N\x00ul: ab\n\nz\n",
    "dots": HEADER + b"\n.\n..\n.x\n",
    "control in a name": HEADER + b"X\x01Y: z\n\nx\n",
    "colon first": HEADER + b": z\n\nx\n",
    "blank in a name": HEADER + b"X Y: z\n\nx\n",
    "two chunks": HEADER + b"\n" + b"0123456789abcdef\n" * 5000,
}  # fmt: skip


class Seen(NamedTuple):
    """All that is compared."""

    header: list[tuple[str, str]]
    body: bytes
    message: bytes
    sender: str
    recipients: list[str]


class Subject:
    """A filter that notes what it sees, and makes the changes of one case."""

    def __init__(self, steps: Step) -> None:
        self.script: Script = []
        self.header: list[tuple[str, str]] = []
        self.body = b""
        self.milter = Milter("twin", actions=Action(0x1FF), steps=steps)
        on: Any = self.milter.on
        on("header")(lambda _, *field: self.header.append(field))
        on("body")(self.note_body)
        on("eom")(self.change)

    def note_body(self, _ctx: Context, chunk: bytes) -> None:
        self.body += chunk

    def change(self, ctx: Context) -> None:
        for name, *arguments in self.script:
            getattr(ctx, name)(*arguments)

    def begin(self, script: Script) -> None:
        self.script, self.header, self.body = script, [], b""

    def seen(self, message: bytes, sender: str, recipients: list[str]) -> Seen:
        return Seen(self.header, self.body, message, sender, sorted(recipients))


def without_received(message: bytes) -> bytes:
    """A message as delivered without the Received of the MTA that delivered it."""
    head, blank, body = message.partition(b"\r\n\r\n")
    fields: list[bytes] = []
    for line in head.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            fields[-1] += b"\r\n" + line
        else:
            fields.append(line)
    return b"\r\n".join(f for f in fields if b"by mta.example.test" not in f) + blank + body


def differences(
    mta: Instance, subject: Subject, cases: dict[str, tuple[Script, bytes]]
) -> Iterator[str]:
    recipients = ["b@x.org", "c@x.org"]
    for name, (script, message) in cases.items():
        subject.begin(script)
        assert mta.send(message, recipients=recipients).code == 250, name
        [real] = mta.delivered(1)
        expected = subject.seen(without_received(real.message), real.sender, list(real.recipients))
        subject.begin(script)
        with Mta(subject.milter, dialect=mta.name) as memory:
            result = memory.send(message, sender="a@example.com", recipients=recipients)
        assert result.message is not None, name
        got = subject.seen(result.message, result.sender, result.recipients)
        yield from (
            f"{name}: {part} is {ours!r}, with {mta.name} {theirs!r}"
            for part, ours, theirs in zip(Seen._fields, got, expected, strict=True)
            if ours != theirs
        )


@pytest.mark.parametrize("kind", ["postfix", "sendmail"])
def test_changes_have_the_same_effect(kind: str, request: pytest.FixtureRequest) -> None:
    start: Callable[..., Instance] = request.getfixturevalue(kind)
    subject = Subject(Step(0))
    cases = {name: (script, MESSAGE) for name, script in CHANGES.items()}
    assert list(differences(start(subject.milter), subject, cases)) == []


@pytest.mark.parametrize("kind", ["postfix", "sendmail"])
@pytest.mark.parametrize("steps", [Step(0), Step.HDR_LEADSPC], ids=["plain", "leadspc"])
def test_content_is_seen_and_delivered_the_same(
    kind: str, steps: Step, request: pytest.FixtureRequest
) -> None:
    start: Callable[..., Instance] = request.getfixturevalue(kind)
    subject = Subject(steps)
    added: Script = [("addheader", "X-Added", "v\n w"), ("addheader", "X-Blank", " v")]
    cases = {name: (added, message) for name, message in CONTENTS.items()}
    assert list(differences(start(subject.milter), subject, cases)) == []
