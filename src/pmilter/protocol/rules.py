"""The rules of the protocol as tables: which command when, which reply to what, which change needs which grant.

Everything that depends on a rule reads it here: the sessions, the negotiation, the stages of the interface, the traces.
What does not fit the tables is written at their end: what a verdict does to the state. docs/protocol.md explains.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from pmilter.protocol.constants import Action, Answer, Command, MacroStage, Step


class State(IntEnum):
    """Where a connection is, named after the last command that counted; message states are in their order."""

    START = 0
    """Nothing received yet."""
    OPTNEG = 1
    """Negotiated, or a new SMTP session announced by QUIT_NC."""
    CONNECT = 2
    """The client is known."""
    HELO = 3
    """The client has greeted."""
    IDLE = 4
    """A message has ended, by its final answer or by an abort; the next one may begin."""
    DECIDED = 5
    """A verdict has ended the message early; what still arrives of it gets the same verdict."""
    MAIL = 6
    """A message is open: sender known."""
    RCPT = 7
    """At least one recipient was given."""
    DATA = 8
    """The client sent DATA."""
    HEADER = 9
    """In the header."""
    EOH = 10
    """The header has ended."""
    BODY = 11
    """In the body."""
    EOM = 12
    """End of message, not answered yet: the only state in which changes may be sent."""
    CLOSED = 13
    """QUIT was received, or the stream is beyond repair."""


OPEN: Final = frozenset(range(State.MAIL, State.EOM + 1))
"""States in which a message is open."""


class Rule(NamedTuple):
    """What is to know of one command."""

    command: Command
    name: str
    """The stage: callback name, log word."""
    state: State | None
    """State that it leads to; None where it leads nowhere by itself."""
    replies: frozenset[Answer]
    """Replies that may end it; empty where none is ever sent."""
    off: Step
    """Bit that keeps the MTA from sending it."""
    noreply: Step
    """Bit that keeps the MTA from waiting for a reply."""
    macros: MacroStage | None
    """Stage under which its macros are asked for."""
    since: int
    """Protocol version that brought it."""


_VERDICTS = frozenset(
    {Answer.CONTINUE, Answer.ACCEPT, Answer.REJECT, Answer.TEMPFAIL, Answer.REPLYCODE}
)
_MESSAGE = _VERDICTS | {Answer.DISCARD}
_NONE: frozenset[Answer] = frozenset()
_0 = Step(0)

RULES: Final[dict[int, Rule]] = {
    int(rule.command): rule
    for rule in (
        Rule(
            Command.OPTNEG, "negotiate", State.OPTNEG, frozenset({Answer.OPTNEG}), _0, _0, None, 1
        ),
        Rule(Command.MACRO, "macro", None, _NONE, _0, _0, None, 1),
        Rule(
            Command.CONNECT,
            "connect",
            State.CONNECT,
            _VERDICTS,
            Step.NOCONNECT,
            Step.NR_CONN,
            MacroStage.CONNECT,
            1,
        ),
        Rule(
            Command.HELO,
            "helo",
            State.HELO,
            _VERDICTS,
            Step.NOHELO,
            Step.NR_HELO,
            MacroStage.HELO,
            1,
        ),
        Rule(
            Command.MAIL,
            "envfrom",
            State.MAIL,
            _MESSAGE,
            Step.NOMAIL,
            Step.NR_MAIL,
            MacroStage.ENVFROM,
            1,
        ),
        Rule(
            Command.RCPT,
            "envrcpt",
            State.RCPT,
            _MESSAGE,
            Step.NORCPT,
            Step.NR_RCPT,
            MacroStage.ENVRCPT,
            1,
        ),
        Rule(
            Command.DATA,
            "data",
            State.DATA,
            _MESSAGE,
            Step.NODATA,
            Step.NR_DATA,
            MacroStage.DATA,
            4,
        ),
        Rule(Command.UNKNOWN, "unknown", None, _MESSAGE, Step.NOUNKNOWN, Step.NR_UNKN, None, 3),
        Rule(
            Command.HEADER,
            "header",
            State.HEADER,
            _MESSAGE,
            Step.NOHDRS,
            Step.NR_HDR,
            MacroStage.EOH,
            1,
        ),
        Rule(Command.EOH, "eoh", State.EOH, _MESSAGE, Step.NOEOH, Step.NR_EOH, MacroStage.EOH, 2),
        Rule(
            Command.BODY,
            "body",
            State.BODY,
            _MESSAGE | {Answer.SKIP},
            Step.NOBODY,
            Step.NR_BODY,
            MacroStage.EOM,
            1,
        ),
        Rule(Command.BODYEOB, "eom", State.EOM, _MESSAGE, _0, _0, MacroStage.EOM, 1),
        Rule(Command.ABORT, "abort", None, _NONE, _0, _0, None, 1),
        Rule(Command.QUIT, "close", State.CLOSED, _NONE, _0, _0, None, 1),
        Rule(Command.QUIT_NC, "close", State.OPTNEG, _NONE, _0, _0, None, 6),
    )
}
"""Command code -> rule."""

STAGES: Final[tuple[str, ...]] = tuple(
    dict.fromkeys(rule.name for rule in RULES.values() if rule.name != "macro")
)
"""Names of all callbacks."""

NAMED: Final[dict[str, Rule]] = {rule.name: rule for rule in reversed(RULES.values())}
"""Stage -> rule (close: that of QUIT)."""

_QUIET = frozenset({State.CONNECT, State.HELO, State.IDLE, State.DECIDED})
"""States between messages."""

_HEAD = frozenset({State.MAIL, State.RCPT})
_CONTENT = frozenset({State.DATA, State.HEADER, State.EOH, State.BODY})
_ANY = frozenset(State) - {State.START, State.CLOSED}

AFTER: Final[dict[int, frozenset[State]]] = {
    Command.OPTNEG: frozenset({State.START}),
    Command.CONNECT: frozenset({State.OPTNEG}),
    # Postfix sends a repeated HELO before the abort of the open message.
    Command.HELO: _QUIET | _HEAD | _CONTENT,
    # Where no answer is due to MAIL, Sendmail does not abort a message that ends before its content.
    Command.MAIL: _QUIET | _HEAD | _CONTENT,
    # A filter behind this one may refuse DATA; the client may then go on with the same transaction, and both MTAs show it.
    Command.RCPT: _HEAD | {State.DATA},
    Command.DATA: frozenset({State.RCPT, State.DATA}),
    # Never in the content, but everywhere else.
    Command.UNKNOWN: _QUIET | _HEAD | {State.OPTNEG, State.DATA},
    Command.HEADER: frozenset({State.DATA, State.HEADER}),
    Command.EOH: frozenset({State.DATA, State.HEADER}),
    Command.BODY: frozenset({State.EOH, State.BODY}),
    Command.BODYEOB: frozenset({State.EOH, State.BODY}),
    Command.MACRO: _ANY,
    # At any time and repeatedly: Postfix aborts finished messages too.
    Command.ABORT: _ANY,
    Command.QUIT: _ANY | {State.START},
    Command.QUIT_NC: _ANY,
}
"""Command code -> states in which it may arrive, where no step is switched off."""

MESSAGE_STEPS: Final = (
    Command.MAIL,
    Command.RCPT,
    Command.DATA,
    Command.HEADER,
    Command.EOH,
    Command.BODY,
    Command.BODYEOB,
)
"""The commands that make up a message, in their order. The first that is not switched off opens it; where that may be missing
from a message, because it has no header field or an empty body, the next one does."""

_MAY_BE_MISSING: Final = frozenset({Command.HEADER, Command.BODY})

_STEPS: Final = (Command.CONNECT, Command.HELO, *MESSAGE_STEPS)


_BREAKERS: Final = frozenset({Command.HELO, Command.ABORT, Command.QUIT, Command.QUIT_NC})
"""Commands that end an open message without an answer to it."""


class Move(IntEnum):
    """What the arrival of a command means in a state."""

    ILLEGAL = 0
    """Out of order."""
    NEXT = 1
    """The next step, or a command that moves nothing."""
    OPEN = 2
    """It opens a message."""
    REOPEN = 3
    """It opens a message, and the one still open is thereby aborted."""
    BREAK = 4
    """The open message is thereby aborted."""
    REPEAT = 5
    """It belongs to a message that has had its verdict, and gets the same verdict again."""


def moves(steps: Step, version: int) -> dict[int, tuple[Move, ...]]:
    """Return what each command means in each state under an agreement: command code -> moves, indexed by state.

    A step that is switched off, or that the version does not know, is not waited for: its successors may come where it could
    have come.
    """
    off = {c for c in _STEPS if steps & RULES[c].off or version < RULES[c].since}
    openers = _openers(off)
    return {
        command: tuple(_move(command, state, off, openers) for state in State) for command in RULES
    }


def _openers(off: set[Command]) -> set[Command]:
    """Return the commands that open a message: MAIL, should it come, and the first ones that are not switched off."""
    openers = {Command.MAIL}
    for command in MESSAGE_STEPS:
        if command not in off:
            openers.add(command)
            if command not in _MAY_BE_MISSING:
                break
    return openers


def _move(command: int, state: State, off: set[Command], openers: set[Command]) -> Move:
    if command not in MESSAGE_STEPS:
        legal = state in _reach(command, off)
        return Move.BREAK if legal and command in _BREAKERS and state in OPEN else Move(legal)
    if command in openers:
        return _opening_move(command, state, off)
    if state is State.DECIDED:
        return Move.REPEAT
    return Move(state in _reach(command, off - {Command.MAIL}))


def _opening_move(command: int, state: State, off: set[Command]) -> Move:
    if command != Command.MAIL and state in _reach(command, off - {Command.MAIL}) & OPEN:
        return Move.NEXT
    if state not in _reach(Command.MAIL, off):
        return Move.ILLEGAL
    return Move.REOPEN if state in OPEN else Move.OPEN


def _reach(command: int, off: set[Command]) -> frozenset[State]:
    """Return the states in which a command may come, seeing through the steps that are switched off."""
    allowed = set(AFTER[command])
    pending = set(off)
    while crossed := {step for step in pending if RULES[step].state in allowed}:
        pending -= crossed
        allowed.update(*(AFTER[step] for step in crossed))
    return frozenset(allowed)


class Grant(NamedTuple):
    """What a change needs."""

    name: str
    """Name of the method, for people."""
    needs: Action
    """Action that must have been agreed."""
    since: int
    """Protocol version that brought it."""


GRANTS: Final[dict[int, Grant]] = {
    Answer.ADDHEADER: Grant("addheader", Action.ADDHDRS, 1),
    Answer.INSHEADER: Grant("insheader", Action.ADDHDRS, 2),
    Answer.CHGHEADER: Grant("chgheader", Action.CHGHDRS, 2),
    Answer.REPLBODY: Grant("replacebody", Action.CHGBODY, 1),
    Answer.ADDRCPT: Grant("addrcpt", Action.ADDRCPT, 1),
    Answer.ADDRCPT_PAR: Grant("addrcpt_par", Action.ADDRCPT_PAR, 6),
    Answer.DELRCPT: Grant("delrcpt", Action.DELRCPT, 1),
    Answer.CHGFROM: Grant("chgfrom", Action.CHGFROM, 6),
    Answer.QUARANTINE: Grant("quarantine", Action.QUARANTINE, 2),
}
"""Change code -> grant. The version is where it appeared; what counts is the agreed action alone."""


# Looked up once: an enum's member costs a Python call on 3.11.
_BODYEOB: Final = int(Command.BODYEOB)
_IDLE: Final = State.IDLE
_POSITIVE: Final = frozenset({Answer.CONTINUE, Answer.SKIP})
_NARROW: Final = frozenset({Command.RCPT, Command.UNKNOWN})
_FINAL: Final = frozenset({Answer.ACCEPT, Answer.DISCARD})


def state_after_reply(command: int, state: State, answer: int) -> State:
    """Return the state after a command was answered.

    Args:
        command: The command that was answered.
        state: The state that the command led to.
        answer: Code of the reply.
    """
    if command == _BODYEOB:
        return _IDLE
    if answer in _POSITIVE or state not in OPEN:
        return state
    if command in _NARROW and answer not in _FINAL:
        return state  # concerns that recipient or that command alone
    return State.DECIDED
