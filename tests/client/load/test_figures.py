from __future__ import annotations

import json

import pytest

from pmilter.client.load.figures import Figures, answer_name
from pmilter.protocol.constants import Status


def measured(times: int) -> Figures:
    """Return figures in which everything has happened so often."""
    figures = Figures(
        agreed=(6, 1, 2),
        elapsed=times * 10,
        cpu=times,
        connections=times,
        sent=times,
        overdue=times,
    )
    for _ in range(times):
        figures.latency["envrcpt"].record(1000)
        figures.latency["negotiate"].record(5000)
        figures.note_answer("envrcpt", ord("y"), b"550 5.1.1 no")
        figures.note_outcome("envrcpt", Status.REJECT)
        figures.note_failure("timeout", f"failure in {times}")
        figures.message.record(2000)
        figures.changes[ord("h")] += 1
        figures.waiting["negotiate"] += 1
    return figures


def test_loads_that_ran_together_add_up_but_their_time_does_not() -> None:
    figures = measured(2)
    figures.add(measured(3))
    expected = measured(5)
    expected.elapsed = 30
    expected.reasons = {"timeout": "failure in 2"}
    assert figures.pack() == expected.pack()


def test_packed_figures_survive_json() -> None:
    packed = measured(3).pack()
    again = Figures.unpack(json.loads(json.dumps(packed)))
    assert again.pack() == packed
    assert again.answers == {("envrcpt", "replycode 5xx"): 3}


def test_clear_forgets_all_but_what_was_agreed_and_went_wrong() -> None:
    figures = measured(3)
    histogram = figures.latency["envrcpt"]
    figures.clear()
    assert figures.failures == {"timeout": 3}
    assert figures.reasons == {"timeout": "failure in 3"}
    assert figures.pack() == {
        **Figures(agreed=(6, 1, 2)).pack(),
        "failures": {"timeout": 3},
        "reasons": {"timeout": "failure in 3"},
    }
    assert figures.latency["envrcpt"] is histogram


def test_answers_that_are_not_counted_were_continue() -> None:
    figures = Figures()
    for _ in range(10):
        figures.latency["eom"].record(1)
    figures.latency["helo"].record(1)
    for code in b"aaar":
        figures.note_answer("eom", code, b"")
    assert figures.all_answers() == {
        "helo": {"continue": 1},
        "eom": {"continue": 6, "accept": 3, "reject": 1},
    }


def test_time_of_a_command_is_that_of_all_stages_but_the_negotiation() -> None:
    command = measured(3).command
    assert (command.count, command.most) == (3, 1000)


def test_seconds_can_be_divided_by() -> None:
    assert Figures().seconds > 0
    assert Figures(elapsed=2_500_000_000).seconds == 2.5


@pytest.mark.parametrize(
    ("code", "payload", "name"),
    [
        ("a", b"", "accept"),
        ("t", b"", "tempfail"),
        ("y", b"550 5.7.1 no\0", "replycode 5xx"),
        ("y", b"451 4.7.1 later\0", "replycode 4xx"),
        ("y", b"421 4.7.0 go\0", "replycode 421"),
    ],
)
def test_answers_have_libmilters_names(code: str, payload: bytes, name: str) -> None:
    assert answer_name(ord(code), payload) == name
