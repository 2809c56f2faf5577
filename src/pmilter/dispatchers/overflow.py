"""What to do with a connection over a limit: tell it to try again later, or leave it in the backlog."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from pmilter.dispatchers.peers import peer_key
from pmilter.dispatchers.sparing import SparingLog
from pmilter.errors import ConfigError

if TYPE_CHECKING:
    import socket

    from pmilter.dispatchers.handling import Handler
    from pmilter.milter import Milter

Overflow = Literal["refuse", "wait"]
"""``"refuse"``: negotiate connect only, answer it TEMPFAIL, close. ``"wait"``: accept no more until there is room.

A peer that has more connections than it may have is refused in any case: if it had to wait, all others would wait behind it.
"""

REFUSALS: Final = 16
"""Connections that are being refused at the same time, beyond which even those wait, or are closed."""

_MORE_PLACES: Final = "if that is too few, raise max_children (--max-children), or Limits(connections=...) (--connections)"
_MORE_OF_A_PEER: Final = (
    "if that is too few, raise Limits(connections_per_peer=...) (--connections-per-peer)"
)


def check_overflow(overflow: str) -> None:
    """Raise where it is none of the two.

    Raises:
        ConfigError: As said.
        TypeError: It is no text.
    """
    if not isinstance(overflow, str):
        raise TypeError(f"overflow must be 'refuse' or 'wait', not {overflow!r}")
    if overflow not in get_args(Overflow):
        raise ConfigError(f"overflow must be 'refuse' or 'wait', not {overflow!r}", source=overflow)


class Place(NamedTuple):
    """What a connection was given."""

    served: bool
    """Whether it is to be served; else it is to be told to try again later."""
    peer: str | None
    """Whose it is; None where that does not matter."""


class Places:
    """Counts the connections of one service, those that are served and those that are being refused apart.

    Not thread-safe.

    Args:
        limit: Most connections served at a time.
        overflow: What becomes of those beyond.
        per_peer: Most connections served at a time for one peer, see `peer_key`; None for no such limit.

    Attributes:
        most: Most connections at a time, those that are being refused included.
    """

    def __init__(self, limit: int, overflow: Overflow, per_peer: int | None = None) -> None:
        self._limit = limit
        self._waits = overflow == "wait"
        self._per_peer = per_peer
        self._peers: Counter[str] = Counter()
        self._served = 0
        self._refused = 0
        self._log = SparingLog()
        self.most = limit + REFUSALS

    @property
    def full(self) -> bool:
        """True where no more connections are to be accepted, not even to be refused."""
        return self._served >= self._limit and (self._waits or self._refused >= REFUSALS)

    def take(self, conn: socket.socket) -> Place | None:
        """Count a connection that was accepted; None where it is not to be counted, but to be closed at once."""
        peer = None if self._per_peer is None else peer_key(conn)
        if self._has_room(peer):
            self._served += 1
            if peer is not None:
                self._peers[peer] += 1
            return Place(served=True, peer=peer)
        if self._refused >= REFUSALS:
            return None
        self._refused += 1
        return Place(served=False, peer=None)

    def _has_room(self, peer: str | None) -> bool:
        if self._served >= self._limit:
            message = "all %d places are taken, so a connection is told to try again later: %s"
            self._log.warning(message, self._limit, _MORE_PLACES)
            return False
        if peer is not None and self._per_peer is not None and self._peers[peer] >= self._per_peer:
            message = "%s has %d connections already, so one more is told to try again later: %s"
            self._log.warning(message, peer, self._per_peer, _MORE_OF_A_PEER)
            return False
        return True

    def give(self, place: Place) -> None:
        """Count a connection that has ended; `place` is what `take` returned for it."""
        if not place.served:
            self._refused -= 1
            return
        self._served -= 1
        if place.peer is not None:
            self._peers[place.peer] -= 1
            if not self._peers[place.peer]:
                del self._peers[place.peer]


def places_for(milter: Milter, handler: Handler, overflow: Overflow) -> Places:
    """Return the places of a service: as many as `Milter.main` was told, or else its limits say."""
    limits = handler.program.plan.limits
    limit = milter.get_max_interpreters() or limits.connections
    return Places(limit, overflow, limits.connections_per_peer)
