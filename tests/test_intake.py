"""Limits that a mail's content can reach: answered with the fallback, never by closing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Limits, Milter, Status
from tests.support.playbook import CLIENT, ENVELOPE, QUIET, Playbook, filter_of, returns

if TYPE_CHECKING:
    from collections.abc import Callable

ALL: dict[str, Callable[..., Any]] = {
    stage: returns(None)
    for stage in ("connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom")
}

NEXT_MESSAGE = r"""
>> M <next@example.com>␀
<< c
>> R <b@example.org>␀
<< c
>> T
<< c
>> L A␀1␀
<< c
>> N
<< c
>> E
<< c
"""


def limited(**limits: int) -> Milter:
    return filter_of(ALL, limits=Limits(**limits))


def test_recipient_over_the_limit_is_refused_alone() -> None:
    Playbook(limited(recipients=2)).play(
        rf"""{CLIENT}{ENVELOPE}
        >> R <c@example.org>␀
        << c
        >> R <d@example.org>␀
        << t
        >> R <e@example.org>␀
        << t
        >> T
        << c
        >> L A␀1␀
        << c
        >> N
        << c
        >> E
        << c
        {NEXT_MESSAGE}"""
    )


def test_recipients_and_their_parameters_have_512_bytes_each_on_the_average() -> None:
    parameter = "X" * 700
    Playbook(limited(recipients=2)).play(
        rf"""{CLIENT}
        >> M <a@example.com>␀
        << c
        >> R <b@example.org>␀{parameter}␀
        << c
        >> R <c@example.org>␀{parameter}␀
        << t
        >> A
        >> M <a@example.com>␀
        << c
        >> R <b@example.org>␀{parameter}␀
        << c"""
    )


def test_recipients_over_the_limit_are_not_shown() -> None:
    playbook = Playbook(limited(recipients=1))
    playbook.play(rf"{CLIENT}{ENVELOPE}" + ">> R <c@example.org>␀\n<< t")
    assert playbook.calls[-1] == ("envrcpt", "<b@example.org>")


def test_header_over_the_limit_ends_the_message_only() -> None:
    Playbook(limited(headers=1)).play(
        rf"""{CLIENT}{ENVELOPE}
        >> T
        << c
        >> L A␀1␀
        << c
        >> L B␀2␀
        << t
        {NEXT_MESSAGE}"""
    )


def test_header_bytes_count_over_the_whole_header() -> None:
    Playbook(limited(header_bytes=100)).play(
        rf"""{CLIENT}{ENVELOPE}
        >> T
        << c
        >> L A␀{"x" * 60}␀
        << c
        >> L B␀{"x" * 60}␀
        << t
        {NEXT_MESSAGE}"""
    )


@pytest.mark.parametrize("stage", ["M", "R"])
def test_arguments_over_the_limit_are_answered_with_the_fallback(stage: str) -> None:
    before = "" if stage == "M" else ">> M <a@example.com>␀\n<< c\n"
    Playbook(limited(arguments=3)).play(
        rf"""{CLIENT}{before}
        >> {stage} <x@example.com>␀A=1␀B=2␀C=3␀
        << t
        >> A
        >> M <a@example.com>␀A=1␀B=2␀
        << c
        >> R <b@example.com>␀A=1␀B=2␀
        << c"""
    )


def test_the_rest_of_a_message_over_the_limit_has_the_same_answer() -> None:
    Playbook(limited(headers=1)).play(
        rf"""{CLIENT}{ENVELOPE}
        >> T
        << c
        >> L A␀1␀
        << c
        >> L B␀2␀
        << t
        >> L C␀3␀
        << t
        >> N
        << t
        >> E
        << t
        {NEXT_MESSAGE}"""
    )


@pytest.mark.parametrize(
    ("fallback", "answer"),
    [
        (Status.REJECT, "r"),
        (Status.ACCEPT, "a"),
        (Status.CONTINUE, "c"),
        ({"header": Status.REJECT}, "r"),
        ("shutdown", "y 421 4.7.0 Service not available, closing transmission channel␀"),
        ({"eom": Status.REJECT}, "t"),
    ],
)
def test_answer_is_the_fallback_of_the_stage(fallback: Any, answer: str) -> None:
    milter = filter_of(ALL, limits=Limits(headers=1), fallback=fallback)
    Playbook(milter).play(
        rf"""{CLIENT}{ENVELOPE}
        >> T
        << c
        >> L A␀1␀
        << c
        >> L B␀2␀
        << {answer}"""
    )


def test_where_no_reply_is_due_the_next_command_gets_the_fallback() -> None:
    milter = filter_of({"eom": returns(Status.ACCEPT)}, limits=Limits(recipients=1))
    playbook = Playbook(milter)
    playbook.play(
        rf"""{QUIET}
        >> C x␀U
        >> H x␀
        >> M <a@example.com>␀
        >> R <b@example.com>␀
        >> R <c@example.com>␀
        >> E
        << t
        >> M <a@example.com>␀
        >> R <b@example.com>␀
        >> E
        << a"""
    )
    assert playbook.calls == [("eom",)]


def test_counting_begins_anew_with_each_message() -> None:
    message = rf"""{ENVELOPE}
        >> T
        << c
        >> L A␀1␀
        << c
        >> N
        << c
        >> E
        << c
        """
    Playbook(limited(recipients=1, headers=1, header_bytes=10)).play(CLIENT + 3 * message)


def test_passing_a_limit_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    playbook = Playbook(limited(recipients=1))
    playbook.play(CLIENT + ENVELOPE + ">> R <c@example.org>␀\n<< t")
    (line,) = caplog.messages
    assert "limit" in line
    assert "envrcpt" in line
    assert "TEMPFAIL" in line


def test_a_sender_cannot_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    playbook = Playbook(limited(recipients=1)).play(CLIENT + ENVELOPE)
    for _ in range(500):
        playbook.play(">> R <c@example.org>␀\n<< t")
    assert len(caplog.messages) < 10
