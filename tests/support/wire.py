"""An MTA's end of a connection on a real socket, playing the same scripts as `tests.support.playbook`."""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import TYPE_CHECKING, Self

from pmilter import parse_address
from tests.support.notation import EOF, mismatch, parse, show, split, steps
from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    from types import TracebackType


def connect(address: str, source: str | None = None) -> socket.socket:
    """Return a socket connected to an address, from an address of this machine where one is given."""
    parsed = parse_address(address)
    if parsed.path is not None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(DEADLINE)
        try:
            sock.connect(parsed.path)
        except OSError:
            sock.close()
            raise
        return sock
    assert isinstance(parsed.port, int)
    origin = None if source is None else (source, 0)
    sock = socket.create_connection((parsed.host, parsed.port), DEADLINE, origin)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Wire:
    """One connection to a filter that is being served.

    Attributes:
        sock: Its socket.
    """

    def __init__(self, address: str, source: str | None = None) -> None:
        self.sock = connect(address, source)
        self._data = b""
        self._transcript: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def play(self, script: str) -> Wire:
        """Do the ``>>`` steps, and check each ``<<`` step."""
        for arrow, line in steps(script):
            self._transcript.append(f"{arrow} {line}")
            if arrow == "<<":
                got = self.answer()
                wanted = got if line == "O *" and got.startswith("O ") else line
                assert got == wanted, mismatch(self._transcript[:-1], line, got)
            elif line == EOF:
                self.sock.shutdown(socket.SHUT_WR)
            else:
                self.send(parse(line))
        return self

    def send(self, data: bytes) -> None:
        """Send some bytes."""
        self.sock.sendall(data)

    def answer(self) -> str:
        """Return the next frame as a line, or `EOF` where the filter has closed."""
        while not split(self._data)[0]:
            try:
                received = self.sock.recv(1_000_000)
            except ConnectionResetError:  # closed with bytes of ours unread
                received = b""
            if not received:
                assert not self._data, f"the filter closed within a frame: {self._data[:64]!r}"
                return EOF
            self._data += received
        frames, _ = split(self._data)
        self._data = self._data[len(frames[0]) :]
        return show(frames[0])

    def answers(self) -> list[str]:
        """Return all frames up to the end."""
        lines = []
        while (line := self.answer()) != EOF:
            lines.append(line)
        return lines

    def until_goodbye(self, command: str, undo: str = "") -> None:
        """Send a command, each time answered with going on, until it is answered with 421 4.3.2 and the end.

        Args:
            command: The command.
            undo: A command without an answer to send after each that was answered with going on.
        """
        for _ in range(1000):
            self.play(f">> {command}")
            line = self.answer()
            if line.startswith("y 421 4.3.2 "):
                assert self.answer() == EOF
                return
            assert line == "c", mismatch(self._transcript, "c or 421", line)
            if undo:
                self.play(f">> {undo}")
            assert self.is_silent(0.005)
        raise AssertionError("the filter does not stop")

    def is_silent(self, seconds: float) -> bool:
        """Return whether nothing comes, not even the end, for some seconds."""
        self.sock.settimeout(seconds)
        try:
            return self.answer() == "never"
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(DEADLINE)

    def is_unanswered(self, seconds: float) -> bool:
        """Return whether nothing but the end comes for some seconds."""
        self.sock.settimeout(seconds)
        try:
            return self.answer() == EOF
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(DEADLINE)

    def reset(self) -> None:
        """Break the connection off the hard way."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Close it."""
        self.sock.close()


class Trace:
    """Lines that a filter says to the test from wherever it runs: another thread, another process."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._data = b""

    def say(self, line: str) -> None:
        """Send a line to the test; any thread or process that has this object."""
        os.write(self._writer, f"{line}\n".encode("utf-8", "backslashreplace"))

    def next(self, seconds: float = DEADLINE) -> str:
        """Return the next line; fail where none comes in time."""
        while b"\n" not in self._data:
            ready, _, _ = select.select([self._reader], [], [], seconds)
            assert ready, "the filter said nothing"
            self._data += os.read(self._reader, 65536)
        line, _, self._data = self._data.partition(b"\n")
        return line.decode()

    def take(self, count: int) -> list[str]:
        """Return the next so many lines."""
        return [self.next() for _ in range(count)]

    def until(self, last: str) -> list[str]:
        """Return the next lines, up to one that is awaited."""
        lines = [self.next()]
        while lines[-1] != last:
            lines.append(self.next())
        return lines

    def rest(self) -> list[str]:
        """Return what has been said and not been read yet."""
        self.say("rest of the trace")
        return self.until("rest of the trace")[:-1]

    def close(self) -> None:
        """Release the descriptors."""
        os.close(self._reader)
        os.close(self._writer)
