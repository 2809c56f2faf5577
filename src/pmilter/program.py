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
from pmilter.protocol.negotiation import offer as full_offer
from pmilter.protocol.rules import RULES, Rule
from pmilter.protocol.terms import terms
from pmilter.requests import SHUTDOWN
from pmilter.tally import Tally
from pmilter.text import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.context import Context
    from pmilter.plan import Fallback, Plan
    from pmilter.reply import Reply

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


class Recourse(NamedTuple):
    """A fallback, ready to be given."""

    name: str
    """For the log."""
    outcome: Status | Reply
    """What the callback could have returned to the same effect."""
    message: Message
    """What goes out."""


def recourse(fallback: Fallback) -> Recourse:
    """Return what a fallback means."""
    if fallback == "shutdown":
        return Recourse(f"{SHUTDOWN.code} {SHUTDOWN.xcode}", SHUTDOWN, SHUTDOWN.encode())
    return Recourse(fallback.name, fallback, VERDICTS[fallback])


class Stage:
    """One stage of a filter, ready to be called.

    Attributes:
        name: Its name.
        command: The command that it belongs to.
        function: The callback, or None.
        noreply: Whether the MTA need not wait for an answer.
        arguments: Makes the callback's arguments of the context and the command's payload; raises where that is malformed.
        note: Notes the command's facts and counts it; False where a limit is passed.
        legal: What the callback may return.
        fallback: What is answered where it fails.
        timeout: Seconds that it has, or None.
    """

    __slots__ = (
        "arguments",
        "command",
        "fallback",
        "function",
        "legal",
        "name",
        "noreply",
        "note",
        "timeout",
    )

    def __init__(self, plan: Plan, command: Command) -> None:
        rule = RULES[command]
        callback = plan.callbacks.get(rule.name)
        limits = plan.limits
        self.name = rule.name
        self.command = command
        self.function: Callable[..., Any] | None = callback.function if callback else None
        self.noreply = callback is not None and callback.noreply
        self.arguments: Callable[[Context, bytes], tuple[Any, ...]] = ARGUMENTS[command]
        self.note: Callable[[Tally, bytes], bool] | None = _NOTES.get(command)
        self.legal = _legal(rule, noreply=self.noreply)
        self.fallback = recourse(plan.fallback[rule.name])
        eom = command is Command.BODYEOB
        self.timeout = limits.eom_time if eom else limits.command_time


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
        negotiate_fallback: Kept for the first command where that callback fails.
    """

    __slots__ = (
        "_choices",
        "_said",
        "_wish",
        "abort",
        "close",
        "eom",
        "negotiate",
        "negotiate_fallback",
        "plan",
        "stages",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._wish = plan.wish()
        self._choices: dict[bytes, Options] = {}
        # Anonymous memory, so that forked children share it: each missing thing is said once, not once a child.
        self._said = mmap(-1, _MISSING.size)
        self.stages = {int(command): Stage(plan, command) for command in ARGUMENTS}
        self.eom = self.stages.pop(Command.BODYEOB)
        self.negotiate = _function(plan, "negotiate")
        self.negotiate_fallback = recourse(plan.fallback["negotiate"])
        self.abort = _function(plan, "abort")
        self.close = _function(plan, "close")

    def prepare(self) -> None:
        """Do beforehand what the first connection would do, so that forked children need not, each of them."""
        choice = self.choose(full_offer())  # that of the MTAs of today
        terms(choice.version, int(choice.steps))

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


def _legal(rule: Rule, *, noreply: bool) -> frozenset[Status]:
    legal = {status for status, message in VERDICTS.items() if message.code in rule.replies}
    legal.discard(Status.NOREPLY)
    if noreply:
        legal.add(Status.NOREPLY)
    if Answer.SKIP in rule.replies:
        legal.add(Status.SKIP)
    return frozenset(legal)


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
    # Decoding does not see over a NUL, so one pass over all texts gives the same as one for each.
    texts = payload.decode("utf-8", "surrogateescape").split("\0")
    if texts.pop() or not texts:
        Mail.decode(payload)  # raises with the reason
    return (context, *texts)


def _header(context: Context, payload: bytes) -> tuple[Any, ...]:
    # Decoding does not see over a NUL, so one pass over both texts gives the same as one for each.
    texts = payload.decode("utf-8", "surrogateescape").split("\0")
    if len(texts) == 3 and not texts[2]:
        return (context, texts[0], texts[1])
    name, value = Header.split(payload)  # raises with the reason, or there are NULs in the value
    return (context, decode(name), decode(value))


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
