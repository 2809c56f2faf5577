"""The connections of one process: those that are open, and how many there have been."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.scoreboard import Census

if TYPE_CHECKING:
    from collections.abc import Callable

logger: Final = logging.getLogger("pmilter")


class Connections:
    """Connections and their numbers. Thread-safe: adding to and removing from a set, and copying it, are atomic.

    Args:
        changed: Called after each change of the numbers.

    Attributes:
        requests: Connections accepted so far.
        probes: Those of them that had nothing for the filter.
        denied: Connections cut off so far, since who made them may not connect.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._open: set[socket.socket] = set()
        self._counting = threading.Lock()
        self.requests = 0
        self.probes = 0
        self.denied = 0

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    def census(self) -> Census:
        """Return the numbers for the status line."""
        return Census(len(self._open), 0, self.requests, self.probes, self.denied)

    def note_accepted(self) -> None:
        """Count a connection."""
        self.requests += 1  # by the one thread that accepts
        self._changed()

    def note_denied(self) -> None:
        """Count a connection that was cut off."""
        self.denied += 1  # by the same
        self._changed()

    def note_probe(self) -> None:
        """Count a connection that had nothing for the filter."""
        with self._counting:
            self.probes += 1

    def enter(self, conn: socket.socket) -> None:
        """Note a connection that is being served; again, where that is noted already."""
        if conn not in self._open:
            self._open.add(conn)
            self._changed()

    def leave(self, conn: socket.socket) -> None:
        """Forget a connection."""
        self._open.discard(conn)
        self._changed()

    def end(self) -> None:
        """Cut all off at once; their conversations see an end of file."""
        for conn in self._open.copy():
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def cut_off(self) -> None:
        """Cut off those that have not ended in time, and say so."""
        if self._open:
            logger.warning("cutting off %d connections that did not end in time", len(self._open))
            self.end()
