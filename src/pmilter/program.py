"""A `Plan` compiled for serving: the tables that all connections of one filter share."""

from __future__ import annotations

import logging
from mmap import mmap
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pmilter.facts import client_address
from pmilter.protocol.constants import Action, Answer, Command, Status, Step
from pmilter.protocol.messages import (
    Accept,
    Connect,
    Continue,
    Data,
    Discard,
    Header,
    Helo,
    Mail,
    Message,
    Options,
    Reject,
    Skip,
    Tempfail,
)
from pmilter.protocol.negotiation import choose
from pmilter.protocol.rules import RULES
from pmilter.tally import Tally
from pmilter.text import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.context import Context
    from pmilter.plan import Plan

logger: Final = logging.getLogger("pmilter")

VERDICTS: Final[dict[Status, Message]] = {
    Status.CONTINUE: Continue(),
    Status.NOREPLY: Continue(),
    Status.ACCEPT: Accept(),
    Status.REJECT: Reject(),
    Status.TEMPFAIL: Tempfail(),
    Status.DISCARD: Discard(),
    Status.SKIP: Skip(),
}
"""What goes out for a status, where no reply was set."""

_MISSING: Final = Struct("=II")
"""Actions and steps whose absence has been said."""

_CACHED_OFFERS: Final = 16


class Stage(NamedTuple):
    """One stage of a filter, ready to be called."""

    name: str
    command: Command
    function: Callable[..., Any] | None
    noreply: bool
    arguments: Callable[[Context, bytes], tuple[Any, ...]]
    """Makes the callback's arguments of the context and the command's payload; raises where that is malformed."""
    note: Callable[[Tally, bytes], bool] | None
    """Notes the command's facts and counts it; False where a limit is passed."""
    legal: frozenset[Status]
    """What the callback may return."""
    fallback: Status
    timeout: float | None
    """Seconds that the callback has, or None."""


class Program:
    """A filter ready to serve. Immutable but for caches; may be shared by threads.

    Args:
        plan: What the filter is.

    Attributes:
        plan: The same.
        stages: The stages from connect to body, by command code.
        eom: The stage of end of message.
        abort: Callback, or None.
        close: Callback, or None.
        negotiate: Callback, or None.
    """

    __slots__ = (
        "_choices",
        "_said",
        "_wish",
        "abort",
        "close",
        "eom",
        "negotiate",
        "plan",
        "stages",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._wish = plan.wish()
        self._choices: dict[bytes, Options] = {}
        # Anonymous memory, so that forked children share it: each missing thing is said once, not once a child.
        self._said = mmap(-1, _MISSING.size)
        self.stages = {int(command): _stage(plan, command) for command in ARGUMENTS}
        self.eom = self.stages.pop(Command.BODYEOB)
        self.negotiate = _function(plan, "negotiate")
        self.abort = _function(plan, "abort")
        self.close = _function(plan, "close")

    def choose(self, offer: Options) -> Options:
        """Return the answer to an offer; what is wanted and not offered is said in the log once an offer.

        Raises:
            NegotiationError: The offer's version is below 2.
        """
        key = offer.payload()
        choice = self._choices.get(key)
        if choice is None:
            choice = choose(offer, self._wish)
            self._say_missing(offer)
            if len(self._choices) < _CACHED_OFFERS:
                self._choices[key] = choice
        return choice

    def _say_missing(self, offer: Options) -> None:
        actions = int(self.plan.actions) & ~int(offer.actions)
        steps = int(self.plan.steps) & ~int(offer.steps)
        said_actions, said_steps = _MISSING.unpack_from(self._said)
        _MISSING.pack_into(self._said, 0, said_actions | actions, said_steps | steps)
        if missing := actions & ~said_actions:
            message = "%s: the MTA does not offer %r; changes that need it will raise"
            logger.warning(message, self.plan.name, Action(missing))
        if missing := steps & ~said_steps:
            logger.warning("%s: the MTA does not offer %r", self.plan.name, Step(missing))


def _function(plan: Plan, stage: str) -> Callable[..., Any] | None:
    callback = plan.callbacks.get(stage)
    return callback.function if callback else None


def _stage(plan: Plan, command: Command) -> Stage:
    rule = RULES[command]
    callback = plan.callbacks.get(rule.name)
    noreply = callback is not None and callback.noreply
    legal = {status for status, message in VERDICTS.items() if message.code in rule.replies}
    legal.discard(Status.NOREPLY)
    if noreply:
        legal.add(Status.NOREPLY)
    if Answer.SKIP in rule.replies:
        legal.add(Status.SKIP)
    return Stage(
        rule.name,
        command,
        callback.function if callback else None,
        noreply,
        ARGUMENTS[command],
        _NOTES.get(command),
        frozenset(legal),
        plan.fallback[rule.name],
        plan.limits.eom_time if command is Command.BODYEOB else plan.limits.command_time,
    )


def _context_only(context: Context, payload: bytes) -> tuple[Any, ...]:
    if payload:
        Data.decode(payload)  # raises: none belongs there
    return (context,)


def _connect(context: Context, payload: bytes) -> tuple[Any, ...]:
    message = Connect.decode(payload)
    return (context, decode(message.hostname), client_address(message))


def _text(context: Context, payload: bytes) -> tuple[Any, ...]:
    return (context, decode(Helo.decode(payload).text))


def _envelope(context: Context, payload: bytes) -> tuple[Any, ...]:
    message = Mail.decode(payload)
    return (context, decode(message.address), *map(decode, message.args))


def _header(context: Context, payload: bytes) -> tuple[Any, ...]:
    # Decoding does not see over a NUL, so one pass over both texts gives the same as one for each.
    name, _, value = payload.decode("utf-8", "surrogateescape").partition("\0")
    if value[-1:] != "\0":
        Header.split(payload)  # raises with the reason
    return (context, name, value[:-1])


def _body(context: Context, payload: bytes) -> tuple[Any, ...]:
    return (context, payload)


ARGUMENTS: Final[dict[Command, Callable[[Context, bytes], tuple[Any, ...]]]] = {
    Command.CONNECT: _connect,
    Command.HELO: _text,
    Command.MAIL: _envelope,
    Command.RCPT: _envelope,
    Command.DATA: _context_only,
    Command.UNKNOWN: _text,
    Command.HEADER: _header,
    Command.EOH: _context_only,
    Command.BODY: _body,
    Command.BODYEOB: _context_only,
}
"""Commands that have an answer of the filter's, and how their callback's arguments are made."""

_NOTES: Final[dict[Command, Callable[[Tally, bytes], bool]]] = {
    Command.CONNECT: Tally.connect,
    Command.HELO: Tally.helo,
    Command.MAIL: Tally.mail,
    Command.RCPT: Tally.rcpt,
    Command.HEADER: Tally.header,
}
