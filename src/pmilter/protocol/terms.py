"""The tables of `rules` as they stand under one agreement; both roles read them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from pmilter.protocol.constants import PROTOCOL_VERSION, Answer, Step
from pmilter.protocol.macros import ORDER
from pmilter.protocol.negotiation import max_payload
from pmilter.protocol.rules import RULES, Move, Rule, State, moves

_NONE: Final[frozenset[Answer]] = frozenset()


class Entry(NamedTuple):
    """What one command means under an agreement. Unpacked as a tuple where speed counts."""

    moves: tuple[Move, ...]
    """By state."""
    replies: frozenset[Answer]
    """What may answer it; empty where nothing does."""
    state: State | None
    """State that it leads to."""
    order: int
    """Place of its macros in `macros.ORDER`; commands without any clear none."""


class Terms(NamedTuple):
    """The tables under one agreement."""

    entries: dict[int, Entry]
    """By command code."""
    max_payload: int
    """Largest payload in bytes that may be sent."""


@lru_cache(maxsize=64)
def terms(version: int, steps: int) -> Terms:
    """Return the tables for a version and step bits; connections of one filter share them."""
    bits = Step(steps)
    rows = moves(bits, version)
    entries = {
        code: Entry(rows[code], _replies(rule, bits), rule.state, ORDER.get(code, len(ORDER)))
        for code, rule in RULES.items()
    }
    return Terms(entries, max_payload(bits))


def _replies(rule: Rule, bits: Step) -> frozenset[Answer]:
    if bits & rule.noreply:
        return _NONE
    return rule.replies if bits & Step.SKIP else rule.replies - {Answer.SKIP}


UNNEGOTIATED: Final = terms(PROTOCOL_VERSION, 0)
"""The tables before the negotiation: nothing is switched off, and versions do not matter yet."""
