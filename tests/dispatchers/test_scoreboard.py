from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.dispatchers.scoreboard import MARGIN, Census, LifeSign, Row, Scoreboard, State
from pmilter.effects import Call, Receive, Send
from tests.support.processes import in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.effects import Talk


def row() -> Row:
    taken = Scoreboard(1).take()
    assert taken is not None
    return taken


def test_row_of_a_child_that_has_just_begun() -> None:
    fresh = row()
    assert State(int(fresh.state)) is State.STARTING
    assert (fresh.due, fresh.grace) == (0.0, 0.0)
    assert fresh.census() == Census(0, 0, 0)


def test_parent_sees_what_a_child_writes() -> None:
    shared = row()

    def child() -> None:
        shared.state = State.READY
        shared.due = 12.5
        shared.grace = 10.0
        shared.publish(Census(3, 2, 1_000_000))

    in_child(child)
    assert State(int(shared.state)) is State.READY
    assert (shared.due, shared.grace) == (12.5, 10.0)
    assert shared.census() == Census(3, 2, 1_000_000)


def test_rows_do_not_touch_each_other() -> None:
    board = Scoreboard(3)
    rows = [taken for _ in range(3) if (taken := board.take())]
    for number, each in enumerate(rows, 1):
        each.publish(Census(number, number, number))
        each.state = State.READY
    assert [each.census() for each in rows] == [Census(n, n, n) for n in (1, 2, 3)]


def test_no_more_rows_than_there_are() -> None:
    board = Scoreboard(2)
    first, second = board.take(), board.take()
    assert first is not None
    assert second is not None
    assert board.take() is None
    board.give_back(first)
    assert board.take() is not None


def test_row_that_is_taken_again_has_nothing_of_the_one_before() -> None:
    board = Scoreboard(1)
    first = board.take()
    assert first is not None
    first.publish(Census(1, 2, 3))
    first.due = 5.0
    board.give_back(first)
    again = board.take()
    assert again is not None
    assert again.census() == Census(0, 0, 0)
    assert again.due == 0.0


# --- signs of life


def call(timeout: float | None) -> Call:
    made = Call()
    made.timeout = timeout
    made.stage, made.function, made.arguments = "helo", print, ()
    return made


def conversation(*effects: Any, outcomes: list[object] | None = None) -> Talk:
    """Return a conversation that wants some effects done, and notes what came of them."""
    for effect in effects:
        try:
            outcome = yield effect
        except ValueError as error:
            outcome = error
        if outcomes is not None:
            outcomes.append(outcome)


def test_call_under_way_is_due_after_its_time_and_a_margin() -> None:
    shared = row()
    talk = LifeSign(shared).over(conversation(call(25.0), Receive()))
    before = time.monotonic()
    next(talk)
    assert before + 25.0 + MARGIN <= shared.due <= time.monotonic() + 25.0 + MARGIN
    talk.send(None)
    assert shared.due == 0.0


@pytest.mark.parametrize("effect", [Receive(1.0), Send(b"x"), call(None)])
def test_what_has_no_end_or_is_not_the_filters_is_not_due(effect: Any) -> None:
    shared = row()
    next(LifeSign(shared).over(conversation(effect)))
    assert shared.due == 0.0


def test_call_that_raises_has_ended() -> None:
    shared = row()
    outcomes: list[object] = []
    talk = LifeSign(shared).over(conversation(call(5.0), Receive(), outcomes=outcomes))
    next(talk)
    error = ValueError("of a callback")
    assert type(talk.throw(error)) is Receive
    assert shared.due == 0.0
    assert outcomes == [error]


def test_longest_of_several_calls_counts_until_all_have_ended() -> None:
    shared = row()
    life = LifeSign(shared)
    long, short = life.over(conversation(call(270.0))), life.over(conversation(call(25.0)))
    next(long)
    due = shared.due
    next(short)
    assert shared.due == due
    _finish(short)
    assert shared.due == due
    _finish(long)
    assert shared.due == 0.0


def test_conversation_is_the_same_as_without() -> None:
    outcomes: list[object] = []
    first, second = Receive(1.0), Send(b"x")
    talk = LifeSign(row()).over(conversation(first, second, outcomes=outcomes))
    assert next(talk) is first
    assert talk.send(b"data") is second
    _finish(talk)
    assert outcomes == [b"data", None]


def test_error_that_a_conversation_does_not_take_comes_out() -> None:
    talk = LifeSign(row()).over(conversation(Receive()))
    next(talk)
    with pytest.raises(KeyError):
        talk.throw(KeyError("not expected"))


def test_conversation_is_closed_with_it() -> None:
    inner = conversation(Receive(), Receive())
    talk = LifeSign(row()).over(inner)
    next(talk)
    talk.close()
    with pytest.raises(StopIteration):
        next(inner)


def test_conversation_that_is_closed_during_a_call_is_not_waited_for() -> None:
    shared = row()
    life = LifeSign(shared)
    closed = life.over(conversation(call(5.0)))
    next(closed)
    closed.close()
    talk = life.over(conversation(call(5.0)))
    next(talk)
    _finish(talk)
    assert shared.due == 0.0


def _finish(talk: Talk) -> None:
    resume: Callable[[Any], Any] = talk.send
    with pytest.raises(StopIteration):
        resume(None)


def test_memory_is_not_lost_when_the_process_forks_much() -> None:
    shared = row()
    for count in range(3):
        in_child(lambda: shared.publish(Census(os.getpid() > 0, 0, int(shared.requests) + 1)))
        assert shared.requests == count + 1
