"""Law: what is encoded is decoded to the same, and what can be decoded can be encoded again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pmilter.errors import RemoteProtocolError
from pmilter.protocol.frames import FrameReader, encode_frame
from pmilter.protocol.messages import ANSWERS as ANSWER_TYPES
from pmilter.protocol.messages import COMMANDS as COMMAND_TYPES
from pmilter.protocol.messages import Message, decode_answer, decode_command
from tests.properties.strategies import ANSWERS, COMMANDS


@given(COMMANDS)
def test_decoding_undoes_encoding_of_every_command(command: Message) -> None:
    assert decode_command(command.code, command.payload()) == command


@given(ANSWERS)
def test_decoding_undoes_encoding_of_every_answer(answer: Message) -> None:
    assert decode_answer(answer.code, answer.payload()) == answer


@given(COMMANDS | ANSWERS)
def test_encoded_message_is_one_frame(message: Message) -> None:
    reader = FrameReader()
    reader.feed(message.encode())
    assert reader.next_frame() == (message.code, message.payload())
    assert reader.clean


PAYLOADS = st.binary(max_size=30) | st.lists(
    st.sampled_from([b"\0", b"a", b"550 ", b"C", b"\0\0\0\x01"]), max_size=8
).map(b"".join)


@given(st.sampled_from(sorted(COMMAND_TYPES)), PAYLOADS)
def test_command_that_can_be_read_can_be_written(code: int, payload: bytes) -> None:
    try:
        command = decode_command(code, payload)
    except RemoteProtocolError:
        return
    assert decode_command(code, command.payload()) == command


@given(st.sampled_from(sorted(ANSWER_TYPES)), PAYLOADS)
def test_answer_that_can_be_read_can_be_written(code: int, payload: bytes) -> None:
    try:
        answer = decode_answer(code, payload)
    except RemoteProtocolError:
        return
    assert decode_answer(code, answer.payload()) == answer


@given(st.integers(0, 255), st.binary(max_size=30))
def test_encoded_frame_is_read_back(code: int, payload: bytes) -> None:
    reader = FrameReader()
    reader.feed(encode_frame(code, payload))
    assert reader.next_frame() == (code, payload)
