"""A child process's ties to the process that supervises it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.scoreboard import LifeSign
from pmilter.effects import call_at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.pipes import Pipe, WorkerEnd
    from pmilter.dispatchers.scoreboard import Census, Row, State
    from pmilter.effects import Call, Talk


class NoParent:
    """In the place of a parent where there is none, so that there is nobody to tell.

    Attributes:
        stop: Ends the topmost service when written to; None where that is this one.
        line: The process's end of its line to the parent, or None.
    """

    stop: Pipe | WorkerEnd | None = None
    line: WorkerEnd | None = None

    def due_cell(self) -> memoryview[float] | None:
        """Return where to write the time by which the process must have shown life, or None."""
        return None

    def report(self, state: State) -> None:
        """Tell how far the process is in its life."""

    def promise(self, grace: float) -> None:
        """Tell the seconds that the process takes, at most, to end once it is asked to."""

    call_at_once: Callable[[Call], Any] = staticmethod(call_at_once)
    """Calls a callback, and shows that it is under way; in a process that makes one call at a time."""

    def oversee(self, talk: Talk) -> Talk:
        """Return a conversation that is the same as another, and shows life to the parent."""
        return talk


NO_PARENT: Final = NoParent()


class Parent(NoParent):
    """The parent, as a child sees it.

    Args:
        stop: Ends the topmost service when written to.
        row: Where the child tells how it is.
        line: The child's end of its line; None for a child that lives for one connection.
    """

    def __init__(self, stop: Pipe | WorkerEnd, row: Row, line: WorkerEnd | None) -> None:
        self.stop = stop
        self._row = row
        self._life = LifeSign(row)
        self.call_at_once = self._life.call_at_once
        self.line = line

    def due_cell(self) -> memoryview[float] | None:
        """Return where to write the time by which the process must have shown life."""
        return self._row.due_cell()

    def report(self, state: State) -> None:
        """Tell how far the child is in its life."""
        self._row.state = state
        if self.line is not None:
            self.line.wake_parent()

    def promise(self, grace: float) -> None:
        """Tell the seconds that the child takes, at most, to end once it is asked to."""
        self._row.grace = grace

    def publish(self, census: Census) -> None:
        """Tell the numbers for the status line."""
        self._row.publish(census)

    def oversee(self, talk: Talk) -> Talk:
        """Return a conversation that is the same as another, and shows life to the parent."""
        return self._life.over(talk)
