"""What children tell their parent while they live, in memory that they share: nothing of it costs a system call.

Times are those of `time.monotonic`, which is the same for all processes of a machine.
"""

from __future__ import annotations

import mmap
import time
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pmilter.effects import Call, call_at_once
from pmilter.outcomes import CallFailed

if TYPE_CHECKING:
    from pmilter.effects import Talk

MARGIN: Final = 1.0
"""Seconds that a call may overrun its time before its process counts as stuck: who can answer in time has done so by then."""


class State(IntEnum):
    """How far a child is in its life."""

    STARTING = 0
    READY = 1
    """It serves."""
    RETIRING = 2
    """It accepts no more connections."""
    DONE = 3
    """It has done all that it was to do, and ends."""


class Census(NamedTuple):
    """What a service has, for its status line."""

    connections: int = 0
    """Open now."""
    children: int = 0
    """Processes below this one."""
    requests: int = 0
    """Connections since the start."""
    probes: int = 0
    """Those of them that had nothing for the filter."""
    denied: int = 0
    """Connections since the start that were cut off, since who made them may not connect."""

    def __str__(self) -> str:
        """Return it as people read it."""
        return (
            f"{self.connections} connections, {self.children} children, {self.requests} requests, "
            f"{self.probes} probes, {self.denied} denied"
        )

    def past(self) -> Census:
        """Return what is left of it when its process has ended."""
        return self._replace(connections=0, children=0)


def together(*parts: Census) -> Census:
    """Return the sum of several."""
    return Census(*map(sum, zip(*parts, strict=True)))


_DUE: Final = 1
_COUNTS: Final = 3
"""Where the numbers of the census begin."""

_CELL: Final = 8
"""Bytes of a number."""


class _Cell:
    """One number of a row."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, row: Row, _owner: object = None) -> float:
        return row.cells[self._place]

    def __set__(self, row: Row, value: float) -> None:
        row.cells[self._place] = value


class Row:
    """What one child tells. The child writes, its parent reads; a row of zeros is that of a child that has just begun.

    Attributes:
        state: A `State`.
        due: Time by which the child must have shown life, or 0 while it need not.
        grace: Seconds that it takes, at most, to end after it was asked to.
        connections: How many it serves now.
        children: How many it has itself.
        requests: How many connections it has taken.
        probes: How many of them had nothing for the filter.
        denied: How many it has cut off.
    """

    __slots__ = ("cells",)

    state = _Cell(0)
    due = _Cell(_DUE)
    grace = _Cell(2)
    connections = _Cell(3)
    children = _Cell(4)
    requests = _Cell(5)
    probes = _Cell(6)
    denied = _Cell(7)
    SIZE: Final = 8

    def __init__(self, cells: memoryview[float]) -> None:
        self.cells = cells

    def due_cell(self) -> memoryview[float]:
        """Return `due` alone, as the only item of what is returned: for who writes it at every call."""
        return self.cells[_DUE : _DUE + 1]

    def clear(self) -> None:
        """Make it the row of a child that has just begun."""
        self.cells[:] = _EMPTY

    def publish(self, census: Census) -> None:
        """Tell the numbers for the status line."""
        cells = self.cells
        for place, number in enumerate(census, _COUNTS):
            cells[place] = number

    def census(self) -> Census:
        """Return the numbers for the status line."""
        return Census(*map(int, self.cells[_COUNTS:]))


_EMPTY: Final = memoryview(bytes(Row.SIZE * _CELL)).cast("d")


class Scoreboard:
    """Rows for so many children. Make it before the first fork.

    Args:
        rows: Most children at a time.
    """

    def __init__(self, rows: int) -> None:
        cells: Any = memoryview(mmap.mmap(-1, rows * Row.SIZE * _CELL)).cast("d")
        self._cells: memoryview[float] = cells
        self._fresh = 0
        self._used: list[Row] = []

    def take(self) -> Row | None:
        """Return a free row, cleared, or None where all are taken."""
        if self._used:
            row = self._used.pop()
            row.clear()
            return row
        start = self._fresh * Row.SIZE
        if start == len(self._cells):
            return None
        self._fresh += 1
        return Row(self._cells[start : start + Row.SIZE])

    def give_back(self, row: Row) -> None:
        """Take a row back."""
        self._used.append(row)


class LifeSign:
    """Tells in a row by when one of the calls under way must have ended, or another begun.

    A dispatcher that answers in time for a late callback ends the call thereby; one that cannot, or a process whose threads all
    stand still, does not. May be used by several threads.
    """

    def __init__(self, row: Row) -> None:
        self._cells = row.cells
        self._pending: set[int] = set()

    def call_at_once(self, call: Call) -> Any:
        """Call a callback as `effects.call_at_once` does, and show that it is under way; for a process that makes one call at a time."""
        timeout = call.timeout
        if timeout is None:
            return call_at_once(call)
        cells = self._cells
        cells[_DUE] = time.monotonic() + timeout + MARGIN
        try:
            return call.function(*call.arguments)
        except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
            raise CallFailed(error) from None
        finally:
            cells[_DUE] = 0.0

    def over(self, talk: Talk) -> Talk:
        """Return a conversation that is the same as another, and notes its calls.

        In one piece, since it runs for every header of every mail.
        """
        cells, pending, clock, key = self._cells, self._pending, time.monotonic, id(talk)
        send = step = talk.send
        outcome: object = None
        while True:
            try:
                effect: Any = step(outcome)
            except StopIteration:
                return
            timeout = effect.timeout if type(effect) is Call else None
            if timeout is not None:
                pending.add(key)
                due = clock() + timeout + MARGIN
                if due > cells[_DUE]:  # another call may have been given much longer
                    cells[_DUE] = due
            try:
                outcome = yield effect
                step = send
            except GeneratorExit:
                pending.discard(key)
                talk.close()
                raise
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                step, outcome = talk.throw, error
            if timeout is not None:
                pending.discard(key)
                if not pending:
                    cells[_DUE] = 0.0
