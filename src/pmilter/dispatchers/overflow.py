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
