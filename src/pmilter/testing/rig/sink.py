"""Where a rig's mail ends: an SMTP server that keeps each message to the byte, with its envelope.

Own code and not aiosmtpd's, because that one refuses the parameters of delivery status notifications (``RET``,
``NOTIFY``), which a filter may add, and lines over 1001 bytes. It accepts everything, and it holds no opinion
on mail: what to send and what to expect belongs elsewhere.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pmilter.errors import MilterTimeout

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedRWPair
    from typing import Self

_Path = tuple[str, tuple[str, ...]]  # address and parameters
_PATH: Final = re.compile(
    rb'[^<]*<((?:"(?:\\.|[^"\\])*"|[^">])*)>(.*)', re.DOTALL
)  # quoted parts may hold ">"

LINE_LIMIT: Final = 1 << 20  # bytes; far above what an MTA writes, so that no message is cut
MESSAGE_LIMIT: Final = 1 << 28  # bytes

_GREETING: Final = b"220 sink.example.test ESMTP\r\n"
_EXTENSIONS: Final = b"250-sink.example.test\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message as the MTA handed it on.

    Attributes:
        sender: Envelope sender without brackets, ``""`` for the null sender.
        sender_args: ESMTP parameters of MAIL, as sent (``"RET=HDRS"``).
        recipients: Envelope recipients without brackets, in the order of the RCPT commands.
        recipient_args: ESMTP parameters of each recipient, in the same order.
        message: The message, exact bytes, lines ending in CRLF, dot-stuffing undone.
    """

    sender: str
    sender_args: tuple[str, ...]
    recipients: tuple[str, ...]
    recipient_args: tuple[tuple[str, ...], ...]
    message: bytes

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Name and value of each header line in order; folding is kept, one space after the colon is not."""
        fields: list[bytes] = []
        for line in self._split()[0].split(b"\r\n"):
            if fields and line.startswith((b" ", b"\t")):
                fields[-1] += b"\r\n" + line
            elif line:
                fields.append(line)
        pairs = (one.partition(b":") for one in fields)
        return [(_text(name), _text(value.removeprefix(b" "))) for name, _, value in pairs]

    @property
    def body(self) -> bytes:
        """All that follows the first empty line."""
        return self._split()[1]

    def header(self, name: str) -> list[str]:
        """The values of every header line called `name`, in order; upper and lower case are the same."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def _split(self) -> tuple[bytes, bytes]:
        if self.message.startswith(b"\r\n"):
            return b"", self.message[2:]
        head, _, body = self.message.partition(b"\r\n\r\n")
        return head, body


class Sink:
    """An SMTP server on a loopback port of its own, serving in background threads until closed.

    Attributes:
        port: The port it listens on, on 127.0.0.1.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._arrived = threading.Condition()
        self._messages: deque[Delivered] = deque()
        self._sessions: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, name="pmilter-sink")
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and wait for the sessions, which end when the MTA closes its connections."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self._acceptor.join()
        self._listener.close()
        for session in self._sessions:
            session.join()

    def take(self, n: int = 1, timeout: float = 10.0) -> list[Delivered]:
        """Wait for the next `n` messages and remove them, oldest first.

        Any thread may call it.

        Raises:
            MilterTimeout: Fewer than `n` came within `timeout` seconds; what came stays for the next call.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._messages) >= n, timeout):
                raise MilterTimeout(
                    f"{len(self._messages)} of {n} messages were delivered within {timeout:g} s",
                    seconds=timeout,
                )
            return [self._messages.popleft() for _ in range(n)]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self._sessions = [session for session in self._sessions if session.is_alive()]
            session = threading.Thread(
                target=self._serve, args=(connection,), name="pmilter-sink-session"
            )
            self._sessions.append(session)
            session.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rwb") as stream:
                _Session(stream, self._store).run()
        except OSError:  # the MTA was stopped in mid-sentence, maybe with a reply not yet flushed
            return

    def _store(self, message: Delivered) -> None:
        with self._arrived:
            self._messages.append(message)
            self._arrived.notify_all()


class _Session:
    """One SMTP connection."""

    def __init__(self, stream: BufferedRWPair, store: Callable[[Delivered], None]) -> None:
        self._stream = stream
        self._store = store
        self._sender: _Path = ("", ())
        self._recipients: list[_Path] = []
        self._answers: dict[bytes, Callable[[bytes], bytes]] = {
            b"EHLO": lambda _: _EXTENSIONS,
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"QUIT": lambda _: b"221 2.0.0 Bye\r\n",
        }

    def run(self) -> None:
        self._say(_GREETING)
        while line := self._stream.readline(LINE_LIMIT):
            verb = line[:4].upper().strip()
            self._say(self._answers.get(verb, _ok)(line))
            if verb == b"QUIT":
                return

    def _say(self, reply: bytes) -> None:
        self._stream.write(reply)
        self._stream.flush()

    def _mail(self, line: bytes) -> bytes:
        self._sender = _path(line)
        self._recipients = []
        return _ok(line)

    def _rcpt(self, line: bytes) -> bytes:
        self._recipients.append(_path(line))
        return _ok(line)

    def _data(self, line: bytes) -> bytes:
        self._say(b"354 Go on\r\n")
        message = self._read_message()
        if message is None:
            return b"554 5.6.0 Message is cut off or too big\r\n"
        self._store(
            Delivered(
                *self._sender,
                tuple(address for address, _ in self._recipients),
                tuple(args for _, args in self._recipients),
                message,
            )
        )
        return _ok(line)

    def _read_message(self) -> bytes | None:
        lines: list[bytes] = []
        size = 0
        while (line := self._stream.readline(LINE_LIMIT)) != b".\r\n":
            size += len(line)
            if not line or size > MESSAGE_LIMIT:
                return None
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)


def _ok(_: bytes) -> bytes:
    return b"250 2.0.0 Ok\r\n"


def _path(line: bytes) -> _Path:
    """The address and the parameters of a MAIL or RCPT command."""
    found = _PATH.match(line)
    if found is None:
        raise OSError(f"the MTA sent {line!r}, which has no address in angle brackets")
    return _text(found[1]), tuple(_text(found[2]).split())
