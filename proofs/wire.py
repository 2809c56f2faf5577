"""The MTA's end of a connection straight to the filter: one message's commands, written by hand, answered one by one."""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple, Self

from pmilter import parse_address

HEAD: Final = struct.Struct(">Ic")
EVERY_ACTION: Final = 0x1FF
EVERY_STEP: Final = 0x1FFFFF
NO_CONNECT: Final = 0x01
ONLY_CONNECT: Final = 0x37E
"""Steps by which a filter wants to see nothing but connect: no HELO, MAIL, RCPT, body, header, EOH, unknown, DATA."""

END: Final = b""
PROGRESS: Final = b"p"
CONTINUE: Final = b"c"
TEMPFAIL: Final = b"t"
ADDED: Final = b"h"


def frame(code: bytes, payload: bytes = b"") -> bytes:
    """Return a command."""
    return HEAD.pack(1 + len(payload), code) + payload


OFFER: Final = frame(b"O", struct.pack(">III", 6, EVERY_ACTION, EVERY_STEP))
QUIT: Final = frame(b"Q")


def connect_command(hostname: str) -> bytes:
    """Return what is sent at connect by a client of that name."""
    name = hostname.encode()
    macros = frame(b"D", b"Cj\0mta.example.test\0")
    return macros + frame(b"C", name + b"\x004" + struct.pack(">H", 40000) + b"127.0.0.1\0")


STAGES: Final[dict[str, bytes]] = {
    "connect": connect_command("client.example.com"),
    "helo": frame(b"H", b"client.example.com\0"),
    "envfrom": frame(b"M", b"<a@example.com>\0SIZE=1000\0"),
    "envrcpt": frame(b"R", b"<b@example.org>\0"),
    "data": frame(b"D", b"Ti\x004XYZ\0") + frame(b"T"),
    "header": frame(b"L", b"Subject\0hello\0"),
    "eoh": frame(b"N"),
    "body": frame(b"B", b"All this is here to be filtered.\r\n" * 20),
    "eom": frame(b"E"),
}
"""What is sent at each stage of a message, in order."""

MESSAGE: Final = tuple(stage for stage in STAGES if stage not in {"connect", "helo"})


class Agreement(NamedTuple):
    """What the filter has answered to the offer."""

    version: int
    actions: int
    steps: int


class Wire:
    """One connection to a filter.

    Args:
        address: Where it listens.
        seconds: The longest wait for an answer.
    """

    def __init__(self, address: str, seconds: float = 30.0) -> None:
        parsed = parse_address(address)
        if parsed.path is not None:
            self._sock = socket.socket(socket.AF_UNIX)
            self._sock.settimeout(seconds)
            self._sock.connect(parsed.path)
        else:
            self._sock = socket.create_connection((parsed.host, parsed.port), seconds)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        self.added: list[str] = []
        """Values of the headers that the filter has added."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it without a word."""
        self._sock.close()

    def negotiate(self) -> Agreement:
        """Offer everything, and return what the filter wants of it."""
        code, payload = self.ask(OFFER)
        if code != b"O":
            raise ConnectionError(f"the filter answered the offer with {code!r}")
        return Agreement(*struct.unpack(">III", payload[:12]))

    def ask(self, command: bytes) -> tuple[bytes, bytes]:
        """Send a command; return code and payload of the answer, changes and progress left out, or `END` where it has closed."""
        try:
            self._sock.sendall(command)
            while True:
                code, payload = self._read()
                if code == ADDED:
                    self.added.append(payload.split(b"\0")[1].decode())
                elif code != PROGRESS:
                    return code, payload
        except (ConnectionResetError, BrokenPipeError):
            return END, b""

    def begin(self, hostname: str = "client.example.com") -> bytes:
        """Negotiate, and say who has connected and what it calls itself; return the answer to that."""
        self.negotiate()
        code, _ = self.ask(connect_command(hostname))
        return code if code != CONTINUE else self.ask(STAGES["helo"])[0]

    def send_message(self) -> bytes:
        """Send a message, and return the answer to it, or the first that was not to go on."""
        for stage in MESSAGE:
            code, _ = self.ask(STAGES[stage])
            if code != CONTINUE:
                break
        return code

    def quit(self) -> None:
        """Say goodbye, wait until the filter has closed, and close."""
        self.ask(QUIT)
        self.close()

    def _read(self) -> tuple[bytes, bytes]:
        while len(self._data) < 4 or len(self._data) < 4 + int.from_bytes(self._data[:4], "big"):
            received = self._sock.recv(65536)
            if not received:
                return END, b""
            self._data += received
        end = 4 + int.from_bytes(self._data[:4], "big")
        answer, self._data = self._data[4:end], self._data[end:]
        return answer[:1], answer[1:]
