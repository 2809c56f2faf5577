"""Load on a real MTA: one message an SMTP connection, many connections at a time, and an account of every message."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmilter.errors import ConnectionClosed, MilterTimeout
from pmilter.testing.rig import SmtpClient

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = """\
From: a@example.com
To: m{number}@example.org
Subject: message {number}
Message-ID: <{number}@proofs.example.com>
Date: Thu, 1 Jan 2026 00:00:00 +0000

{line}
"""
LINE = "All this is here to be filtered.\n" * 20
REPLY_TIME = 60.0
"""Seconds for each reply of the MTA."""


def recipient(number: int) -> str:
    """Return the recipient of a message; no other message has it."""
    return f"m{number}@example.org"


@dataclass(frozen=True)
class Attempt:
    """What became of one message, as its sender knows.

    Attributes:
        number: The message.
        code: Code of the last reply, or 0 where none came.
        stage: Where it was refused; None where it was accepted.
        queue_id: The MTA's name for it where it was accepted.
        reply: The last reply, or what was wrong with the connection.
    """

    number: int
    code: int
    stage: str | None
    queue_id: str | None
    reply: str

    @property
    def accepted(self) -> bool:
        """Whether the MTA has taken it over."""
        return self.stage is None and self.code == 250 and self.queue_id is not None

    @property
    def refused_for_now(self) -> bool:
        """Whether the sender was told to try again later."""
        return 400 <= self.code < 500


class Load:
    """Sends messages until there have been enough and `enough` was called; use it as a context manager, which waits for that.

    Args:
        address: The MTA's host and port.
        concurrency: Connections at a time.
        messages: How many at least.
        on_attempt: Called after each message, one at a time, with how many there have been.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        concurrency: int,
        messages: int,
        on_attempt: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._address = address
        self._concurrency = concurrency
        self._messages = messages
        self._on_attempt = on_attempt
        self._begun = 0
        self._enough = False
        self._changed = threading.Condition()
        self.attempts: list[Attempt] = []

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(self._concurrency)
        self._senders = [self._pool.submit(self._send_many) for _ in range(self._concurrency)]
        return self

    def __exit__(self, *_: object) -> None:
        self.enough()
        self._pool.shutdown()

    def enough(self) -> None:
        """Begin no more messages than were asked for at least."""
        self._enough = True

    def finish(self) -> list[Attempt]:
        """Return all attempts when the last has ended; raises what a sender raised."""
        self.enough()
        for sender in self._senders:
            sender.result()
        return self.attempts

    def wait(self, count: int) -> None:
        """Return when so many more messages have come to an end, or a sender has failed."""
        with self._changed:
            target = len(self.attempts) + count
            self._changed.wait_for(lambda: len(self.attempts) >= target or self._failed())

    def _failed(self) -> bool:
        return any(sender.done() for sender in self._senders)

    def _send_many(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._note(send_one(self._address, number))
        finally:
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            if self._enough and self._begun >= self._messages:
                return None
            self._begun += 1
            return self._begun

    def _note(self, attempt: Attempt) -> None:
        with self._changed:
            self.attempts.append(attempt)
            self._on_attempt(len(self.attempts))
            self._changed.notify_all()


def send_one(address: tuple[str, int], number: int) -> Attempt:
    """Send a message on a connection of its own."""
    text = MESSAGE.format(number=number, line=LINE).encode()
    try:
        with SmtpClient(address, timeout=REPLY_TIME) as client:
            result = client.send(text, recipients=[recipient(number)])
    except (ConnectionClosed, MilterTimeout, OSError) as error:
        return Attempt(number, 0, "connection", None, f"{type(error).__name__}: {error}")
    return Attempt(number, result.code, result.stage, result.queue_id, result.reply)
