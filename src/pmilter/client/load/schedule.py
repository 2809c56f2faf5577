"""When messages begin: one after the other, or at a rate that does not ask whether the filter keeps up."""

from __future__ import annotations

from typing import Final

_SECOND: Final = 1_000_000_000


class Schedule:
    """Hands out the beginnings of messages. Times are nanoseconds of one clock.

    At a rate, a message has the time at which it should begin, also where it can only begin later: what it waits is part of
    what it takes, so that a filter that stalls does not look better for not having been asked meanwhile.

    Args:
        start: When the first message should begin.
        rate: Messages a second; None for as many as can begin.
        total: Messages in all; None for no end.

    Attributes:
        ended: Whether no more messages begin.
    """

    __slots__ = ("_left", "_next", "_rate", "_start", "ended")

    def __init__(self, start: int, rate: float | None, total: int | None = None) -> None:
        self._start = start
        self._rate = rate
        self._next = 0
        self._left = total
        self.ended = total == 0

    def end(self) -> None:
        """Begin no more messages."""
        self.ended = True

    def take(self, now: int) -> int | None:
        """Return when a message should begin that can begin now; None where none should."""
        if self.ended:
            return None
        due = now if self._rate is None else self._due(self._rate)
        if due > now:
            return None
        self._next += 1
        if self._left is not None:
            self._left -= 1
            self.ended = self._left == 0
        return due

    def wait(self, now: int) -> float | None:
        """Return the seconds until a message should begin; None where the time does not decide."""
        if self.ended or self._rate is None:
            return None
        return max(0, self._due(self._rate) - now) / _SECOND

    def overdue(self, now: int) -> int:
        """Return how many should have begun by now and have not been taken."""
        if self.ended or self._rate is None or now < self._start:
            return 0
        late = max(0, int((now - self._start) * self._rate / _SECOND) + 1 - self._next)
        return late if self._left is None else min(late, self._left)

    def _due(self, rate: float) -> int:
        return self._start + round(self._next * _SECOND / rate)
