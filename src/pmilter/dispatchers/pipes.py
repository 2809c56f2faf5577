"""What wakes a thread or process that polls: a pipe of its own, or a worker's line to its parent."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONG: Final = 86_400.0
_PATIENCE: Final = 10_000
_DRAIN: Final = b"d"
_WAKE: Final = b"\0"
_MOST: Final = 8192


def await_readable(fds: Iterable[int], seconds: float) -> set[int]:
    """Return those descriptors that are readable, or at their end, as soon as one is; none after some seconds."""
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    # Rounded up, lest the last millisecond is spent in calls that return at once.
    return {fd for fd, _ in poller.poll(math.ceil(min(max(seconds, 0.0), _LONG) * 1000))}


def await_writable(fd: int) -> None:
    """Return when a descriptor takes bytes, or after ten seconds."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    poller.poll(_PATIENCE)


class Pipe:
    """Wakes a thread or process that polls; safe to write from any thread and signal handler.

    It has descriptors from when somebody first polls, since a child that serves one connection never does.
    """

    def __init__(self) -> None:
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._opening = threading.Lock()
        self._reader = -1
        self._written = False

    def open(self) -> None:
        """Make the descriptors now: before a fork, if parent and child are to share them."""
        with self._opening:
            if self._ends is None:
                # Sockets, since a closed one cannot be mistaken for another that was given its number.
                ends = _pair()
                self._reader = ends[0].fileno()
                self._ends = ends
                if self._written:
                    self.write()

    @property
    def reader(self) -> int:
        """The descriptor to poll."""
        if self._ends is None:
            self.open()
        return self._reader

    def write(self) -> None:
        """Make the reader readable; without effect once it is closed."""
        self._written = (
            True  # before the look at the ends: who makes them at this moment looks here afterwards
        )
        if self._ends is not None:
            with contextlib.suppress(OSError):  # a full one is readable already
                self._ends[1].send(b"!")

    def drain(self) -> None:
        """Make the reader wait again."""
        self._written = False
        if self._ends is not None:
            with contextlib.suppress(OSError):
                self._ends[0].recv(4096)

    def asks_to_drain(self) -> bool:
        """Return False: who writes here wants a stop."""
        return False

    def close(self) -> None:
        """Close both ends."""
        for end in self._ends or ():
            end.close()


class WorkerEnd:
    """A worker's end of its line: readable for good once the parent has an order, or is gone, or `write` was called."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.reader = sock.fileno()

    def write(self) -> None:
        """Make the reader readable; from any thread and signal handler."""
        with contextlib.suppress(OSError):  # the other end is gone, so it is readable already
            self._sock.shutdown(socket.SHUT_RD)

    def asks_to_drain(self) -> bool:
        """Return whether the parent wants no more connections accepted; else it wants a stop, or is gone."""
        with contextlib.suppress(OSError):
            return self._sock.recv(1, socket.MSG_PEEK) == _DRAIN
        return False

    def wake_parent(self, text: str = "") -> None:
        """Have the parent look at once, and tell it some text (8 KB at most)."""
        with contextlib.suppress(OSError):
            self._sock.send(_WAKE + text.encode("utf-8", "replace")[:_MOST])

    def close(self) -> None:
        """Close it."""
        self._sock.close()


class ParentEnd:
    """The parent's end of a worker's line. That it exists tells the worker that its parent lives.

    Attributes:
        ended: True once the worker is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._said = b""
        self.ended = False

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._sock.fileno()

    def order_drain(self) -> None:
        """Have the worker accept no more connections."""
        with contextlib.suppress(OSError):  # it is gone, or has stopped to listen
            self._sock.send(_DRAIN)

    def read(self) -> None:
        """Take what the worker says."""
        try:
            data = self._sock.recv(_MOST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self._said = (self._said + data)[: 2 * _MOST]

    @property
    def text(self) -> str:
        """The text that the worker has told."""
        return self._said.replace(_WAKE, b"").decode("utf-8", "replace")

    def close(self) -> None:
        """Close it: to a worker that still lives, its parent is gone."""
        self._sock.close()


def line() -> tuple[ParentEnd, WorkerEnd]:
    """Return the two ends of a new line."""
    parent, worker = _pair()
    return ParentEnd(parent), WorkerEnd(worker)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets that never wait, whatever the program has made the default."""
    pair = socket.socketpair()
    for end in pair:
        end.setblocking(False)  # noqa: FBT003  # the standard library's own signature
    return pair
