"""A filter that writes down all that it is told, to compare what a real MTA tells with what the MTA in memory tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmilter import Action, Context, Milter, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pmilter import Reply

    Answer = Status | Reply | Callable[..., Status | Reply | None] | None
    Event = tuple[Any, ...]  # stage, then what the callback was given

STAGES = (
    "connect", "helo", "envfrom", "envrcpt", "data", "unknown", "header", "eoh", "body", "eom", "abort", "close",
)  # fmt: skip


class Witness:
    """Registers all stages, or those asked for, and answers as told.

    Args:
        answers: Stage -> what to answer there, or a function of the callback's arguments that says it.
        stages: Stages to register.
        macros: Whether to note the names of all macros in sight with each event.
        settings: For `Milter`.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer] | None = None,
        *,
        stages: tuple[str, ...] = STAGES,
        macros: bool = False,
        **settings: Any,
    ) -> None:
        self.seen: list[Event] = []
        self.milter = Milter("witness", **{"actions": Action(0x1FF), **settings})
        self._macros = macros
        on: Any = self.milter.on
        for stage in stages:
            on(stage)(self._callback(stage, (answers or {}).get(stage)))

    def take(self) -> list[Event]:
        """What was told since."""
        seen, self.seen = self.seen, []
        return seen

    def _callback(self, stage: str, answer: Answer) -> Callable[..., Any]:
        def callback(ctx: Context, *args: Any) -> Any:
            told = (args[0], args[1] and args[1][0]) if stage == "connect" else args
            names = (frozenset(ctx.macros),) if self._macros else ()
            self.seen.append((stage, *told, *names))
            return answer(ctx, *args) if callable(answer) else answer

        return callback


def names(events: list[Event]) -> list[str]:
    """The stages of events."""
    return [event[0] for event in events]
