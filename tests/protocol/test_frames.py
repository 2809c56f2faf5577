"""Framing: whole frames, pieces, bad lengths, foreign protocols, and what it all costs."""

from __future__ import annotations

import tracemalloc
from typing import SupportsIndex

import pytest

from pmilter.errors import RemoteProtocolError
from pmilter.protocol.frames import (
    DEFAULT_LIMIT,
    HEADER_SIZE,
    FrameReader,
    encode_frame,
    looks_like,
)

HELO = b"\x00\x00\x00\x04Hab\x00"
DATA = b"\x00\x00\x00\x01T"


def drain(reader: FrameReader) -> list[tuple[int, bytes]]:
    return list(iter(reader.next_frame, None))


def refusal(data: bytes, limit: int = DEFAULT_LIMIT) -> str:
    reader = FrameReader(limit)
    reader.feed(data)
    with pytest.raises(RemoteProtocolError) as caught:
        reader.next_frame()
    return str(caught.value)


def test_encoded_frame_counts_the_code_and_not_the_length() -> None:
    assert encode_frame(0x48, b"ab\x00") == HELO
    assert encode_frame(0x54) == DATA


def test_header_is_five_bytes_and_the_default_limit_the_largest_negotiable_size() -> None:
    assert (HEADER_SIZE, DEFAULT_LIMIT) == (5, 1048575)


def test_frames_come_out_in_order() -> None:
    reader = FrameReader()
    reader.feed(HELO + DATA + HELO)
    assert drain(reader) == [(0x48, b"ab\x00"), (0x54, b""), (0x48, b"ab\x00")]


def test_nothing_comes_out_of_nothing() -> None:
    assert FrameReader().next_frame() is None


def test_empty_piece_changes_nothing() -> None:
    reader = FrameReader()
    reader.feed(b"")
    assert reader.next_frame() is None
    assert reader.clean


@pytest.mark.parametrize("cut", range(1, len(HELO + DATA)))
def test_frames_survive_any_single_cut(cut: int) -> None:
    stream = HELO + DATA
    reader = FrameReader()
    frames = []
    for piece in (stream[:cut], stream[cut:]):
        reader.feed(piece)
        frames += drain(reader)
    assert frames == [(0x48, b"ab\x00"), (0x54, b"")]
    assert reader.clean


def test_frames_survive_being_fed_byte_by_byte() -> None:
    reader = FrameReader()
    frames = []
    for byte in HELO + DATA + HELO:
        reader.feed(bytes((byte,)))
        frames += drain(reader)
    assert frames == [(0x48, b"ab\x00"), (0x54, b""), (0x48, b"ab\x00")]


def test_bytes_fed_before_older_frames_were_taken_are_not_lost() -> None:
    reader = FrameReader()
    reader.feed(HELO + DATA)
    assert reader.next_frame() == (0x48, b"ab\x00")
    reader.feed(HELO)
    assert drain(reader) == [(0x54, b""), (0x48, b"ab\x00")]


def test_reader_is_clean_between_frames_only() -> None:
    reader = FrameReader()
    seen = [reader.clean]
    reader.feed(HELO[:3])
    reader.next_frame()
    seen.append(reader.clean)
    reader.feed(HELO[3:7])
    reader.next_frame()
    seen.append(reader.clean)
    reader.feed(HELO[7:])
    reader.next_frame()
    seen.append(reader.clean)
    assert seen == [True, False, False, True]


def test_reader_is_not_clean_while_a_whole_frame_waits() -> None:
    reader = FrameReader()
    reader.feed(HELO)
    assert not reader.clean


def test_pending_counts_what_was_received_and_not_handed_out() -> None:
    reader = FrameReader()
    reader.feed(HELO + DATA[:2])
    counts = [reader.pending]
    reader.next_frame()
    counts.append(reader.pending)
    reader.next_frame()
    counts.append(reader.pending)
    reader.feed(DATA[2:])
    counts.append(reader.pending)
    reader.next_frame()
    counts.append(reader.pending)
    assert counts == [10, 2, 2, 5, 0]


def test_payload_may_be_as_large_as_the_limit() -> None:
    reader = FrameReader(limit=4)
    reader.feed(b"\x00\x00\x00\x05Babcd")
    assert reader.next_frame() == (0x42, b"abcd")


def test_payload_above_the_limit_is_refused_as_soon_as_it_is_announced() -> None:
    message = refusal(b"\x00\x00\x00\x06B", limit=4)
    assert "5 bytes" in message
    assert "limit is 4" in message


