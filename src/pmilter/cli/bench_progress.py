"""The progress of a load on stderr: a bar, the messages so far, and how many a second there are now."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from pmilter.cli.bench_processes import Standing
    from pmilter.client.load import Plan

_WINDOW: Final = 1.0
"""Seconds over which the rate is taken."""


class Progress:
    """Shows how far a load is, on terminals only. A context manager.

    Args:
        plan: The load.
        shown: Whether to show anything.
        console: Where to.
        clock: Gives the time in seconds.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        shown: bool,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        console = console or Console(stderr=True, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            auto_refresh=False,  # a thread must not exist where processes are forked
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self._plan = plan
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self._task = self._bar.add_task("warming up", total=1.0, text="")

    def __enter__(self) -> Self:
        self._start = self._clock()
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, standing: Standing) -> None:
        """Show what there is now."""
        now = self._clock()
        measuring = now - self._start >= self._plan.warm_up
        self._seen.append((now, standing.messages))
        while now - self._seen[0][0] > _WINDOW and len(self._seen) > 2:
            self._seen.popleft()
        text = f"{standing.messages:,} messages, {self._rate():,.0f} a second"
        if standing.failures:
            text += f", {standing.failures:,} failures"
        self._bar.update(
            self._task,
            completed=self._done(now, standing.messages),
            description="measuring" if measuring else "warming up",
            text=text if measuring else "",
        )
        self._bar.refresh()
        if not measuring:
            self._seen.clear()  # the rate is that of the measurement alone

    def _rate(self) -> float:
        (since, before), (now, messages) = self._seen[0], self._seen[-1]
        return max(0, messages - before) / (now - since) if now > since else 0.0

    def _done(self, now: float, messages: int) -> float:
        """Return the part of the load that is done, from 0 to 1."""
        plan = self._plan
        parts = [messages / plan.total] if plan.total else []
        if plan.seconds is not None:
            parts.append((now - self._start) / (plan.warm_up + plan.seconds))
        return min(1.0, max(parts))
