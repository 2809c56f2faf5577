from __future__ import annotations

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter.client.load.histogram import LONGEST, Histogram

DURATIONS = st.lists(st.integers(1, 10**11), min_size=1, max_size=60)


def recorded(durations: list[int]) -> Histogram:
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    return histogram


@given(DURATIONS, st.sampled_from([0, 1, 50, 90, 99, 99.9, 100]))
def test_percentile_is_that_of_the_sorted_list_to_one_hundredth_and_a_bit(
    durations: list[int], percent: float
) -> None:
    exact = sorted(durations)[max(1, math.ceil(len(durations) * percent / 100)) - 1]
    found = recorded(durations).percentile(percent)
    assert exact <= found <= exact * (1 + 1 / 64)


@given(DURATIONS)
def test_extremes_count_and_sum_are_exact(durations: list[int]) -> None:
    histogram = recorded(durations)
    assert histogram.least == min(durations)
    assert histogram.most == max(durations) == histogram.percentile(100)
    assert histogram.count == len(durations)
    assert histogram.total == sum(durations)


@given(DURATIONS, st.sampled_from([1, 2, 4, 64]))
def test_bars_hold_everything_once_and_touch_each_other(
    durations: list[int], per_doubling: int
) -> None:
    bars = recorded(durations).bars(per_doubling)
    for bar in bars:
        inside = [one for one in durations if bar.above < one <= bar.up_to]
        assert bar.number == len(inside)
    assert sum(bar.number for bar in bars) == len(durations)
    assert all(left.up_to == right.above for left, right in itertools.pairwise(bars))


def test_bar_for_each_doubling() -> None:
    bars = recorded([1000, 1500, 3000, 3000]).bars()
    assert [tuple(bar) for bar in bars] == [(511, 1023, 1), (1023, 2047, 1), (2047, 4095, 2)]


@given(DURATIONS, DURATIONS)
def test_sum_of_two_is_as_if_one_had_recorded_all(left: list[int], right: list[int]) -> None:
    together = recorded(left)
    together.add(recorded(right))
    assert together.pack() == recorded(left + right).pack()


def test_nothing_added_changes_nothing() -> None:
    histogram = recorded([5, 7])
    histogram.add(Histogram())
    assert (histogram.least, histogram.most, histogram.count) == (5, 7, 2)


@given(DURATIONS)
def test_packed_one_survives_json(durations: list[int]) -> None:
    packed = recorded(durations).pack()
    assert Histogram.unpack(json.loads(json.dumps(packed))).pack() == packed


@pytest.mark.parametrize(("duration", "taken"), [(-5, 1), (0, 1), (LONGEST + 1, LONGEST)])
def test_durations_out_of_range_are_taken_for_the_next_in_it(duration: int, taken: int) -> None:
    histogram = recorded([duration])
    assert histogram.least == histogram.most == taken
    assert histogram.percentile(50) == taken


def test_empty_one_has_zeros_and_no_bars() -> None:
    histogram = recorded([17])
    histogram.clear()
    assert (histogram.least, histogram.most, histogram.total, histogram.count) == (0, 0, 0, 0)
    assert histogram.percentile(99) == 0
    assert histogram.bars() == []
