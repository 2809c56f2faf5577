"""The supervisor is asked with values and answers with values; the clock is a number."""

from __future__ import annotations

import logging
import signal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pmilter.dispatchers.scoreboard import State
from pmilter.dispatchers.supervisor import (
    FIRST_DELAY,
    LONGEST_DELAY,
    PROVEN,
    SIGNALS,
    TICK,
    Action,
    Backoff,
    Began,
    Exit,
    Refused,
    Report,
    Rung,
    Say,
    Spawn,
    Supervisor,
    Tell,
    describe,
)

STARTING = Report()
READY = Report(State.READY)
USED = Report(State.READY, used=True)
RETIRING = Report(State.RETIRING, used=True)
DONE = Report(State.DONE, used=True)
KILLED = -int(signal.SIGKILL)


class Pool:
    """A supervisor with children that do as a test says. Numbers them from 1."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.now = 1000.0
        self.reports: dict[int, Report] = {}
        self.actions: list[Action] = []
        self.births: list[float] = []

    def look(self, **arguments: object) -> list[Action]:
        """Take a step, start what is wanted, and return the rest."""
        actions = self.supervisor.step(self.now, reports=self.reports, **arguments)  # type: ignore[arg-type]  # passed through
        for action in actions:
            if isinstance(action, Spawn):
                self.births.append(self.now)
                self.reports[len(self.births)] = STARTING
                self.supervisor.spawned(len(self.births), self.now, action.generation)
        return [action for action in actions if not isinstance(action, Spawn)]

    def end(self, child: int, code: int, text: str = "") -> list[Action]:
        """Have a child end."""
        return self.look(exits={child: Exit(code, self.reports.pop(child), text)})

    def pass_time(self, seconds: float) -> list[Action]:
        """Let time pass, with a step whenever the supervisor wants one."""
        actions = []
        end = self.now + seconds
        while (pause := self.supervisor.pause(self.now)) <= end - self.now:
            assert pause > 0, "it would spin"
            self.now += pause
            actions += self.look()
        self.now = end
        return actions + self.look()

    def become(self, report: Report, *children: int) -> list[Action]:
        """Have some children, or all, report something."""
        for child in children or tuple(self.reports):
            self.reports[child] = report
        return self.look()

    @property
    def alive(self) -> set[int]:
        return set(self.reports)


def pool(size: int = 3, **options: object) -> Pool:
    made = Pool(Supervisor(size, **options))  # type: ignore[arg-type]  # passed through
    made.look()
    return made


def proven(size: int = 3, **options: object) -> Pool:
    made = pool(size, **options)
    made.become(USED)
    return made


def lines(actions: list[Action]) -> list[str]:
    return [action.text for action in actions if isinstance(action, Say)]


# --- births


def test_as_many_children_are_started_as_wanted() -> None:
    assert Supervisor(3).step(0.0) == [Spawn(1)] * 3


def test_nothing_more_is_started_while_all_live() -> None:
    made = pool()
    assert made.pass_time(60) == []
    assert made.alive == {1, 2, 3}


def test_child_that_has_done_its_share_is_replaced_at_once_without_a_word() -> None:
    made = proven()
    made.become(DONE, 2)
    assert made.end(2, 0) == []
    assert made.alive == {1, 3, 4}


def test_child_that_accepts_no_more_is_replaced_though_it_still_lives() -> None:
    made = proven()
    made.become(RETIRING, 2)
    assert made.alive == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("code", "words"), [(KILLED, "signal SIGKILL"), (0, "status 0"), (7, "status 7")]
)
def test_child_that_ends_unasked_is_told_of_and_replaced_at_once(code: int, words: str) -> None:
    made = proven()
    (said,) = made.end(2, code)
    assert isinstance(said, Say)
    assert said.level == logging.ERROR
    assert "child 2" in said.text
    assert words in said.text
    assert made.alive == {1, 3, 4}


def test_children_killed_while_they_served_are_all_replaced_at_once() -> None:
    made = proven()
    for child in (1, 2, 3):
        made.end(child, KILLED)
    assert made.alive == {4, 5, 6}


def test_child_that_has_served_for_a_second_counts_as_good_though_no_mta_came() -> None:
    made = pool()
    made.become(READY)
    made.pass_time(PROVEN)
    made.end(1, KILLED)
    assert made.alive == {2, 3, 4}


# --- back-off


def test_children_that_fail_at_their_start_are_not_a_fork_storm() -> None:
    made = pool(10)
    minute = made.now + 60
    while made.now < minute:
        for child in sorted(made.alive):
            made.end(child, 1)
        made.pass_time(0.01)
    assert len(made.births) <= 10 + 7 + 60 / LONGEST_DELAY


def test_waits_between_failures_double_up_to_the_longest() -> None:
    made = pool(1)
    for _ in range(10):
        made.end(max(made.alive), 1)
        while not made.alive:
            made.now += made.supervisor.pause(made.now)
            made.look()
    waits = [later - earlier for earlier, later in zip(made.births, made.births[1:], strict=False)]
    assert waits == pytest.approx(
        [min(LONGEST_DELAY, FIRST_DELAY * 2**failure) for failure in range(10)]
    )


def test_after_a_failure_one_child_is_tried_before_the_others_follow() -> None:
    made = pool()
    for child in (1, 2, 3):
        made.end(child, 1)
    made.pass_time(FIRST_DELAY)
    assert made.alive == {4}
    made.pass_time(0.5)
    assert made.alive == {4}
    made.become(USED, 4)
    assert made.alive == {4, 5, 6}


def test_failing_child_beside_good_ones_is_held_back_too() -> None:
    made = proven()
    made.end(1, KILLED)
    births = len(made.births)
    for _ in range(1000):
        for child in made.alive - {2, 3}:
            made.end(child, 1)
        made.pass_time(0.01)
    assert len(made.births) - births <= 9


def test_line_in_the_log_tells_how_many_have_failed_in_a_row() -> None:
    made = pool(1)
    made.end(1, 1)
    made.pass_time(FIRST_DELAY)
    assert "2 in a row" in lines(made.end(2, 1))[0]


def test_child_that_could_not_be_forked_is_tried_again_later() -> None:
    supervisor = Supervisor(1)
    assert supervisor.step(0.0) == [Spawn(1)]
    supervisor.not_spawned(0.0)
    assert supervisor.step(0.0) == []
    assert supervisor.pause(0.0) == pytest.approx(FIRST_DELAY)
    assert supervisor.step(FIRST_DELAY) == [Spawn(1)]


def test_backoff_counts_rounds_not_failures() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.fail(5.0)
    assert backoff.failures == 1
    assert backoff.until == 5.0 + FIRST_DELAY
    backoff.succeed()
    assert backoff.failures == 0


# --- the ladder


def test_stop_goes_down_the_ladder_as_far_as_it_must() -> None:
    made = proven(1, quit_time=0.5)
    made.become(USED._replace(grace=10.0))
    assert made.look(order=Rung.TERM) == [Tell(1, Rung.TERM)]
    assert made.pass_time(10.9) == []
    *_, last = made.pass_time(0.1)
    assert last == Tell(1, Rung.QUIT)
    *_, last = made.pass_time(0.5)
    assert last == Tell(1, Rung.KILL)
    assert made.pass_time(60) == []
    assert not made.supervisor.finished
    made.end(1, KILLED)
    assert made.supervisor.finished


def test_drain_waits_for_connections_and_then_begins_to_stop() -> None:
    made = proven(1, drain_time=600.0)
    assert made.look(order=Rung.DRAIN) == [Tell(1, Rung.DRAIN)]
    assert made.pass_time(599) == []
    assert Tell(1, Rung.TERM) in made.pass_time(1)


def test_hurry_comes_before_the_end_of_the_grace_period() -> None:
    made = proven(1)
    made.look(order=Rung.TERM)
    assert made.look(order=Rung.QUIT) == [Tell(1, Rung.QUIT)]


def test_order_does_not_become_weaker() -> None:
    made = proven(1)
    made.look(order=Rung.TERM)
    assert made.look(order=Rung.SERVE) == []
    made.end(1, 0)
    assert made.births == [1000.0]


def test_nothing_is_replaced_once_the_service_ends() -> None:
    made = proven()
    made.look(order=Rung.DRAIN)
    assert made.end(1, KILLED) == []
    assert made.alive == {2, 3}


def test_service_without_children_is_finished_at_once() -> None:
    supervisor = Supervisor(0)
    assert not supervisor.finished
    assert supervisor.step(0.0, order=Rung.TERM) == []
    assert supervisor.finished


def test_ends_that_were_asked_for_are_not_worth_a_word() -> None:
    made = proven()
    made.look(order=Rung.TERM)
    assert made.end(1, 0) == []
    assert made.end(2, -int(signal.SIGTERM)) == []


def test_rungs_below_serving_have_their_signals() -> None:
    assert SIGNALS[Rung.TERM] is signal.SIGTERM
    assert SIGNALS[Rung.QUIT] is signal.SIGQUIT
    assert SIGNALS[Rung.KILL] is signal.SIGKILL


# --- faults of one child


def test_child_that_overruns_its_time_is_killed_and_replaced() -> None:
    made = proven()
    made.become(USED._replace(due=made.now + 5.5), 2)
    assert made.pass_time(5.4) == []
    said, told = made.pass_time(0.1)
    assert isinstance(said, Say)
    assert "stuck" in said.text
    assert told == Tell(2, Rung.KILL)
    assert made.alive == {1, 2, 3, 4}
    assert made.end(2, KILLED) == []


def test_child_over_its_memory_is_asked_to_end_and_replaced() -> None:
    made = proven(max_memory=1000)
    said, told = made.become(USED._replace(memory=1001), 2)
    assert "1001 bytes of memory, the limit is 1000" in lines([said])[0]
    assert told == Tell(2, Rung.TERM)
    assert made.alive == {1, 2, 3, 4}


def test_child_far_over_its_memory_is_killed() -> None:
    made = proven(max_memory=1000)
    assert Tell(2, Rung.KILL) in made.become(USED._replace(memory=2001), 2)


def test_child_within_its_memory_is_left_alone() -> None:
    made = proven(max_memory=1000)
    assert made.become(USED._replace(memory=1000), 2) == []


def test_fault_is_told_of_once() -> None:
    made = proven(max_memory=1000)
    made.become(USED._replace(memory=1500, grace=30.0), 2)
    assert made.pass_time(30) == []


def test_child_that_does_not_become_ready_is_killed() -> None:
    made = pool(1, start_time=30.0)
    assert made.pass_time(29) == []
    said, told = made.pass_time(2)
    assert "not ready within 30 seconds" in lines([said])[0]
    assert told == Tell(1, Rung.KILL)


def test_children_that_others_start_are_watched_all_the_same() -> None:
    supervisor = Supervisor(0, max_memory=10)
    supervisor.spawned(7, 0.0)
    actions = supervisor.step(1.0, reports={7: READY._replace(memory=11)})
    assert actions[-1] == Tell(7, Rung.TERM)
    assert supervisor.step(2.0, exits={7: Exit(0, DONE)}) == []


# --- generations


def test_first_generation_tells_when_it_serves() -> None:
    made = pool(1, must_start=True)
    assert made.pass_time(3) == []
    assert made.become(READY) == [Began(1)]
    assert made.pass_time(3) == []


def test_new_generation_takes_over_once_it_is_ready() -> None:
    made = proven(1)
    made.supervisor.reload()
    assert made.look() == []
    assert made.alive == {1, 2}
    assert made.pass_time(5) == []
    assert made.become(READY, 2) == [Began(2), Tell(1, Rung.DRAIN)]
    made.become(DONE, 1)
    assert made.end(1, 0) == []
    assert made.alive == {2}


def test_all_of_a_generation_must_be_ready() -> None:
    made = proven(2)
    made.supervisor.reload()
    made.look()
    assert made.become(READY, 3) == []
    assert set(made.become(READY, 4)) == {Began(2), Tell(1, Rung.DRAIN), Tell(2, Rung.DRAIN)}


def test_generation_that_fails_leaves_the_one_before_serving_and_says_why() -> None:
    made = proven(1)
    made.supervisor.reload()
    made.look()
    assert made.end(2, 2, "no module named x") == [Refused(2, "no module named x")]
    assert made.alive == {1}
    assert made.pass_time(60) == []
    assert made.alive == {1}


def test_generation_that_fails_without_a_word_is_told_of_by_its_end() -> None:
    made = proven(1)
    made.supervisor.reload()
    made.look()
    (refused,) = made.end(2, -int(signal.SIGSEGV))
    assert isinstance(refused, Refused)
    assert "SIGSEGV" in refused.reason


def test_rest_of_a_failed_generation_is_ended() -> None:
    made = proven(2)
    made.supervisor.reload()
    made.look()
    made.become(READY, 3)
    actions = made.end(4, 2)
    assert actions[0] == Refused(2, "it ended with status 2 before it served")
    assert Tell(3, Rung.TERM) in actions


def test_reload_after_a_failed_one_works() -> None:
    made = proven(1)
    made.supervisor.reload()
    made.look()
    made.end(2, 2)
    made.supervisor.reload()
    made.look()
    assert Began(3) in made.become(READY, 3)


def test_reload_during_a_reload_starts_over() -> None:
    made = proven(1)
    made.supervisor.reload()
    made.look()
    made.supervisor.reload()
    assert made.look() == [Tell(2, Rung.KILL)]
    assert made.end(2, KILLED) == []
    assert made.become(READY, 3) == [Began(3), Tell(1, Rung.DRAIN)]


def test_generation_that_dies_is_started_anew() -> None:
    made = proven(1)
    made.end(1, KILLED)
    assert made.alive == {2}
    assert made.become(READY, 2) == []


def test_where_the_old_one_has_died_a_failing_new_one_is_tried_again() -> None:
    made = proven(1)
    made.supervisor.reload()
    made.look()
    made.end(1, KILLED)
    (said,) = made.end(2, 2, "syntax error")
    assert "syntax error" in lines([said])[0]
    made.pass_time(FIRST_DELAY)
    assert made.alive == {3}


def test_first_generation_that_fails_ends_the_service() -> None:
    made = pool(1, must_start=True)
    assert made.end(1, 2, "no module named x") == []
    assert made.supervisor.finished
    assert made.supervisor.failure == "no module named x"


def test_pool_goes_on_trying_though_its_first_child_fails() -> None:
    made = pool(1)
    made.end(1, 2)
    assert not made.supervisor.finished
    assert made.supervisor.failure is None


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "status 0"), (3, "status 3"), (-15, "signal SIGTERM"), (-37, "signal 37")],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe(code) == words


# --- whatever happens


class AnyLife(RuleBasedStateMachine):
    """Whatever children do, and whatever is asked: no storm, no step back up, no child forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool(4, start_time=5.0, max_memory=100, drain_time=20.0)
        self.rungs: dict[int, Rung] = {}
        self.order = Rung.SERVE
        self.reloads = 0

    def note(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Tell):
                assert action.rung > self.rungs.get(action.child, Rung.SERVE)
                self.rungs[action.child] = action.rung

    def pick(self, index: int) -> int | None:
        alive = sorted(self.pool.alive)
        return alive[index % len(alive)] if alive else None

    @rule(seconds=st.floats(0.001, 3.0))
    def time_passes(self, seconds: float) -> None:
        end = self.pool.now + seconds
        while self.pool.now < end:
            pause = self.pool.supervisor.pause(self.pool.now)
            self.pool.now = min(end, self.pool.now + max(pause, 0.001))
            self.note(self.pool.look(order=self.order))

    @rule(
        index=st.integers(0, 9),
        state=st.sampled_from(State),
        used=st.booleans(),
        memory=st.integers(0, 250),
        overdue=st.booleans(),
    )
    def child_reports(
        self, index: int, state: State, used: bool, memory: int, overdue: bool
    ) -> None:
        child = self.pick(index)
        if child is not None and state >= self.pool.reports[child].state:
            due = self.pool.now if overdue else 0.0
            self.note(self.pool.become(Report(state, used, due, memory, 3.0), child))

    @rule(index=st.integers(0, 9), code=st.sampled_from([0, 1, -9, -11, -15]))
    def child_ends(self, index: int, code: int) -> None:
        child = self.pick(index)
        if child is not None:
            self.note(self.pool.end(child, code))

    @rule()
    def program_is_loaded_anew(self) -> None:
        self.reloads += 1
        self.pool.supervisor.reload()
        self.note(self.pool.look(order=self.order))

    @rule(order=st.sampled_from([Rung.DRAIN, Rung.TERM, Rung.QUIT]))
    def service_ends(self, order: Rung) -> None:
        self.order = max(self.order, order)
        births = len(self.pool.births)
        self.note(self.pool.look(order=self.order))
        assert len(self.pool.births) == births

    @invariant()
    def pauses_are_short(self) -> None:
        assert 0 <= self.pool.supervisor.pause(self.pool.now) <= TICK + 1e-6

    @invariant()
    def children_stand_where_the_service_does(self) -> None:
        for child in self.pool.alive:
            assert self.rungs.get(child, Rung.SERVE) >= self.order

    @invariant()
    def no_more_serve_than_wanted(self) -> None:
        serving = [
            child
            for child in self.pool.alive
            if child not in self.rungs and self.pool.reports[child].state <= State.READY
        ]
        assert len(serving) <= 4 * (1 + self.reloads)

    def teardown(self) -> None:
        self.order = max(self.order, Rung.TERM)
        for _ in range(100):
            self.time_passes(1.0)
            for child in sorted(self.pool.alive):
                if self.rungs.get(child) is Rung.KILL:
                    self.note(self.pool.end(child, KILLED))
        assert self.pool.supervisor.finished


AnyLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyLife = AnyLife.TestCase


def test_generation_that_was_too_slow_is_told_of_so() -> None:
    made = proven(1, start_time=5)
    made.supervisor.reload()
    made.look()
    made.pass_time(6)
    assert made.end(2, KILLED)[0] == Refused(2, "was not ready within 5 seconds")


def test_first_generation_that_was_too_slow_is_given_up_for_that() -> None:
    made = pool(1, start_time=5, must_start=True)
    made.pass_time(6)
    made.end(1, KILLED)
    assert made.supervisor.failure == "was not ready within 5 seconds"


def test_old_connections_that_last_are_no_error() -> None:
    made = proven(1, drain_time=10)
    made.supervisor.reload()
    made.look()
    made.become(READY, 2)
    said = [action for action in made.pass_time(10.5) if isinstance(action, Say)]
    assert [action.level for action in said] == [logging.INFO]
    assert "did not end in time" in said[0].text
