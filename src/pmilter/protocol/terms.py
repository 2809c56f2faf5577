"""The tables of `rules` as they stand under one agreement; both roles read them."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from pmilter.protocol.constants import PROTOCOL_VERSION, Answer, Command, Step
from pmilter.protocol.macros import ORDER
from pmilter.protocol.negotiation import max_payload
from pmilter.protocol.rules import RULES, Move, Rule, State, moves

_NONE: Final[frozenset[Answer]] = frozenset()


class Entry(NamedTuple):
    """What one command means under an agreement."""

    moves: tuple[Move, ...]
    """By state."""
    replies: frozenset[Answer]
    """What may answer it; empty where nothing does."""
    state: State | None
    """State that it leads to."""
    order: int
    """Place of its macros in `macros.ORDER`; commands without any clear none."""


class Arrival:
    """What the arrival of one command means in one state.

    Attributes:
        move: What it means.
        replies: What may answer it; empty where nothing does.
        state: State after it.
        order: Place in `macros.ORDER` beyond which it clears.
    """

    __slots__ = ("move", "order", "replies", "state")

    def __init__(self, move: Move, replies: frozenset[Answer], state: State, order: int) -> None:
        self.move = move
        self.replies = replies
        self.state = state
        self.order = order


MACROS: Final = Arrival(Move.NEXT, _NONE, State.START, 0)
"""Stands for the arrival of a macro packet wherever it is legal: it moves nothing."""

Row = dict[int, Arrival]
"""What the commands mean in one state, those that are legal there."""


class Terms(NamedTuple):
    """The tables under one agreement."""

    entries: dict[int, Entry]
    """By command code."""
    rows: tuple[Row, ...]
    """The same by state, for those who look one up for every header of every mail."""
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
    return Terms(entries, tuple(_row(entries, state) for state in State), max_payload(bits))


def _row(entries: dict[int, Entry], state: State) -> Row:
    row: Row = {}
    for code, entry in entries.items():
        move = entry.moves[state]
        if move is Move.ILLEGAL:
            continue
        if code == Command.MACRO:
            row[code] = MACROS
        elif move is Move.REPEAT:  # of what was decided, nothing changes any more
            row[code] = Arrival(move, entry.replies, state, len(ORDER))
        elif code == Command.ABORT and state >= State.IDLE:
            row[code] = Arrival(move, entry.replies, State.IDLE, entry.order)
        else:
            row[code] = Arrival(move, entry.replies, entry.state or state, entry.order)
    return row


def _replies(rule: Rule, bits: Step) -> frozenset[Answer]:
    if bits & rule.noreply:
        return _NONE
    return rule.replies if bits & Step.SKIP else rule.replies - {Answer.SKIP}


UNNEGOTIATED: Final = terms(PROTOCOL_VERSION, 0)
"""The tables before the negotiation: nothing is switched off, and versions do not matter yet."""
