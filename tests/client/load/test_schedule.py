from __future__ import annotations

from pmilter.client.load.schedule import Schedule

SECOND = 1_000_000_000


def test_without_a_rate_a_message_can_always_begin_now() -> None:
    schedule = Schedule(0, None)
    assert [schedule.take(now) for now in (5, 5, 9)] == [5, 5, 9]
    assert schedule.wait(9) is None


def test_at_a_rate_messages_begin_when_they_are_due() -> None:
    schedule = Schedule(100, 10)
    assert schedule.take(99) is None
    assert schedule.take(100) == 100
    assert schedule.take(100) is None
    assert schedule.wait(100) == 0.1


def test_late_message_keeps_the_time_at_which_it_should_have_begun() -> None:
    schedule = Schedule(0, 4)
    assert [schedule.take(SECOND) for _ in range(6)] == [
        0,
        SECOND // 4,
        SECOND // 2,
        3 * SECOND // 4,
        SECOND,
        None,
    ]


def test_times_do_not_drift_at_a_rate_that_does_not_divide_a_second() -> None:
    schedule = Schedule(0, 3)
    times = [schedule.take(10 * SECOND) for _ in range(31)]
    assert times[30] == 10 * SECOND


def test_wait_for_one_that_is_late_is_none_at_all() -> None:
    assert Schedule(0, 10).wait(SECOND) == 0


def test_total_ends_it() -> None:
    schedule = Schedule(0, None, total=2)
    assert [schedule.take(1) for _ in range(3)] == [1, 1, None]
    assert schedule.ended


def test_total_of_none_has_ended_from_the_start() -> None:
    assert Schedule(0, None, total=0).take(1) is None


def test_nothing_begins_after_its_end() -> None:
    schedule = Schedule(0, 10)
    schedule.end()
    assert schedule.take(SECOND) is None
    assert schedule.wait(SECOND) is None
    assert schedule.overdue(SECOND) == 0


def test_overdue_are_those_whose_time_has_come() -> None:
    schedule = Schedule(0, 10)
    assert schedule.overdue(SECOND) == 11  # the one at 0 and the one at 1 s too
    schedule.take(SECOND)
    assert schedule.overdue(SECOND) == 10
    assert schedule.overdue(-1) == 0
    assert Schedule(0, 10, total=3).overdue(SECOND) == 3
    assert Schedule(0, None).overdue(SECOND) == 0
