from __future__ import annotations

from typing import TYPE_CHECKING

from pmilter.dispatchers.parent import NO_PARENT, Parent
from pmilter.dispatchers.pipes import Pipe, await_readable, line
from pmilter.dispatchers.scoreboard import Census, Scoreboard, State
from pmilter.effects import Call

if TYPE_CHECKING:
    from pmilter.effects import Talk


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


def test_process_without_a_parent_tells_nobody_and_stops_by_itself() -> None:
    NO_PARENT.report(State.READY)
    NO_PARENT.promise(12.5)
    talk: Talk = (effect for effect in [Call()])
    assert NO_PARENT.oversee(talk) is talk
    assert (NO_PARENT.stop, NO_PARENT.line) == (None, None)


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
