"""The MTA's side, given the same SMTP session, sends what Postfix and Sendmail really sent, frame by frame."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.client import (
    DIALECTS,
    Close,
    Content,
    Dialogue,
    Envelope,
    Field,
    GivenMacros,
    Recipient,
    Transaction,
    parse_peer,
    read_message,
)
from pmilter.effects import Send
from pmilter.protocol.constants import Command, Family
from pmilter.protocol.macros import bare_name
from pmilter.protocol.messages import Body, Connect, Header, Macros, decode_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.client import Peer, Steps
    from pmilter.protocol.messages import Message

CAPTURES = Path(__file__).parent.parent / "data" / "captures"

SCENARIOS = [
    "plain", "all-changes", "two-messages", "body-chunks", "body-skip", "reject-rcpt", "eom-verdicts", "early-verdicts",
    "reject-helo", "drop-after-rcpt", "drop-in-data", "quarantine-progress", "no-replies", "few-events", "macro-lists",
    "version-2", "odd-content", "empty-message", "no-helo", "connect-only", "perl-filter", "esmtp-params",
]  # fmt: skip

CASES = [
    *(f"{mta}-{scenario}" for mta in ("postfix", "sendmail") for scenario in SCENARIOS),
    "postfix-ipv6-client-2",
    "postfix-unknown-client-2",
    "postfix-smtputf8",
    "postfix-rejected-rcpt-event",
    "sendmail-ipv6-client",
    "sendmail-unknown-client",
    "sendmail-stdin-client",
]

DERIVED = {"mail_addr", "rcpt_addr", "msg_id"}
"""Macros that the MTA's side works out by itself."""

GENERATED = {b"message-id", b"date", b"from"}
"""Fields that Postfix adds to mail of its own hosts before the filter sees it; here they are put into the message."""


@dataclass
class Capture:
    """One captured connection, and what to give an MTA's side so that it does the same."""

    mta: str
    smtp: list[str]
    events: list[tuple[str, bytes]]
    commands: list[Message] = field(default_factory=list)

    @classmethod
    def load(cls, name: str) -> Capture:
        data: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text())
        events = [(event["dir"], bytes.fromhex(event["hex"])) for event in data["events"]]
        commands = [decode_command(e[4], e[5:]) for direction, e in events if direction == "mta"]
        return cls(data["mta"], data["smtp"], events, commands)

    def client(self) -> Peer:
        connect = next((c for c in self.commands if isinstance(c, Connect)), None)
        if connect is None:
            return parse_peer(("localhost", "127.0.0.1"))
        if connect.family is Family.UNKNOWN:
            return parse_peer(None)
        name = connect.hostname.decode()
        address = connect.address.decode()
        return parse_peer((None if name[0] == "[" else name, address, connect.port))

    def session_macros(self) -> dict[str, str | None]:
        """The values of CONNECT's macros, as a configuration would set them; None for those that this MTA did not have."""
        sent = _values(
            c for c in self.commands if isinstance(c, Macros) and c.stage == Command.CONNECT
        )
        names = map(bare_name, DIALECTS[self.mta].macros[Command.CONNECT])
        return dict.fromkeys(names) | sent

    def message_macros(self, number: int) -> dict[str, str]:
        """The values of the n-th message's macros, except for those that follow from its envelope."""
        starts = [
            n
            for n, c in enumerate(self.commands)
            if isinstance(c, Macros) and c.stage == Command.MAIL
        ]
        if number >= len(starts):
            return {}
        end = starts[number + 1] if number + 1 < len(starts) else None
        packets = [c for c in self.commands[starts[number] : end] if isinstance(c, Macros)]
        return {name: value for name, value in _values(packets).items() if name not in DERIVED}

    def generated_msg_id(self) -> dict[str, str]:
        """The Message-Id that Sendmail made up, with the time in it."""
        values = _values(c for c in self.commands if isinstance(c, Macros))
        return {name: value for name, value in values.items() if name == "msg_id"}

    def content(self, text: str) -> Content:
        """The message that the client sent, as this MTA takes it."""
        data = text.removesuffix(".").replace("\r\n..", "\r\n.").encode()
        data = re.sub(rb"\\x([0-9a-f]{2})", lambda byte: bytes.fromhex(byte[1].decode()), data)
        content = read_message(data, DIALECTS[self.mta])
        known = {f.name.lower() for f in content.fields}
        shown = [c for c in self.commands if isinstance(c, Header)]
        added = [
            Field(h.name, h.value if h.value.startswith(b" ") else b" " + h.value)
            for h in shown
            if h.name.lower() in GENERATED - known and self.mta == "postfix"
        ]
        return content._replace(fields=(*content.fields, *dict.fromkeys(added)))

    def body(self) -> bytes:
        return b"".join(c.chunk for c in self.commands if isinstance(c, Body))


