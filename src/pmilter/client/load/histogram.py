"""Counts of durations in buckets that grow with them: bounded memory, whatever is recorded, and 1 % precision."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_BITS: Final = 7
"""Significant bits of a value that are kept: 64 buckets for each power of two."""

_HALF: Final = 1 << (_BITS - 1)

LONGEST: Final = (1 << 43) - 1
"""The longest duration that is told from others, in nanoseconds: two hours and 26 minutes."""

_BUCKETS: Final = (LONGEST.bit_length() - _BITS + 2) * _HALF


class Bar(NamedTuple):
    """One bar of a drawing."""

    above: int
    """Nanoseconds; the bar counts what took longer than this,"""
    up_to: int
    """and no longer than this."""
    number: int
    """How many did."""


class Histogram:
    """Durations in nanoseconds.

    Attributes:
        least: The shortest one recorded; 0 where there is none.
        most: The longest one.
        total: Their sum.
    """

    __slots__ = ("_counts", "least", "most", "total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._counts[:] = [0] * _BUCKETS
        self.least = self.most = self.total = 0

    def record(self, duration: int) -> None:
        """Count a duration; one below 1 or above `LONGEST` is taken for that."""
        if not 0 < duration <= LONGEST:
            duration = 1 if duration < 1 else LONGEST
        if duration > self.most:
            self.most = duration
        if duration < self.least or not self.total:
            self.least = duration
        self.total += duration
        extra = duration.bit_length() - _BITS
        # Written out here, since this runs for each answer.
        index = extra * _HALF + (duration >> extra) if extra > 0 else duration
        self._counts[index] += 1

    @property
    def count(self) -> int:
        """How many were recorded."""
        return sum(self._counts)

    def percentile(self, percent: float) -> int:
        """Return the duration that this share did not exceed, to 1 %; 0 where none was recorded."""
        left = max(1, math.ceil(self.count * percent / 100))
        for index, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return max(self.least, min(_highest(index), self.most))
        return self.most

    def bars(self, per_doubling: int = 1) -> list[Bar]:
        """Return all that was recorded as the bars of a drawing with a logarithmic scale, from the shortest to the longest.

        Args:
            per_doubling: Bars for each power of two, which is divided evenly; a power of two itself, up to 64.
        """
        width = _HALF // per_doubling
        sums: dict[int, int] = {}
        for index, count in enumerate(self._counts):
            if count:
                sums[index // width] = sums.get(index // width, 0) + count
        if not sums:
            return []
        return [
            Bar(_highest(bar * width - 1), _highest(bar * width + width - 1), sums.get(bar, 0))
            for bar in range(min(sums), max(sums) + 1)
        ]

    def add(self, other: Histogram) -> None:
        """Count what another one has counted."""
        if not other.total:
            return
        self.least = min(self.least, other.least) if self.total else other.least
        self.most = max(self.most, other.most)
        self.total += other.total
        for index, count in other:
            self._counts[index] += count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Go through the buckets in use: number and count."""
        return ((index, count) for index, count in enumerate(self._counts) if count)

    # --- between processes

    def pack(self) -> dict[str, object]:
        """Return all as JSON has it."""
        extremes = {"least": self.least, "most": self.most, "total": self.total}
        return {**extremes, "buckets": [list(pair) for pair in self]}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Histogram:
        """Return what `pack` packed."""
        histogram = cls()
        histogram.least, histogram.most = packed["least"], packed["most"]
        histogram.total = packed["total"]
        for index, count in packed["buckets"]:
            histogram._counts[index] = count
        return histogram


def _highest(index: int) -> int:
    """Return the longest duration that is counted in a bucket."""
    if index < 2 * _HALF:
        return index
    extra = index // _HALF - 1
    return ((index - extra * _HALF + 1) << extra) - 1
