"""An SMTP client for tests: it says exactly what it is told and keeps every reply.

smtplib would mend the message, hide replies and refuse what a test wants to send on purpose. Nothing here knows
which MTA is at the other end.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pmilter.errors import ConnectionClosed, MilterTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

HELO: Final = "client.example.com"
LINE_LIMIT: Final = 1 << 16  # bytes of one reply line
QUIT_TIMEOUT: Final = 5.0  # seconds

_QUEUED: Final = re.compile(r"queued as (\S+)|(\S+) Message accepted for delivery")


class SmtpReply(str):
    """A reply as text, its lines joined by LF: ``reply == "250 2.0.0 Ok"`` is all that most tests need."""

    __slots__ = ()

    @property
    def code(self) -> int:
        """The three-digit code of the last line."""
        return int(self.lines[-1][:3])

    @property
    def lines(self) -> list[str]:
        """The lines, each with its code, without line ends."""
        return self.split("\n")


@dataclass(frozen=True, slots=True)
class SmtpResult:
    """What became of one message.

    Attributes:
        reply: The last reply: to the message itself, or the one that ended the attempt.
        stage: Where the MTA refused it: ``connect``, ``helo``, ``envfrom``, ``envrcpt`` (all recipients were
            refused), ``data``, ``eom`` (after the message); None if it was accepted.
        replies: Every reply by stage; several at ``envrcpt``, one for each recipient.
        rejected: The reply to each refused recipient.
    """

    reply: SmtpReply
    stage: str | None
    replies: Mapping[str, Sequence[SmtpReply]]
    rejected: Mapping[str, SmtpReply]

    @property
    def code(self) -> int:
        """The code of the last reply."""
        return self.reply.code

    @property
    def queue_id(self) -> str | None:
        """The MTA's name for the message (the macro ``i`` of a filter), or None if it was not accepted."""
        found = _QUEUED.search(self.reply)
        return found and (found[1] or found[2])


