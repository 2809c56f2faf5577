"""What to do with a connection over the limit: tell it to try again later, or leave it in the backlog."""

from __future__ import annotations

from typing import Final, Literal, get_args

from pmilter.errors import ConfigError

Overflow = Literal["refuse", "wait"]
"""``"refuse"``: negotiate connect only, answer it TEMPFAIL, close. ``"wait"``: accept no more until there is room."""

REFUSALS: Final = 16
"""Connections that are being refused at the same time, beyond which even those wait."""


def check_overflow(overflow: str) -> None:
    """Raise where it is none of the two.

    Raises:
        ConfigError: As said.
    """
    if overflow not in get_args(Overflow):
        raise ConfigError(f"overflow must be 'refuse' or 'wait', not {overflow!r}", source=overflow)


def room(limit: int, overflow: Overflow) -> int:
    """Return how many connections may be open, those that are being refused included."""
    return limit + REFUSALS if overflow == "refuse" else limit


class Places:
    """Counts the connections of one service, those that are served and those that are being refused apart.

    Not thread-safe.

    Args:
        limit: Most connections served at a time.
        overflow: What becomes of those beyond.
    """

    def __init__(self, limit: int, overflow: Overflow) -> None:
        self._limit = limit
        self._refusals = REFUSALS if overflow == "refuse" else 0
        self._served = 0
        self._refused = 0

    @property
    def full(self) -> bool:
        """True where no more connections are to be accepted, not even to be refused."""
        return self._served >= self._limit and self._refused >= self._refusals

    def take(self) -> bool:
        """Count a connection that was accepted; return whether it is to be served."""
        served = self._served < self._limit
        if served:
            self._served += 1
        else:
            self._refused += 1
        return served

    def give(self, *, served: bool) -> None:
        """Count a connection that has ended; `served` is what `take` returned for it."""
        if served:
            self._served -= 1
        else:
            self._refused -= 1
