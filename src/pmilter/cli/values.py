"""Parsers of the values that settings have: a text becomes a value, or a ValueError that shows the text and what is right."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from pmilter.dispatchers.admission import Peers
from pmilter.privileges import find_group, find_user
from pmilter.protocol.constants import Status
from pmilter.protocol.rules import STAGES

_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_SIZE: Final = re.compile(r"([0-9]+)([KMG]?)(?:i?B)?", re.IGNORECASE)

LEAST_MEMORY: Final = 16 * _UNITS["M"]
"""Bytes that a process of Python takes, about, before it does anything: a smaller limit would end each of them, for ever."""

_ENDLESS: Final = float("inf")

SHUTDOWN: Final = "shutdown"

FALLBACKS: Final[dict[str, Status | str]] = {
    "tempfail": Status.TEMPFAIL,
    "reject": Status.REJECT,
    "accept": Status.ACCEPT,
    "continue": Status.CONTINUE,
    SHUTDOWN: SHUTDOWN,
}
"""What may be answered for a callback that fails, as people write it."""


class Never(Enum):
    """No limit, where one could be."""

    NEVER = "none"

    def __str__(self) -> str:
        """Return it as people write it."""
        return self.value


NEVER: Final = Never.NEVER


class Deadlines(NamedTuple):
    """Seconds that callbacks have."""

    command: float
    eom: float | None
    """At end of message, or None where only the other was given."""

    def limits(self) -> dict[str, float]:
        """Return them by their names in `pmilter.limits.Limits`."""
        given = {"command_time": self.command, "eom_time": self.eom}
        return {name: seconds for name, seconds in given.items() if seconds is not None}


PRESETS: Final = {"postfix": Deadlines(25.0, 270.0), "sendmail": Deadlines(8.0, 280.0)}


class Fallback(NamedTuple):
    """An answer for callbacks that fail."""

    stage: str | None
    """Where, or None for everywhere."""
    answer: Status | str


class Account(NamedTuple):
    """Whom to become."""

    user: str
    group: str | None


def parse_count(text: str) -> int:
    """Return a number, 0 or above."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"{text!r} must be a whole number, 0 or above")
    return int(text)


def parse_limit(text: str) -> int:
    """Return a number above 0."""
    if not re.fullmatch(r"[0-9]{1,18}", text) or not int(text):
        raise ValueError(f"{text!r} must be a whole number above 0")
    return int(text)


def parse_seconds(text: str) -> float:
    """Return a number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < _ENDLESS:
        raise ValueError(f"{text!r} must be a number of seconds above 0")
    return seconds


def parse_size(text: str) -> int:
    """Return a number of bytes above 0; K, M and G are its multiples by 1024."""
    found = _SIZE.fullmatch(text)
    if found is None or not int(found[1]):
        raise ValueError(f"{text!r} must be a number of bytes above 0, such as 512M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


def parse_memory(text: str) -> int:
    """Return a number of bytes that a process may have, as `parse_size`."""
    size = parse_size(text)
    if size < LEAST_MEMORY:
        least = f"{LEAST_MEMORY // _UNITS['M']}M"
        raise ValueError(
            f"{text!r} must be {least} or more: a process that only runs Python has about that, and each would be replaced at once"
        )
    return size


def parse_mode(text: str) -> str:
    """Return the mode of a socket, in octal digits."""
    if not re.fullmatch(r"(0o?)?[0-7]{1,3}", text):
        raise ValueError(f"mode {text!r} must be octal, such as 660")
    return text


def parse_group(text: str) -> str:
    """Return the name or number of a group, which there is."""
    find_group(text)
    return text


def parse_account(text: str) -> Account:
    """Return a user, and a group where one is given: ``USER`` or ``USER:GROUP``, which there are."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise ValueError(f"{text!r} must be USER or USER:GROUP")
    find_user(user)
    if group:
        find_group(group)
    return Account(user, group or None)


def parse_deadlines(text: str) -> Deadlines:
    """Return deadlines: a preset's name, or ``COMMAND[,EOM]`` in seconds."""
    if text.lower() in PRESETS:
        return PRESETS[text.lower()]
    command, comma, eom = text.partition(",")
    try:
        return Deadlines(parse_seconds(command), parse_seconds(eom) if comma else None)
    except ValueError:
        presets = ", ".join(PRESETS)
        raise ValueError(
            f"{text!r} must be {presets}, or seconds as in 25 or 25,270 (the second at end of message)"
        ) from None


def parse_fallback(text: str) -> Fallback:
    """Return a fallback: ``ANSWER`` or ``STAGE=ANSWER``."""
    stage, equals, answer = text.rpartition("=")
    if answer.lower() not in FALLBACKS:
        raise ValueError(f"{answer!r} is not one of {', '.join(FALLBACKS)}")
    if equals and stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; the stages are {', '.join(STAGES)}")
    return Fallback(stage or None, FALLBACKS[answer.lower()])


def parse_peer(text: str) -> str:
    """Return who may connect, as `Milter.allow_peers` takes it."""
    Peers().allowing(text)
    return text
