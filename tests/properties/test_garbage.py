"""Law: whatever a peer sends, it is understood or refused with one of our own errors, and costs no more than it brought."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from pmilter.errors import LimitExceeded, NegotiationError, RemoteProtocolError
from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.frames import FrameReader, encode_frame
from pmilter.protocol.messages import Continue, Eom, Options
from pmilter.protocol.mta_session import MtaSession
from tests.conformance.recordings import RECORDINGS

CODES = st.sampled_from(b"ABCDEHKLMNOQRTUacdrstyphimb+-2eq4fl\0\xff")
FRAMES = st.builds(encode_frame, CODES, st.binary(max_size=30))
NOISE = st.one_of(
    st.binary(max_size=100),
    st.lists(FRAMES, max_size=20).map(b"".join),
    st.tuples(st.lists(FRAMES, max_size=5).map(b"".join), st.binary(max_size=20)).map(b"".join),
)
OFFER = Options(6, 0x1FF, 0x1FFFFF).encode()


@st.composite
def damaged_recordings(draw: st.DrawFn) -> bytes:
    """Return what an MTA once said, with one byte changed, left out or put in."""
    recording = draw(st.sampled_from([r for r in RECORDINGS if len(r.events) < 80]))
    stream = b"".join(frame for side, frame in recording.events if side == "mta")
    place = draw(st.integers(0, min(len(stream), 1500)))
    removed = draw(st.integers(0, 2))
    return stream[:place] + draw(st.binary(max_size=2)) + stream[place + removed :]


def read_as_filter(stream: bytes) -> FilterSession:
    """Feed a filter that answers everything with `c`, until it refuses."""
    session = FilterSession()
    try:
        session.receive(stream)
        while (command := session.next_command()) is not None:
            if isinstance(command, Options):
                if command.version < 2:
                    raise RemoteProtocolError("refused, as the negotiation does")
                session.negotiate(Options(min(command.version, 6), 0, 0))
            elif session.due:
                session.reply(Continue())
    except (RemoteProtocolError, LimitExceeded):
        pass
    return session


def read_as_mta(stream: bytes) -> MtaSession:
    """Feed an MTA that waits at end of message, until it refuses."""
    session = MtaSession(max_changes=10, max_change_bytes=200)
    session.open()
    session.receive(Options(6, 0xFF, 0x37F).encode())
    session.next_answer()
    session.send(Eom())
    try:
        session.receive(stream)
        while session.next_answer() is not None:
            pass
    except (RemoteProtocolError, LimitExceeded):
        pass
    return session


@given(NOISE)
def test_filter_understands_or_refuses(noise: bytes) -> None:
    read_as_filter(noise)


@given(NOISE)
def test_filter_understands_or_refuses_after_a_good_negotiation(noise: bytes) -> None:
    read_as_filter(OFFER + noise)


@given(damaged_recordings())
def test_filter_understands_or_refuses_a_damaged_dialogue(stream: bytes) -> None:
    read_as_filter(stream)


@given(NOISE)
def test_mta_understands_or_refuses(noise: bytes) -> None:
    read_as_mta(noise)


@given(NOISE)
def test_mta_understands_or_refuses_an_answer_to_its_offer(noise: bytes) -> None:
    session = MtaSession()
    session.open()
    session.receive(noise)
    try:
        session.next_answer()
    except (RemoteProtocolError, NegotiationError):
        assert session.agreement is None


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_reader_holds_no_more_than_it_was_fed(pieces: list[bytes]) -> None:
    reader = FrameReader()
    fed = 0
    for piece in pieces:
        reader.feed(piece)
        fed += len(piece)
        try:
            while (frame := reader.next_frame()) is not None:
                fed -= 5 + len(frame[1])
        except RemoteProtocolError:
            break
        assert reader.pending == fed


def test_memory_is_bounded_by_what_was_received() -> None:
    begun = [b"\0\x0f\xff\xff" + bytes((code,)) + b"x\0" * 20_000 for code in range(256)]
    whole = [encode_frame(code, b"x\0" * 20_000) for code in b"CHMRULBED"]
    tracemalloc.start()
    try:
        for stream in (*begun, *whole):
            before, _ = tracemalloc.get_traced_memory()
            session = read_as_filter(OFFER + stream)
            after, _ = tracemalloc.get_traced_memory()
            assert after - before < 3 * len(stream), stream[:16]
            del session
    finally:
        tracemalloc.stop()
