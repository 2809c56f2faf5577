"""Takes each command in: notes its facts, counts it against the limits that a mail's content can reach, and makes its callback's arguments.

All in one step a command, since it is taken for every header of every mail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pmilter.facts import client_address
from pmilter.protocol.constants import Command
from pmilter.protocol.messages import Connect, Data, Header, Helo, Mail, Message, Rcpt, Unknown
from pmilter.text import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.context import Context
    from pmilter.facts import Facts
    from pmilter.limits import Limits

RECIPIENT_BYTES: Final = 512
"""Bytes that a recipient and its parameters have, on the average of a message: RFC 5321 allows 256 for a path."""

Arguments = tuple[Any, ...]


class Intake:
    """Facts and counts of one connection.

    Each of the methods in `TAKES` takes a command's payload and returns its callback's arguments, or None where it passes a limit;
    it raises `RemoteProtocolError` where the payload is malformed.

    Args:
        facts: Where to write the facts.
        limits: What to count against.
        context: The first argument of all callbacks.

    Attributes:
        context: The same; may be replaced.
    """

    __slots__ = (
        "_exceeded",
        "_facts",
        "_header_bytes_left",
        "_headers_left",
        "_limits",
        "_rcpt_bytes_left",
        "_rcpts_left",
        "context",
    )

    def __init__(self, facts: Facts, limits: Limits, context: Context) -> None:
        self._facts = facts
        self._limits = limits
        self.context = context
        self.begin_message()

    def begin_message(self) -> None:
        """Count from zero."""
        self._rcpts_left = self._limits.recipients
        self._rcpt_bytes_left = self._limits.recipients * RECIPIENT_BYTES
        self._headers_left = self._limits.headers
        self._header_bytes_left = self._limits.header_bytes
        self._exceeded = False

    def first_excess(self) -> bool:
        """Return whether this is the first limit that the message passes."""
        first = not self._exceeded
        self._exceeded = True
        return first

    def connect(self, payload: bytes) -> Arguments | None:
        """Note the client."""
        client = self._facts.connect = Connect.decode(payload)
        return (self.context, decode(client.hostname), client_address(client))

    def helo(self, payload: bytes) -> Arguments | None:
        """Note the client's name for itself."""
        name = self._facts.helo = Helo.decode(payload).text
        return (self.context, decode(name))

    def envfrom(self, payload: bytes) -> Arguments | None:
        """Note the sender."""
        self._facts.sender = payload.partition(b"\0")[0]
        if payload.count(0) > self._limits.arguments:
            return None
        return (self.context, *_texts(Mail, payload))

    def envrcpt(self, payload: bytes) -> Arguments | None:
        """Count a recipient; it is a fact only once it is accepted."""
        self._rcpts_left -= 1
        self._rcpt_bytes_left -= len(payload)
        within = self._rcpts_left >= 0 <= self._rcpt_bytes_left
        if not within or payload.count(0) > self._limits.arguments:
            return None
        return (self.context, *_texts(Rcpt, payload))

    def header(self, payload: bytes) -> Arguments | None:
        """Count a header field."""
        self._headers_left -= 1
        self._header_bytes_left -= len(payload)
        if self._headers_left < 0 or self._header_bytes_left < 0:
            return None
        # Decoding does not see over a NUL, so one pass over both texts gives the same as one for each.
        name, nul, value = payload[:-1].decode("utf-8", "surrogateescape").partition("\0")
        if nul and "\0" not in value and payload[-1] == 0:
            return (self.context, name, value)
        wire_name, wire_value = Header.split(
            payload
        )  # raises with the reason, or there are NULs in the value
        return (self.context, decode(wire_name), decode(wire_value))

    def chunk(self, payload: bytes) -> Arguments | None:
        """Take a piece of the body."""
        return (self.context, payload)

    def unknown(self, payload: bytes) -> Arguments | None:
        """Take a command that the MTA does not know."""
        return (self.context, decode(Unknown.decode(payload).text))

    def plain(self, payload: bytes) -> Arguments | None:
        """Take a command that carries nothing."""
        if payload:
            Data.decode(payload)  # raises: none belongs there
        return (self.context,)


def _texts(kind: type[Message], payload: bytes) -> list[str]:
    """Return the NUL-terminated texts of a payload; there is at least one."""
    # Decoding does not see over a NUL, so one pass over all texts gives the same as one for each.
    texts = payload.decode("utf-8", "surrogateescape").split("\0")
    if texts.pop() or not texts:
        kind.decode(payload)  # raises with the reason
    return texts


if TYPE_CHECKING:
    Take = Callable[[Intake, bytes], Arguments | None]

TAKES: Final[dict[Command, Take]] = {
    Command.CONNECT: Intake.connect,
    Command.HELO: Intake.helo,
    Command.MAIL: Intake.envfrom,
    Command.RCPT: Intake.envrcpt,
    Command.DATA: Intake.plain,
    Command.UNKNOWN: Intake.unknown,
    Command.HEADER: Intake.header,
    Command.EOH: Intake.plain,
    Command.BODY: Intake.chunk,
    Command.BODYEOB: Intake.chunk,
}
"""Commands that have an answer of the filter's, and how they are taken in."""