class SmtpClient:
    """One connection to an SMTP server, greeting read; use it in one thread, best as a context manager.

    Attributes:
        greeting: What the server said at connect.
    """

    def __init__(self, address: tuple[str, int], *, timeout: float = 30.0) -> None:
        """Connect and read the greeting; `timeout` (seconds) is for each reply."""
        self._socket = socket.create_connection(address, timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")
        self._introduced = False
        try:
            self.greeting = self.read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Say QUIT and close; after an error only close, since the server may be waiting for something else."""
        if kind is None:
            self.quit()
        else:
            self.close()

    def command(self, line: str | bytes) -> SmtpReply:
        """Send one line, CRLF added, and wait for its reply; text is sent as UTF-8.

        Raises:
            ConnectionClosed: The server closed before it answered.
            MilterTimeout: No answer in time.
        """
        self.write(_encode(line) + b"\r\n")
        return self.read()

    def write(self, data: bytes) -> None:
        """Send bytes exactly as they are, and wait for nothing."""
        self._socket.sendall(data)

    def read(self) -> SmtpReply:
        """Wait for the next reply; raises as `command` does."""
        lines: list[bytes] = []
        while not lines or lines[-1][3:4] == b"-":
            lines.append(self._read_line().rstrip(b"\r\n"))
        return SmtpReply(b"\n".join(lines).decode("utf-8", "surrogateescape"))

    def helo(self, name: str = HELO) -> SmtpReply:
        """Say EHLO."""
        self._introduced = True
        return self.command(f"EHLO {name}")

    def data(self, message: bytes) -> SmtpReply:
        """Send DATA and, if the server wants it, the message; the reply is that to the message, or to DATA."""
        reply = self.command("DATA")
        return self._transmit(message) if reply.code == 354 else reply

    def send(
        self,
        message: bytes,
        sender: str = "a@example.com",
        recipients: Sequence[str] = ("b@example.org",),
        *,
        helo: str = HELO,
        mail_args: Sequence[str] = (),
        rcpt_args: Sequence[str] = (),
    ) -> SmtpResult:
        """Send one message, after EHLO if nobody has said it yet; call it again for more on this connection.

        A refused transaction is reset, as well-behaved clients do, so that the next one can begin.

        Args:
            message: Lines may end in LF or CRLF; they are sent with CRLF, dots stuffed, other bytes untouched.
            sender: Envelope sender, angle brackets optional; ``""`` is the null sender.
            recipients: Envelope recipients, angle brackets optional.
            helo: Name for EHLO.
            mail_args: ESMTP parameters of MAIL, such as ``"SIZE=100"``.
            rcpt_args: ESMTP parameters given with every RCPT, such as ``"NOTIFY=NEVER"``.
        """
        commands = [_envelope("MAIL FROM", sender, mail_args)]
        commands += [_envelope("RCPT TO", recipient, rcpt_args) for recipient in recipients]
        record = _Record(recipients)
        for stage, reply in self._transaction(helo, commands, message):
            if record.add(stage, reply):
                break
        else:
            return SmtpResult(reply, None, record.replies, record.rejected)
        if stage in ("envrcpt", "data") and reply.code != 421:
            self.command("RSET")
        return SmtpResult(reply, stage, record.replies, record.rejected)

    def quit(self) -> None:
        """Say QUIT if the connection still stands, and close."""
        if self._socket.fileno() == -1:
            return
        try:
            self._socket.settimeout(QUIT_TIMEOUT)
            self.command("QUIT")
        except (OSError, ConnectionClosed):
            pass  # it went first: closed is closed
        self.close()

    def abort(self) -> None:
        """Drop the connection at once with a TCP reset, as a crashed client does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close without QUIT."""
        self._replies.close()
        self._socket.close()

    def _read_line(self) -> bytes:
        try:
            line = self._replies.readline(LINE_LIMIT)
        except TimeoutError as error:
            seconds = self._socket.gettimeout()
            raise MilterTimeout(f"no SMTP reply within {seconds:g} s", seconds=seconds) from error
        if not line:
            raise ConnectionClosed("the SMTP server closed the connection instead of a reply")
        return line

    def _transaction(
        self, helo: str, commands: Sequence[str], message: bytes
    ) -> Iterator[tuple[str, SmtpReply]]:
        """The replies as they come; a caller who stops reading stops the transaction."""
        yield "connect", self.greeting
        if not self._introduced:
            yield "helo", self.helo(helo)
        mail, *rcpts = commands
        yield "envfrom", self.command(mail)
        for rcpt in rcpts:
            yield "envrcpt", self.command(rcpt)
        yield "data", self.command("DATA")
        yield "eom", self._transmit(message)

    def _transmit(self, message: bytes) -> SmtpReply:
        text = re.sub(rb"\r?\n", b"\r\n", message)
        end = b".\r\n" if text.endswith(b"\r\n") or not text else b"\r\n.\r\n"
        self.write(re.sub(rb"(?m)^\.", b"..", text) + end)
        return self.read()


class _Record:
    """The replies of one transaction, and when it is over."""

    def __init__(self, recipients: Sequence[str]) -> None:
        self._recipients = recipients
        self.replies: dict[str, list[SmtpReply]] = {}
        self.rejected: dict[str, SmtpReply] = {}

    def add(self, stage: str, reply: SmtpReply) -> bool:
        """Keep a reply; True if it ends the transaction before the message is accepted."""
        known = self.replies.setdefault(stage, [])
        known.append(reply)
        if reply.code < 400:
            return False
        if stage != "envrcpt" or reply.code == 421:
            return True
        self.rejected[self._recipients[len(known) - 1]] = reply
        return len(known) == len(self._recipients) and all(each.code >= 400 for each in known)


def _encode(line: str | bytes) -> bytes:
    return line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")


def _envelope(verb: str, address: str, args: Sequence[str]) -> str:
    path = address if address.startswith("<") else f"<{address}>"
    return " ".join([f"{verb}:{path}", *args])
