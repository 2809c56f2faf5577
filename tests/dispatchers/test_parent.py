from __future__ import annotations

from pmilter.dispatchers.parent import Parent
from pmilter.dispatchers.pipes import Pipe, await_readable, line
from pmilter.dispatchers.scoreboard import Census, Scoreboard, State
from pmilter.effects import Call


def test_child_tells_in_its_row_and_wakes_its_parent() -> None:
    row = Scoreboard(1).take()
    assert row is not None
    ours, theirs = line()
    stop = Pipe()
    parent = Parent(stop, row, theirs)
    parent.promise(12.5)
    parent.publish(Census(1, 2, 3))
    assert (row.grace, row.census()) == (12.5, Census(1, 2, 3))
    assert await_readable((ours.fileno(), stop.reader), 0) == set()
    parent.report(State.READY)
    assert row.state == State.READY
    assert await_readable((ours.fileno(), stop.reader), 0) == {ours.fileno()}
    for end in (ours, theirs, stop):
        end.close()


def test_child_without_a_line_reports_all_the_same() -> None:
    row = Scoreboard(1).take()
    assert row is not None
    stop = Pipe()
    Parent(stop, row, None).report(State.RETIRING)
    assert row.state == State.RETIRING
    stop.close()


def test_stop_is_for_the_whole_service() -> None:
    row = Scoreboard(1).take()
    assert row is not None
    stop = Pipe()
    Parent(stop, row, None).ask_to_stop()
    assert await_readable((stop.reader,), 0)
    stop.close()


def test_conversation_shows_life() -> None:
    row = Scoreboard(1).take()
    assert row is not None
    stop = Pipe()
    call = Call()
    call.timeout = 5.0
    talk = Parent(stop, row, None).oversee(effect for effect in [call])
    next(talk)
    assert row.due > 0
    stop.close()
