"""Misbehaves where the client's name says so: ``BEHAVIOUR.STAGE.example.com``. Any other message is told which process has filtered it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter import Action, Context, Milter
from proofs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

MARK: Final = "X-Proof"
LONG: Final = 60.0
"""Seconds that a callback hangs: far longer than it may."""
MEAL: Final = 16 << 20
"""Bytes that are eaten at a time."""
BITE_TIME: Final = 0.02

SETTINGS = Settings.from_environment()
LIMIT: Final = SETTINGS.max_memory or 0

eaten: list[bytes] = []


def hang() -> None:
    time.sleep(LONG)


def block() -> None:
    """Hang in code that does not let other threads run, as a bad regular expression does."""
    re.match(r"(a+)+$", "a" * 40 + "b")


def fail() -> None:
    raise RuntimeError("this filter raises on purpose")


def end() -> None:
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


def eat() -> None:
    """Take memory far over the limit, and hang."""
    while sum(map(len, eaten)) < 3 * LIMIT:
        eaten.append(b"x" * MEAL)
        time.sleep(BITE_TIME)
    hang()


def leak() -> None:
    """Take memory somewhat over the limit, and go on as if nothing were."""
    eaten.append(b"x" * (LIMIT * 3 // 4))  # beside what the process has anyway


BEHAVIOURS: Final = {each.__name__: each for each in (hang, block, fail, end, crash, eat, leak)}


def behave(ctx: Context, stage: str) -> Callable[[], None] | None:
    """Return what is to be done at a stage, if anything."""
    behaviour, wanted = ctx.priv or ("", "")
    return BEHAVIOURS[behaviour] if stage == wanted else None


def note(ctx: Context, stage: str, arguments: tuple[Any, ...]) -> None:
    """Take note of what the client wants; answer a message."""
    if stage == "connect":
        behaviour, _, rest = str(arguments[0]).partition(".")
        ctx.priv = (behaviour, rest.partition(".")[0]) if behaviour in BEHAVIOURS else None
    elif stage == "eom":
        ctx.addheader(MARK, str(os.getpid()))


def plain(stage: str) -> Callable[..., Any]:
    def callback(ctx: Context, *arguments: Any) -> None:
        note(ctx, stage, arguments)
        if (deed := behave(ctx, stage)) is not None:
            deed()

    return callback


def coroutine(stage: str) -> Callable[..., Any]:
    async def callback(ctx: Context, *arguments: Any) -> None:
        note(ctx, stage, arguments)
        if (deed := behave(ctx, stage)) is hang:
            await asyncio.sleep(LONG)
        elif deed is not None:
            deed()

    return callback


milter = Milter("misbehaving", actions=Action.ADDHDRS, limits=SETTINGS.limits)
milter.set_dispatcher(SETTINGS.make_dispatcher())
for name in ("connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"):
    on: Callable[[str], Callable[[Any], Any]] = milter.on  # type: ignore[assignment]  # one overload a stage; this is any
    on(name)(coroutine(name) if SETTINGS.coroutines else plain(name))
