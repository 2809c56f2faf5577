"""A `Plan` compiled for serving: the tables that all connections of one filter share."""

from __future__ import annotations

import logging
from mmap import mmap
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pmilter.intake import TAKES
from pmilter.protocol.constants import Action, Command, Status, Step
from pmilter.protocol.messages import (
    Accept,
    Continue,
    Discard,
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.intake import Take
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
        take: Takes the command in: a method of `Intake`.
        legal: The statuses that the callback may return, with what goes out for each where no reply was set.
        fallback: What is answered where it fails.
        timeout: Seconds that it has, or None.
    """

    __slots__ = (
        "command",
        "fallback",
        "function",
        "legal",
        "name",
        "noreply",
        "take",
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
        self.take: Take = TAKES[command]
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
        stages: The stages from connect to body, by command code; None for the other commands.
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
        self.eom = Stage(plan, Command.BODYEOB)
        self.stages: dict[int, Stage | None] = {
            code: Stage(plan, command) if (command := Command(code)) in TAKES else None
            for code in RULES
        }
        self.stages[Command.BODYEOB] = None
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


def _legal(rule: Rule, *, noreply: bool) -> dict[Status, Message]:
    legal = {
        status: message for status, message in VERDICTS.items() if message.code in rule.replies
    }
    if noreply:
        legal[Status.NOREPLY] = VERDICTS[Status.NOREPLY]
    else:
        legal.pop(Status.NOREPLY, None)
    return legal