@pytest.mark.parametrize(
    "length", [b"\x00\x10\x00\x01", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff\xff\xff"]
)
def test_huge_and_negative_lengths_are_refused(length: bytes) -> None:
    assert "limit is 1048575" in refusal(length + b"c")


def test_largest_default_length_is_waited_for() -> None:
    reader = FrameReader()
    reader.feed(b"\x00\x10\x00\x00B")
    assert reader.next_frame() is None


def test_length_zero_is_refused_and_the_reason_given() -> None:
    assert "length 0" in refusal(b"\x00\x00\x00\x00Q")


def test_length_is_judged_only_with_the_code() -> None:
    reader = FrameReader()
    reader.feed(b"\xff\xff\xff\xff")
    assert reader.next_frame() is None
    reader.feed(b"c")
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()


@pytest.mark.parametrize("size", [1, 3, 64])
def test_bad_length_is_refused_however_it_is_cut(size: int) -> None:
    frames: list[tuple[int, bytes]] = []
    with pytest.raises(RemoteProtocolError):
        read_in_pieces(HELO + b"\x00\x00\x00\x00Q", size, frames)
    assert frames == [(0x48, b"ab\x00")]


def read_in_pieces(stream: bytes, size: int, frames: list[tuple[int, bytes]]) -> None:
    reader = FrameReader()
    for start in range(0, len(stream), size):
        reader.feed(stream[start : start + size])
        frames.extend(iter(reader.next_frame, None))


def test_stream_stays_refused_after_a_bad_length() -> None:
    reader = FrameReader()
    reader.feed(b"\x00\x00\x00\x00Q" + HELO)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            reader.next_frame()


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"POST /x HTTP/1.1", "HTTP"),
        (b"PRI * HTTP/2.0\r\n", "HTTP/2"),
        (b"HTTP/1.1 400 Bad", "HTTP response"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"EHLO client.exam", "SMTP client"),
        (b"HELO client.exam", "SMTP client"),
        (b"LHLO client.exam", "LMTP client"),
        (b"220 mx.example.n", "SMTP server"),
        (b"220-mx.example.n", "SMTP server"),
        (b"PROXY TCP4 192.0", "PROXY protocol"),
        (b"SSH-2.0-OpenSSH_", "SSH"),
        (b"request=smtpd_ac", "policy protocol"),
        (b"Traceback (most ", "text"),
    ],
)
def test_foreign_protocols_are_named(head: bytes, word: str) -> None:
    message = refusal(head)
    assert "not the milter protocol" in message
    assert word in message


def test_foreign_protocol_is_named_from_five_bytes() -> None:
    with pytest.raises(RemoteProtocolError, match="HTTP"):
        read_in_pieces(b"GET / HTTP/1.1", 1, [])


def test_text_after_a_good_frame_is_hinted_at_beside_the_size() -> None:
    message = refusal_after_a_frame(b"Warning: something went wrong\n")
    assert "limit is" in message
    assert "text" in message


def refusal_after_a_frame(data: bytes) -> str:
    reader = FrameReader()
    reader.feed(HELO + data)
    reader.next_frame()
    with pytest.raises(RemoteProtocolError) as caught:
        reader.next_frame()
    return str(caught.value)


@pytest.mark.parametrize("head", [b"", b"\x00\x00\x00\x0dO", b"\xff\xff\xff\xffc", b"abc"])
def test_milter_and_noise_look_like_nothing_known(head: bytes) -> None:
    assert looks_like(head) is None


def test_announced_length_allocates_nothing() -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        reader.feed(b"\x00\x0f\xff\xffB")
        reader.next_frame()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4096


class CountedBytes(bytes):
    """Bytes that count how many of them are copied by joining and slicing."""

    copied = 0

    def __add__(self, other: bytes) -> CountedBytes:  # type: ignore[override]  # narrower on purpose
        CountedBytes.copied += len(self) + len(other)
        return CountedBytes(bytes(self) + bytes(other))

    def __radd__(self, other: object) -> CountedBytes:
        if not isinstance(other, bytes):
            return NotImplemented  # a bytearray grows in place
        CountedBytes.copied += len(self) + len(other)
        return CountedBytes(other + bytes(self))

    def __getitem__(self, key: SupportsIndex | slice) -> CountedBytes | int:  # type: ignore[override]  # narrower on purpose
        part = bytes(self)[key]
        if isinstance(part, int):
            return part
        CountedBytes.copied += len(part)
        return CountedBytes(part)


class CountingReader(FrameReader):
    """A reader that counts the bytes it moves to its growing buffer."""

    moved = 0

    def _keep(self, data: bytes, start: int) -> None:
        self.moved += len(data) - start
        super()._keep(data, start)


def copies(stream: bytes, size: int) -> int:
    """Return how many bytes are copied while a stream is read in pieces of a size."""
    reader = CountingReader()
    CountedBytes.copied = 0
    frames = 0
    for start in range(0, len(stream), size):
        reader.feed(CountedBytes(stream[start : start + size]))
        frames += len(drain(reader))
    assert reader.clean
    return CountedBytes.copied + reader.moved


@pytest.mark.source_only("it counts within a subclass, which a compiled class cannot have")
def test_one_frame_in_many_tiny_pieces_is_not_copied_again_and_again() -> None:
    stream = b"\x00\x00\x40\x01B" + b"x" * 0x4000
    assert copies(stream, 1) < 2 * len(stream)


@pytest.mark.source_only("it counts within a subclass, which a compiled class cannot have")
def test_many_frames_in_one_piece_are_copied_once() -> None:
    stream = HELO * 2000
    assert copies(stream, len(stream)) <= len(stream)


@pytest.mark.source_only("it counts within a subclass, which a compiled class cannot have")
@pytest.mark.parametrize("size", [2, 7, 11, 1000])
def test_frames_across_many_pieces_are_copied_a_few_times_at_most(size: int) -> None:
    stream = (HELO + DATA) * 1000
    assert copies(stream, size) < 4 * len(stream)


def test_frames_can_be_had_as_they_come() -> None:
    reader = FrameReader()
    assert list(reader.split(HELO)) == [(0x48, b"ab\x00")]
    assert list(reader.split(DATA + HELO + DATA[:2])) == [(0x54, b""), (0x48, b"ab\x00")]
    assert reader.partial
    assert list(reader.split(DATA[2:] + DATA)) == [(0x54, b""), (0x54, b"")]
    assert not reader.partial
    assert reader.next_frame() is None


def test_what_is_wrong_after_whole_frames_is_told_beside_them() -> None:
    reader = FrameReader()
    assert list(reader.split(DATA + b"\0\0\0\0T")) == [(0x54, b"")]
    assert reader.fault is not None
    assert list(reader.split(DATA)) == []
