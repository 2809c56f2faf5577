"""What real MTAs and filters said to each other, replayed through both ends."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest

from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.messages import (
    CHANGES,
    Message,
    Options,
    Progress,
    decode_answer,
    decode_command,
)
from pmilter.protocol.mta_session import MtaSession
from pmilter.protocol.rules import State
from tests.conformance.recordings import RECORDINGS, Recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Cut = Callable[[list[bytes]], Iterable[bytes]]


def as_recorded(frames: list[bytes]) -> Iterable[bytes]:
    return frames


def in_one_piece(frames: list[bytes]) -> Iterable[bytes]:
    return [b"".join(frames)]


def byte_by_byte(frames: list[bytes]) -> Iterable[bytes]:
    return (bytes((byte,)) for frame in frames for byte in frame)


CUTS = [as_recorded, in_one_piece, byte_by_byte]


def answer_from(frame: bytes) -> Message:
    return decode_answer(frame[4], frame[5:])


class FilterReplay:
    """A filter that says what was recorded, when it was recorded."""

    def __init__(self, recording: Recording) -> None:
        self.session = FilterSession()
        self.answers = deque(answer_from(f) for side, f in recording.events if side == "filter")
        self.seen: list[str] = []
        """Letters of the commands, those of macros left out."""
        self.sent = b""

    def receive(self, data: bytes) -> None:
        self.session.receive(data)
        while (command := self.session.next_command()) is not None:
            self.seen.append(chr(command.code))
            while self.session.due and self.answers:
                self.say(self.answers.popleft())
            if self.session.due:
                break  # the recorded filter died without an answer

    def say(self, answer: Message) -> None:
        if isinstance(answer, Options):
            self.session.negotiate(answer)
        elif answer.code in CHANGES:
            self.session.change(answer)
        elif isinstance(answer, Progress):
            self.sent += self.session.take() + answer.encode()
        else:
            self.session.reply(answer)
        self.sent += self.session.take()


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_filter_session_follows_the_recording(recording: Recording, cut: Cut) -> None:
    replay = FilterReplay(recording)
    for side, frames in recording.runs():
        if side == "mta":
            for piece in cut(frames):
                replay.receive(piece)
        elif replay.session.state is not State.CLOSED:  # Sendmail::PMilter answers even Q
            assert replay.sent == b"".join(frames)
            replay.sent = b""
    assert replay.seen == [
        letter for letter in recording.letters.split() if letter != "D" and letter[0] != "<"
    ]
    assert not replay.session.mid_frame


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.__name__)
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_mta_session_follows_the_recording(recording: Recording, cut: Cut) -> None:
    offer = decode_command(ord("O"), recording.events[0][1][5:])
    assert isinstance(offer, Options)
    session = MtaSession(offer)
    for side, frames in recording.runs():
        if side == "mta":
            for frame in frames:
                session.send(decode_command(frame[4], frame[5:]))
                assert session.take() == frame
        elif session.state is not State.CLOSED:
            answers: list[Message | None] = []
            for piece in cut(frames):
                session.receive(piece)
                answers += iter(session.next_answer, None)
            assert [answer.encode() for answer in answers if answer] == frames
            assert not session.reply_due


def ends_open(recording: Recording) -> bool:
    """Tell whether a recording ends before Q, with a verdict on the connection or in the middle of a message."""
    return not any(frame[4:5] == b"Q" for _, frame in recording.events)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
def test_both_ends_are_in_the_same_state_at_the_end(recording: Recording) -> None:
    replay = FilterReplay(recording)
    mta = MtaSession()
    for side, frame in recording.events:
        if side == "mta":
            replay.receive(frame)
            mta.send(decode_command(frame[4], frame[5:]))
        else:
            mta.receive(frame)
            mta.next_answer()
    assert replay.session.state is mta.state
    assert (mta.state is not State.CLOSED) is ends_open(recording)


def test_all_recordings_are_here() -> None:
    assert len(RECORDINGS) == 60
    assert sum(len(recording.events) for recording in RECORDINGS) > 2500
