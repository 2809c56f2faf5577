"""What load to put on a filter: which message, how often, on how many connections, in which MTA's way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from pmilter.client.content import read_message
from pmilter.client.dialect import POSTFIX, Dialect
from pmilter.client.peer import parse_peer
from pmilter.client.transaction import Envelope, Recipient
from pmilter.errors import ConfigError
from pmilter.protocol.constants import PROTOCOL_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.address import Address
    from pmilter.client.content import Content

CLIENT: Final = parse_peer(("mail.example.com", "192.0.2.1", 40001))
"""The SMTP client that every message comes from."""

_FIELDS: Final = (
    b"Received: from mail.example.com (mail.example.com [192.0.2.1])\r\n\tby mx.example.net with ESMTPS id 4C7F2A000001;\r\n"
    b"\tMon, 5 Jan 2026 10:00:00 +0000",
    b"Received: from desk.example.com (desk.example.com [192.0.2.77])\r\n\tby mail.example.com with ESMTPSA id 5D8A1B000001;\r\n"
    b"\tMon, 5 Jan 2026 09:59:59 +0000",
    b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=2026;\r\n\th=from:to:subject:date:message-id;\r\n"
    b"\tbh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\r\n\tb=ZHpkVnlPZkFLQ2RMWGRKT2M5RzJxOExvWFNsRW5pU2Jhdit5dVU0eg==",
    b"Date: Mon, 5 Jan 2026 09:59:58 +0000",
    b"From: Alice Example <alice@example.com>",
    b"To: Bob Example <user1@example.org>",
    b"Subject: Minutes of the meeting",
    b"Message-ID: <20260105095958.1234@desk.example.com>",
    b"In-Reply-To: <20260104174500.4321@mail.example.org>",
    b"References: <20260104120000.1111@mail.example.org>\r\n <20260104174500.4321@mail.example.org>",
    b"MIME-Version: 1.0",
    b"Content-Type: text/plain; charset=utf-8; format=flowed",
    b"Content-Transfer-Encoding: 8bit",
    b"Content-Language: en",
    b"User-Agent: Example Mail 12.1 (X11; Linux x86_64)",
    b"List-Id: Minutes <minutes.example.com>",
    b"List-Unsubscribe: <mailto:minutes-leave@example.com>",
)
_LINE: Final = b"The quick brown fox jumps over the lazy dog.\r\n"


def sample_message(headers: int = 20, body: int = 8192) -> bytes:
    """Return a message with CRLF line ends as it might come from anywhere.

    Args:
        headers: How many header fields it has.
        body: Size of its body in bytes; 1 is taken for 2, which is the shortest line.
    """
    more = (b"X-Field-%d: value %d" % (number, number) for number in range(1, headers + 1))
    fields = islice(chain(_FIELDS, more), headers)
    return b"".join(field + b"\r\n" for field in fields) + b"\r\n" + _sample_body(body)


def _sample_body(size: int) -> bytes:
    if not size:
        return b""
    lines = max(0, size - 2) // len(_LINE)
    return _LINE * lines + b"-" * (size - lines * len(_LINE) - 2) + b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a load consists of.

    Attributes:
        address: Where the filter listens.
        message: What is sent each time, as `read_message` takes it.
        recipients: How many each message has.
        dialect: The MTA to play.
        version: The protocol version to offer, from 2 to 6.
        macros: Whether macros are sent.
        connections: How many there are at the same time, at most.
        messages: How many are sent on one connection, before it is closed and another one opened.
        seconds: How long to measure; None for as long as it takes to send `total`.
        total: How many messages to measure; None for as many as there is time for.
        warm_up: Seconds of load before the measurement.
        rate: Messages to begin in a second, whatever the filter does; None for the next one when one has ended.
        phase: Seconds by which the first one is late, so that several loads at a rate do not begin theirs together.
        timeout: Seconds to wait for an answer.

    Raises:
        ConfigError: The MTA would refuse the message before a filter sees it, or does not offer the version.
    """

    address: Address
    message: bytes
    recipients: int = 2
    dialect: Dialect = POSTFIX
    version: int = PROTOCOL_VERSION
    macros: bool = True
    connections: int = 16
    messages: int = 10
    seconds: float | None = 10.0
    total: int | None = None
    warm_up: float = 1.0
    rate: float | None = None
    phase: float = 0.0
    timeout: float = 30.0

    def __post_init__(self) -> None:
        self.dialect.offer(self.version)
        refusal = self.content.refusal
        if refusal is not None:
            raise ConfigError(
                f"{self.dialect.name} refuses this message before a filter sees it: {refusal.reply}"
            )

    @property
    def content(self) -> Content:
        """The message as the MTA has it."""
        return read_message(self.message, self.dialect)

    @property
    def envelope(self) -> Envelope:
        """Sender and recipients of every message."""
        size = b"SIZE=%d" % len(self.message)
        recipients = (b"<user%d@example.org>" % number for number in range(1, self.recipients + 1))
        return Envelope(b"<alice@example.com>", (size,), tuple(map(Recipient, recipients)))

    @property
    def spoken(self) -> Dialect:
        """The dialect, without macros if there shall be none."""
        return self.dialect if self.macros else replace(self.dialect, macros={})

    def shares(self, count: int) -> Iterator[Plan]:
        """Divide the load among several who work at the same time; each has one connection at least."""
        for number in range(count):
            yield replace(
                self,
                connections=_share(self.connections, number, count),
                total=None if self.total is None else _share(self.total, number, count),
                rate=None if self.rate is None else self.rate / count,
                phase=0.0 if self.rate is None else number / self.rate,
            )


def _share(whole: int, number: int, count: int) -> int:
    return whole // count + (number < whole % count)
