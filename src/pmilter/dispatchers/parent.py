"""A child process's ties to the process that supervises it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmilter.dispatchers.scoreboard import LifeSign

if TYPE_CHECKING:
    from pmilter.dispatchers.pipes import Pipe, WorkerEnd
    from pmilter.dispatchers.scoreboard import Census, Row, State
    from pmilter.effects import Talk


class Parent:
    """The parent, as a child sees it.

    Args:
        stop: Ends the topmost service when written to.
        row: Where the child tells how it is.
        line: The child's end of its line; None for a child that lives for one connection.

    Attributes:
        stop, line: The same.
    """

    def __init__(self, stop: Pipe | WorkerEnd, row: Row, line: WorkerEnd | None) -> None:
        self.stop = stop
        self._row = row
        self._life = LifeSign(row)
        self.line = line

    def ask_to_stop(self) -> None:
        """Have the whole service end, from any thread and signal handler."""
        self.stop.write()

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
