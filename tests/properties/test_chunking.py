"""Law: however a stream is cut, the same comes out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pmilter.errors import RemoteProtocolError
from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.frames import FrameReader
from pmilter.protocol.messages import Continue, Eom, Message, Options
from pmilter.protocol.mta_session import MtaSession
from tests.conformance.recordings import RECORDINGS, Recording
from tests.properties.strategies import ANSWERS, COMMANDS, cuts

if TYPE_CHECKING:
    from collections.abc import Iterable

SMALL = [recording for recording in RECORDINGS if len(recording.events) < 80]


def frames_of(pieces: Iterable[bytes]) -> list[tuple[int, bytes] | str]:
    """Return the frames that come out of the pieces, and what refused the rest, if anything did."""
    reader = FrameReader(limit=1000)
    frames: list[tuple[int, bytes] | str] = []
    for piece in pieces:
        reader.feed(piece)
        try:
            frames.extend(iter(reader.next_frame, None))
        except RemoteProtocolError as error:
            return [*frames, type(error).__name__]
    return frames


@given(st.data(), st.lists(COMMANDS | ANSWERS, max_size=8))
def test_same_frames(data: st.DataObject, messages: list[Message]) -> None:
    stream = b"".join(message.encode() for message in messages)
    expected = [(message.code, message.payload()) for message in messages]
    assert frames_of(data.draw(cuts(stream))) == expected


@given(st.data(), st.binary(max_size=60) | st.just(b"\0\0\0\x01T\0\0\0\0Q"))
def test_same_frames_and_same_refusal_of_noise(data: st.DataObject, stream: bytes) -> None:
    assert frames_of(data.draw(cuts(stream))) == frames_of([stream])


def commands_of(recording: Recording, pieces: Iterable[bytes]) -> list[Message]:
    """Return what a filter that agrees to what was agreed, and answers `c`, sees of these pieces."""
    session = FilterSession()
    answer = Options.decode(recording.events[1][1][5:])
    commands = []
    for piece in pieces:
        session.receive(piece)
        while (command := session.next_command()) is not None:
            commands.append(command)
            if isinstance(command, Options):
                session.negotiate(answer)
            elif session.due:
                session.reply(Continue())
    return commands


@given(st.data(), st.sampled_from(SMALL))
def test_same_commands(data: st.DataObject, recording: Recording) -> None:
    stream = b"".join(frame for side, frame in recording.events if side == "mta")
    frames = [frame for side, frame in recording.events if side == "mta"]
    pieces = data.draw(cuts(stream))
    assert commands_of(recording, pieces) == commands_of(recording, frames)


@given(st.data(), st.lists(ANSWERS, max_size=5))
def test_same_answers(data: st.DataObject, answers: list[Message]) -> None:
    stream = b"".join(answer.encode() for answer in answers) + b"\0\0\0\x01a"
    assert answers_of(data.draw(cuts(stream))) == answers_of([stream])


def answers_of(pieces: Iterable[bytes]) -> list[Message | str]:
    """Return what an MTA that waits at end of message sees of these pieces, and what ends it."""
    session = MtaSession()
    session.open()
    session.receive(Options(6, 0xFF, 0x37F).encode())
    session.next_answer()
    session.send(Eom())
    answers: list[Message | str] = []
    for piece in pieces:
        session.receive(piece)
        try:
            answers.extend(iter(session.next_answer, None))
        except RemoteProtocolError as error:
            return [*answers, str(error)]
    return answers
