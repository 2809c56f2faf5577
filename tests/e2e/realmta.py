"""A real MTA that stays while filters come and go: one start for many tests.

It asks whatever filter listens on one reserved port, so each test serves a filter of its own there.
"""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pmilter.errors import MilterTimeout
from pmilter.testing.rig import Postfix, Sendmail, serve
from pmilter.testing.rig.daemon import reserved_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from pmilter import Milter
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.testing.rig import Delivered, Instance, SmtpClient, SmtpResult

KINDS: dict[str, type[Instance]] = {"postfix": Postfix, "sendmail": Sendmail}
MESSAGE = b"""\
From: a@example.com
To: b@example.org
Subject: hello
Date: Thu, 1 Jan 2026 00:00:00 +0000
Message-Id: <1@example.com>

hello
"""

_OWN_RECEIVED = re.compile(
    rb"(?m)^Received: from [^\r]*\r\n\tby mta\.example\.test (?:[^\r]*\r\n\t)*?"
    rb"(?:[^\r]*?\bid (\w+))(?:[^\r]*\r\n\t)*[^\r]*\r\n"
)


class Letter(NamedTuple):
    """What an SMTP client sends."""

    message: bytes = MESSAGE
    sender: str = "a@example.com"
    recipients: tuple[str, ...] = ("b@example.org",)
    mail_args: tuple[str, ...] = ()
    rcpt_args: tuple[str, ...] = ()

    def send(self, client: SmtpClient) -> SmtpResult:
        return client.send(
            self.message,
            self.sender,
            self.recipients,
            mail_args=self.mail_args,
            rcpt_args=self.rcpt_args,
        )


class Arrival(NamedTuple):
    """One message at the next hop, without what the MTA itself has added to it."""

    sender: str
    recipients: tuple[str, ...]
    """Sorted, since MTAs keep no order."""
    message: bytes
    queue_id: str
    received_at: int
    """How many header bytes stand above the MTA's own Received."""


class RealMta:
    """A running MTA that asks the filter at `address`, if one is there; without it mail fails temporarily."""

    def __init__(self, kind: str) -> None:
        self.name = kind
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.address = f"inet:{stack.enter_context(reserved_port())}@127.0.0.1"
            self.mta: Instance = stack.enter_context(KINDS[self.name](self.address))
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @contextmanager
    def asking(self, milter: Milter, dispatcher: Dispatcher | None = None) -> Iterator[Instance]:
        """Serve a filter to it until the block is left."""
        with serve(milter, self.address, dispatcher=dispatcher):
            yield self.mta

    def arrivals(self, n: int) -> list[Arrival]:
        """All that `delivered` gives, without what this MTA has added."""
        return [arrival(one) for one in self.delivered(n)]

    def delivered(self, n: int) -> list[Delivered]:
        """Wait for `n` messages, and until nothing is on its way any more; return all that were delivered."""
        found = self.mta.delivered(n) if n else []
        if not wait_for(lambda: not self.mta.queued(), timeout=10):
            raise MilterTimeout(f"still queued: {self.mta.queued()}", seconds=10)
        return found + self.leftovers()

    def leftovers(self) -> list[Delivered]:
        """All that was delivered and that nobody has asked for."""
        found: list[Delivered] = []
        while True:
            try:
                found += self.mta.delivered(1, timeout=0)
            except MilterTimeout:
                return found


def arrival(delivered: Delivered) -> Arrival:
    """Take the MTA's own Received out of a message; it must be there, once."""
    message = delivered.message
    [own] = _OWN_RECEIVED.finditer(message)
    return Arrival(
        delivered.sender,
        tuple(sorted(delivered.recipients)),
        message[: own.start()] + message[own.end() :],
        own[1].decode(),
        own.start(),
    )


def merged(arrivals: Sequence[Arrival]) -> dict[str, Arrival]:
    """Put together by queue id what an MTA has delivered in several transactions."""
    by_id: dict[str, Arrival] = {}
    for one in arrivals:
        known = by_id.get(one.queue_id)
        recipients = one.recipients
        if known is not None:
            assert known.message == one.message
            recipients += known.recipients
        by_id[one.queue_id] = one._replace(recipients=tuple(sorted(recipients)))
    return by_id