def _values(packets: Iterator[Macros] | list[Macros]) -> dict[str, str]:
    return {
        bare_name(name.decode()): value.decode()
        for packet in packets
        for name, value in packet.items
    }


class Replay:
    """Performs steps: compares what is sent with the capture, and answers from it.

    Args:
        events: The captured frames.
        macro_values: Whether macros must have the same values, not only the same names.
    """

    def __init__(self, events: list[tuple[str, bytes]], *, macro_values: bool = True) -> None:
        self.view = (lambda frame: frame) if macro_values else _without_values
        self.events = events
        self.position = 0
        self.closed = False

    def run(self, steps: Steps[Any]) -> Any:
        outcome: bytes | None = None
        while True:
            try:
                effect = steps.send(outcome)
            except StopIteration as stop:
                return stop.value
            outcome = None
            if isinstance(effect, Send):
                self.compare(effect.data)
            elif isinstance(effect, Close):
                self.closed = True
            else:
                outcome = b"".join(self.take("filter"))
                assert outcome, (
                    f"an answer is awaited after frame {self.position}, none was captured"
                )

    def compare(self, data: bytes) -> None:
        while data:
            size = 4 + int.from_bytes(data[:4], "big")
            frame, data = data[:size], data[size:]
            assert self.position < len(self.events), f"one frame too many: {frame!r}"
            direction, expected = self.events[self.position]
            assert direction == "mta", f"frame {self.position} should wait for an answer: {frame!r}"
            assert self.view(frame) == self.view(expected), f"frame {self.position}"
            self.position += 1

    def take(self, direction: str) -> Iterator[bytes]:
        while self.position < len(self.events) and self.events[self.position][0] == direction:
            yield self.events[self.position][1]
            self.position += 1

    def finish(self) -> None:
        list(self.take("filter"))  # one filter answers QUIT, which nobody reads
        assert self.position == len(self.events), "frames were captured that were not sent"


def _without_values(frame: bytes) -> object:
    command = decode_command(frame[4], frame[5:])
    return (
        (command.stage, [name for name, _ in command.items])
        if isinstance(command, Macros)
        else frame
    )


