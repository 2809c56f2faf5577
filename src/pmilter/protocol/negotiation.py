"""The negotiation as pure functions: an offer and a wish give an answer; an answer is checked against its offer.

Rules: docs/protocol.md, "Negotiation".
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pmilter.errors import LocalProtocolError, NegotiationError
from pmilter.protocol.constants import (
    ACTIONS,
    MAX_DATA_SIZE,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    STEPS,
    Action,
    MacroStage,
    Step,
)
from pmilter.protocol.messages import Options
from pmilter.protocol.rules import RULES

_PAYLOADS: Final = ((Step.MDS_1M, 1048575), (Step.MDS_256K, 262143))
_INTERNAL: Final = Step.MDS_1M | Step.MDS_256K


class Wish(NamedTuple):
    """What a filter wants, whatever the MTA offers."""

    stages: frozenset[str] = frozenset()
    """Stages that it wants to see."""
    quiet: frozenset[str] = frozenset()
    """Those of them to which it never has an answer."""
    actions: Action = Action(0)
    """Changes that it may make."""
    abilities: Step = Step(0)
    """Extra abilities that it wants."""
    symlists: tuple[tuple[MacroStage, bytes], ...] = ()
    """Macro names that it wants, by stage, separated by blanks."""


def choose(offer: Options, wish: Wish) -> Options:
    """Return the answer to an offer: the lower version, and of the wish what is offered. Never a bit more.

    Raises:
        NegotiationError: The offer's version is below 2.
    """
    if offer.version < PROTOCOL_VERSION_MIN:
        raise NegotiationError(
            f"the MTA offers protocol version {offer.version}, the least that is spoken here is {PROTOCOL_VERSION_MIN}",
            offered=offer,
        )
    actions = wish.actions & offer.actions
    symlists: dict[int, bytes] = {}
    if wish.symlists and offer.actions & Action.SETSYMLIST:
        actions |= Action.SETSYMLIST
        symlists = dict(wish.symlists)
    return Options(
        min(PROTOCOL_VERSION, offer.version),
        actions,
        wanted_steps(wish) & offer.steps & ~_INTERNAL,
        symlists,
    )


def wanted_steps(wish: Wish) -> Step:
    """Return the bits that a wish would set if everything were offered."""
    steps = wish.abilities
    for rule in RULES.values():
        if rule.name not in wish.stages:
            steps |= rule.off
        elif rule.name in wish.quiet:
            steps |= rule.noreply
    return steps


def clip(answer: Options, offer: Options) -> Options:
    """Return an answer without the bits that were not offered, and with a version that was."""
    actions = answer.actions & offer.actions
    symlists = answer.symlists if actions & Action.SETSYMLIST else {}
    version = max(PROTOCOL_VERSION_MIN, min(answer.version, offer.version, PROTOCOL_VERSION))
    return Options(version, actions, answer.steps & offer.steps, symlists)


def offer(version: int = PROTOCOL_VERSION) -> Options:
    """Return what Postfix and Sendmail offer at a version: all actions, all steps that the version knows.

    Raises:
        LocalProtocolError: The version is not from 2 to 6.
    """
    if version not in STEPS:
        raise LocalProtocolError(
            f"protocol version must be from 2 to {PROTOCOL_VERSION}, not {version!r}"
        )
    return Options(version, ACTIONS[6], STEPS[version])


def check_answer(offered: Options, answer: Options, *, strict: bool = True) -> Options:
    """Check a filter's answer as the MTA does, and return the agreement.

    Args:
        offered: What the MTA offered.
        answer: What the filter answered.
        strict: Refuse step bits that were not offered, as Sendmail does; Postfix lets them pass, and honours them.

    Returns:
        The answer, with the steps switched off that its version does not know.

    Raises:
        NegotiationError: The version is not between 2 and the offered one, or there are bits that were not offered.
    """
    if not PROTOCOL_VERSION_MIN <= answer.version <= offered.version:
        raise _refused(
            f"protocol version {answer.version}, the offer was {offered.version}", offered, answer
        )
    if extra := int(answer.actions) & ~int(offered.actions):
        raise _refused(f"actions {Action(extra)!r} that were not offered", offered, answer)
    extra_steps = int(answer.steps) & ~int(offered.steps)
    if strict and extra_steps:
        raise _refused(f"steps {Step(extra_steps)!r} that were not offered", offered, answer)
    steps = answer.steps & ~(
        _INTERNAL & ~offered.steps
    )  # a size that was not offered has no effect
    implied = Step(0)
    for rule in RULES.values():
        if answer.version < rule.since:
            implied |= rule.off
    return answer.replace(steps=steps | implied)


def _refused(what: str, offered: Options, answer: Options) -> NegotiationError:
    return NegotiationError(f"the filter answered {what}", offered=offered, answered=answer)


def max_payload(steps: Step) -> int:
    """Return the largest payload in bytes that may be sent under an agreement."""
    for bit, size in _PAYLOADS:
        if steps & bit:
            return size
    return MAX_DATA_SIZE
