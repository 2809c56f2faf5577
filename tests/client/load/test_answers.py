from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter.client.load.answers import AnswerReader
from pmilter.client.load.figures import Figures
from pmilter.errors import LimitExceeded, MilterError, RemoteProtocolError
from pmilter.protocol.constants import ACTIONS, Action, Step
from pmilter.protocol.messages import Options
from pmilter.protocol.mta_session import MAX_CHANGES
from pmilter.protocol.rules import NAMED
from tests.support.notation import frame, parse

CHANGES = [
    r"h X-Tagged␀yes␀",
    r"m \x00\x00\x00\x01Subject␀␀",
    r"i \x00\x00\x00\x00X␀y␀",
    "b new body",
    "+ <c@example.org>␀",
    "2 <c@example.org>␀NOTIFY=NEVER␀",
    "- <b@example.org>␀",
    "e <a@example.com>␀",
    "q bad␀",
]


class Reading:
    """A reader at one stage, after an agreement on all changes or on those given."""

    def __init__(self, stage: str, *, strict: bool = True, actions: Action = ACTIONS[6]) -> None:
        self.figures = Figures()
        self.reader = AnswerReader(self.figures, strict=strict)
        self.reader.agreement = Options(6, actions, Step(0))
        self.stage = stage

    def take(self, *lines: str) -> tuple[int, bytes] | None:
        return self.receive(b"".join(map(parse, lines)))

    def receive(self, data: bytes) -> tuple[int, bytes] | None:
        return self.reader.take(data, self.stage, NAMED[self.stage].replies)


@pytest.mark.parametrize("stage", ["connect", "envrcpt", "header", "eom"])
def test_legal_reply_ends_the_answer(stage: str) -> None:
    assert Reading(stage).take("c") == (ord("c"), b"")
    assert Reading(stage).take("y 550 5.7.1 no␀") == (ord("y"), b"550 5.7.1 no\0")


@pytest.mark.parametrize(
    ("stage", "line"),
    [("connect", "d"), ("envrcpt", "s"), ("eom", "s"), ("helo", "O 6 0 0"), ("eom", "4")],
)
def test_reply_that_does_not_fit_the_stage_is_refused(stage: str, line: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"at {stage}: it is no legal answer there"):
        Reading(stage).take(line)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame("z"), id="unknown code"),
        pytest.param(frame("c", b"!"), id="payload where none belongs"),
        pytest.param(frame("y", b"250 fine\0"), id="reply code that refuses nothing"),
        pytest.param(frame("y", b"550 100%\0"), id="single percent sign"),
        pytest.param(struct.pack(">I", 0), id="no code"),
        pytest.param(struct.pack(">Ic", 1 << 31, b"c"), id="endless"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="another protocol"),
    ],
)
def test_bytes_that_are_no_answer_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Reading("eom").receive(data + b"\0" * 8)


def test_second_reply_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="more than its answer at helo"):
        Reading("helo").take("c", "c")


def test_changes_are_counted_by_kind() -> None:
    reading = Reading("eom")
    assert reading.take(*CHANGES, CHANGES[0], "a") == (ord("a"), b"")
    assert reading.figures.changes == {**dict.fromkeys(b"mib+2-eq", 1), ord("h"): 2}


@pytest.mark.parametrize("change", CHANGES)
def test_change_before_end_of_message_is_refused(change: str) -> None:
    with pytest.raises(RemoteProtocolError, match="changes are for end of message"):
        Reading("body").take(change)


@pytest.mark.parametrize("change", CHANGES)
def test_change_that_was_not_agreed_is_refused(change: str) -> None:
    with pytest.raises(RemoteProtocolError, match="was not agreed"):
        Reading("eom", actions=Action(0)).take(change)


def test_more_changes_than_anyone_needs_are_refused() -> None:
    reading = Reading("eom")
    reading.receive(parse(CHANGES[0]) * MAX_CHANGES)
    with pytest.raises(LimitExceeded):
        reading.take(CHANGES[0])


def test_bodies_larger_than_anyone_needs_are_refused() -> None:
    reading = Reading("eom")
    piece = frame("b", b"x" * 1_000_000)
    for _ in range(67):
        assert reading.receive(piece) is None
    with pytest.raises(LimitExceeded):
        reading.receive(piece)


def test_limits_are_for_each_message() -> None:
    reading = Reading("eom")
    for _ in range(2):
        reading.receive(parse(CHANGES[0]) * MAX_CHANGES)
        assert reading.take("a") is not None


def test_progress_is_counted_and_ends_nothing() -> None:
    reading = Reading("eom")
    assert reading.take("p", "p") is None
    assert reading.take("c") is not None
    assert reading.figures.progress == 2


@pytest.mark.parametrize("strict", [True, False])
def test_progress_before_end_of_message_is_for_postfix_only(strict: bool) -> None:
    reading = Reading("header", strict=strict)
    if strict:
        with pytest.raises(RemoteProtocolError, match="Postfix only"):
            reading.take("p")
    else:
        assert reading.take("p") is None


def test_progress_before_the_negotiation_is_refused() -> None:
    reading = Reading("negotiate", strict=False)
    reading.reader.agreement = None
    with pytest.raises(RemoteProtocolError):
        reading.take("p")


@given(st.lists(st.integers(0, 90), max_size=6))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    data = b"".join(map(parse, [CHANGES[0], "p", CHANGES[3], "y 451 4.7.1 wait␀"]))
    reading = Reading("eom")
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    found = [reading.receive(data[a:b]) for a, b in itertools.pairwise(edges)]
    assert found[-1] == (ord("y"), b"451 4.7.1 wait\0")
    assert not any(found[:-1])
    assert reading.figures.changes == {ord("h"): 1, ord("b"): 1}


@given(st.binary(max_size=200))
def test_garbage_is_an_answer_or_an_error_of_ours(data: bytes) -> None:
    try:
        Reading("eom").receive(data)
    except MilterError:
        pass