class SmtpPlayer:
    """Plays the client's side of a captured SMTP session to a dialogue."""

    def __init__(self, name: str) -> None:
        self.capture = Capture.load(name)
        dialect = DIALECTS[self.capture.mta]
        # Addresses in macros are rewritten by the MTA's own configuration.
        self.replay = Replay(self.capture.events, macro_values=not name.endswith("esmtp-params"))
        self.dialogue = Dialogue(dialect)
        client = self.capture.client()
        self.dialogue.macros.know(client.macros(dialect))
        self.dialogue.macros.give(GivenMacros(self.capture.session_macros()))
        self.client = client
        self.long_body = name.endswith(
            ("body-chunks", "body-skip")
        )  # shortened in the capture's SMTP
        self.messages = 0

    def play(self) -> None:
        dialogue, run = self.dialogue, self.replay.run
        run(dialogue.open())
        run(dialogue.connect(self.client.connect(dialogue.dialect)))
        lines = self.lines()
        while lines:
            line = lines.pop(0)
            verb = line.split()[0].upper()
            if verb in {"EHLO", "HELO"}:
                run(dialogue.helo(line.split()[1].encode()))
            elif verb == "MAIL":
                self.message(line, lines)
            elif verb == "FOOBAR":
                run(dialogue.unknown(line.encode()))
            elif verb == "QUIT":
                run(dialogue.quit())
        if not self.replay.closed:
            self.hang_up()
        self.replay.finish()

    def lines(self) -> list[str]:
        """What the client sent, a command or a whole message each."""
        said = [entry[3:] for entry in self.capture.smtp if entry.startswith("C: ")]
        said = [entry for entry in said if not entry.startswith("XCLIENT")]
        return [
            part
            for entry in said
            for part in (entry.split("\r\n") if entry.startswith("MAIL") else [entry])
        ]

    def message(self, mail: str, lines: list[str]) -> None:
        """Play one message, as far as the client came."""
        macros = self.capture.message_macros(self.messages)
        self.dialogue.macros.give_message(GivenMacros(macros))
        self.messages += 1
        rcpts = []
        while lines and lines[0].startswith("RCPT"):
            rcpts.append(lines.pop(0))
        recipients = tuple(Recipient(*_path(line), self.refusal(line)) for line in rcpts)
        sender, args = _path(mail)
        if len(lines) > 1 and lines[0] == "DATA":
            lines.pop(0)
            text = lines.pop(0)
            if text.endswith("."):
                envelope = Envelope(sender, args, recipients)
                self.whole_message(envelope, self.capture.content(text), macros)
                return
            lines.insert(0, "DATA")
        self.begun_message(sender, args, recipients, lines)

    def whole_message(self, envelope: Envelope, content: Content, macros: dict[str, str]) -> None:
        if self.long_body:
            content = content._replace(body=self.capture.body())
        if all(f.name.lower() != b"message-id" for f in content.fields):
            macros = macros | self.capture.generated_msg_id()
        self.dialogue.macros.give_message(GivenMacros(macros))
        self.replay.run(Transaction(self.dialogue, envelope, content).run())

    def begun_message(
        self,
        sender: bytes,
        args: tuple[bytes, ...],
        recipients: tuple[Recipient, ...],
        lines: list[str],
    ) -> None:
        """Play a message that the client gives up."""
        dialogue, run = self.dialogue, self.replay.run
        verdict = run(dialogue.mail(sender, args))
        for recipient in recipients:
            run(dialogue.rcpt(*recipient))
        if lines and lines[0] == "DATA":
            run(dialogue.data())
            lines.clear()
        elif lines or verdict.refuses:
            run(dialogue.reset())

    def refusal(self, line: str) -> str | None:
        """The MTA's own refusal of a recipient, if it gave one."""
        if f"C: {line}" not in self.capture.smtp:  # sent together with other commands
            return None
        answer = self.capture.smtp[self.capture.smtp.index(f"C: {line}") + 1]
        head, _, text = answer.removeprefix("S: ").partition(": ")
        code, xcode, *_ = head.split()
        return f"{code} {xcode} {text}" if "rejected" in text else None

    def hang_up(self) -> None:
        """The client is gone."""
        in_data = self.capture.smtp[-2:-1] == ["S: 354 End data with <CR><LF>.<CR><LF>"]
        lost = in_data and self.capture.mta == "sendmail"
        self.replay.run(self.dialogue.close() if lost else self.dialogue.quit())


def _path(line: str) -> tuple[bytes, tuple[bytes, ...]]:
    text = line.partition(":")[2].encode()
    end = text.rindex(b">") if b"=<>" not in text else text.index(b">")
    address, args = text[: end + 1], text[end + 1 :].split()
    return address, tuple(args)


@pytest.mark.parametrize("name", CASES)
def test_same_frames_as_the_real_mta(name: str) -> None:
    SmtpPlayer(name).play()
