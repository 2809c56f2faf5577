"""Notes the facts of each command as it arrives, and counts against the limits that a mail's content can reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pmilter.protocol.messages import Connect, Helo, Mail, Rcpt

if TYPE_CHECKING:
    from pmilter.facts import Facts
    from pmilter.limits import Limits


RECIPIENT_BYTES: Final = 512
"""Bytes that a recipient and its parameters have, on the average of a message: RFC 5321 allows 256 for a path."""


class Tally:
    """Facts and counts of one connection. Each note takes a command's payload and returns False where it passes a limit.

    Args:
        facts: Where to write the facts.
        limits: What to count against.
    """

    __slots__ = (
        "_exceeded",
        "_facts",
        "_header_bytes_left",
        "_headers_left",
        "_limits",
        "_rcpt_bytes_left",
        "_rcpts_left",
    )

    def __init__(self, facts: Facts, limits: Limits) -> None:
        self._facts = facts
        self._limits = limits
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

    def connect(self, payload: bytes) -> bool:
        """Note the client."""
        self._facts.connect = Connect.decode(payload)
        return True

    def helo(self, payload: bytes) -> bool:
        """Note the client's name for itself."""
        self._facts.helo = Helo.decode(payload).text
        return True

    def mail(self, payload: bytes) -> bool:
        """Note the sender."""
        if payload[-1:] != b"\0":
            Mail.decode(payload)  # raises with the reason
        self._facts.sender = payload.partition(b"\0")[0]
        return payload.count(0) <= self._limits.arguments

    def rcpt(self, payload: bytes) -> bool:
        """Count a recipient; it is a fact only once it is accepted."""
        if payload[-1:] != b"\0":
            Rcpt.decode(payload)  # raises with the reason
        self._rcpts_left -= 1
        self._rcpt_bytes_left -= len(payload)
        within = self._rcpts_left >= 0 <= self._rcpt_bytes_left
        return within and payload.count(0) <= self._limits.arguments

    def header(self, payload: bytes) -> bool:
        """Count a header field."""
        self._headers_left -= 1
        self._header_bytes_left -= len(payload)
        return self._headers_left >= 0 <= self._header_bytes_left
