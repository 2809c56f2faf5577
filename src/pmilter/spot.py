"""Where a thread notes which conversation it runs, so that what is logged meanwhile can tell."""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import Any, Final


class Spot:
    """Where a thread, or whatever else has a context of its own, notes which conversation it runs.

    Attributes:
        conversation: It, with the properties `connection_id` and `queue_id` (or None); None outside of any.
    """

    __slots__ = ("conversation",)

    def __init__(self) -> None:
        self.conversation: Any = None


_SPOT: Final[ContextVar[Spot]] = ContextVar("pmilter_spot")


def spot() -> Spot:
    """Return the spot of the running thread or task. A context variable is slow to set, so it is set but once."""
    try:
        return _SPOT.get()
    except LookupError:
        made = Spot()
        _SPOT.set(made)
        return made


def separate_context() -> Context:
    """Return a copy of the running context with a spot of its own, for a conversation that goes on beside others in one thread."""
    context = copy_context()
    context.run(_SPOT.set, Spot())
    return context
