"""The tables of `rules` as they stand under one agreement; both roles read them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from pmilter.protocol.constants import PROTOCOL_VERSION, Answer, Command, Step
from pmilter.protocol.negotiation import max_payload
from pmilter.protocol.rules import RULES, Move, State, moves

_NONE: Final[frozenset[Answer]] = frozenset()


class Terms(NamedTuple):
    """The tables under one agreement, all by command code."""

    moves: dict[int, tuple[Move, ...]]
    states: dict[int, State | None]
    replies: dict[int, frozenset[Answer]]
    max_payload: int


@lru_cache(maxsize=64)
def terms(version: int, steps: int) -> Terms:
    """Return the tables for a version and step bits; connections of one filter share them."""
    bits = Step(steps)
    replies = {code: _NONE if bits & rule.noreply else rule.replies for code, rule in RULES.items()}
    if not bits & Step.SKIP:
        replies[Command.BODY] -= {Answer.SKIP}
    return Terms(
        moves(bits, version),
        {code: rule.state for code, rule in RULES.items()},
        replies,
        max_payload(bits),
    )


UNNEGOTIATED: Final = terms(PROTOCOL_VERSION, 0)
"""The tables before the negotiation: nothing is switched off, and versions do not matter yet."""
