"""What happened to one message between an MTA and a filter, as values; how it looks is the business of `rendering`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pmilter.protocol.messages import Macros, Message
from pmilter.protocol.rules import RULES
from pmilter.protocol.trace import format_message
from pmilter.text import decode, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pmilter.cli.scenes import Scene

_JSON_LIMIT: Final = 1000
"""Characters of one message in machine output."""


@dataclass(slots=True)
class Exchange:
    """One command, and what the filter answered to it.

    Attributes:
        command: The command.
        macros: The macros that came with it, names as sent, texts printable.
        answers: Changes and reply, in order; empty where none is waited for.
    """

    command: Message
    macros: dict[str, str] = field(default_factory=dict)
    answers: list[Message] = field(default_factory=list)

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return RULES[self.command.code].name

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "stage": self.stage,
            "command": format_message(self.command, _JSON_LIMIT),
            "macros": self.macros,
            "answers": [format_message(answer, _JSON_LIMIT) for answer in self.answers],
        }


class Recorder:
    """Sorts the messages of one connection, as they pass, into exchanges.

    Attributes:
        exchanges: What has passed so far.
    """

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self._macros: dict[str, str] = {}

    def command(self, message: Message) -> None:
        """Take a message from the MTA."""
        if isinstance(message, Macros):
            self._macros |= {_shown(name): _shown(value) for name, value in message.items}
            return
        self.exchanges.append(Exchange(message, self._macros))
        self._macros = {}

    def answer(self, message: Message) -> None:
        """Take a message from the filter."""
        self.exchanges[-1].answers.append(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a message.

    Attributes:
        verdict: ``"accept"``, ``"reject"``, ``"tempfail"`` or ``"discard"``.
        stage: Where the verdict fell.
        reply: What the SMTP client reads at last, lines joined by LF; None where it is the MTA's own text, not played here.
        rejected: Recipient that was refused -> the reply, or the verdict where there is none.
        sender: Envelope sender as delivered.
        recipients: Those who get the message.
        message: The message that they get, with CRLF line ends; None if nobody gets it.
    """

    verdict: str
    stage: str
    reply: str | None
    rejected: Mapping[str, str]
    sender: str
    recipients: tuple[str, ...]
    message: bytes | None

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "verdict": self.verdict,
            "stage": self.stage,
            "reply": self.reply,
            "rejected": dict(self.rejected),
            "sender": self.sender,
            "recipients": list(self.recipients),
            "message": None if self.message is None else _text(self.message),
        }


@dataclass(frozen=True, slots=True)
class Account:
    """The whole story of one message.

    Attributes:
        scene: What was sent.
        exchanges: What MTA and filter said to each other.
        outcome: What became of it.
    """

    scene: Scene
    exchanges: tuple[Exchange, ...]
    outcome: Outcome

    def diff(self) -> list[str]:
        """Return how the message changed: its lines, each after ``" "``, ``"-"`` or ``"+"``; none if it did not."""
        if self.outcome.message is None:
            return []
        before, after = _lines(self.scene.message), _lines(self.outcome.message)
        if before == after:
            return []
        whole = len(before) + len(after)
        return list(difflib.unified_diff(before, after, lineterm="", n=whole))[_DIFF_HEAD:]

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        scene = self.scene
        return {
            "title": scene.title,
            "client": scene.client._asdict(),
            "sender": scene.sender,
            "recipients": list(scene.recipients),
            "message": _text(scene.message),
            "exchanges": [exchange.to_json() for exchange in self.exchanges],
            "outcome": self.outcome.to_json(),
            "diff": self.diff(),
        }


_DIFF_HEAD: Final = 3
"""Lines before the first one of the text: two file names and the position."""


def _shown(data: bytes) -> str:
    return printable(decode(data))


def _text(message: bytes) -> str:
    return message.replace(b"\r\n", b"\n").decode("utf-8", "backslashreplace")


def _lines(message: bytes) -> list[str]:
    return [printable(line.expandtabs()) for line in _text(message).splitlines()]
