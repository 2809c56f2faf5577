"""Waiting, receiving and sending for many sockets at a time."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from pmilter.dispatchers.driver import LONG_READ_SIZE, READ_SIZE
from pmilter.dispatchers.traffic import AT_ONCE, Line, Traffic, send

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 10.0
"""Seconds within which what has been done must show."""


class Pair:
    """A line and its other end."""

    def __init__(self, ours: socket.socket, theirs: socket.socket) -> None:
        self.theirs = theirs
        ours.setblocking(False)
        self.line = Line(ours)

    def close(self) -> None:
        self.line.sock.close()
        self.theirs.close()


@pytest.fixture
def traffic() -> Iterator[Traffic[Line]]:
    made: Traffic[Line] = Traffic()
    yield made
    made.close()


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [Pair(*socket.socketpair()) for _ in range(AT_ONCE + 4)]
    yield made
    for pair in made:
        pair.close()


def filled(pair: Pair) -> int:
    """Send until the socket takes no more; return how many bytes it took."""
    taken = 0
    while not (unsent := send([(pair.line, b"x" * 100_000)])):
        taken += 100_000
    [(line, rest, failure)] = unsent
    assert line is pair.line
    assert failure is None
    return taken + 100_000 - len(rest)


def test_nothing_has_happened_when_the_time_is_over(
    traffic: Traffic[Line], pairs: list[Pair]
) -> None:
    traffic.add(pairs[0].line)
    assert traffic.receive(0.0) == ([], [])
    assert traffic.receive(0.001) == ([], [])


def test_what_has_arrived_comes_with_its_line(traffic: Traffic[Line], pairs: list[Pair]) -> None:
    for number, pair in enumerate(pairs[:3]):
        traffic.add(pair.line)
        pair.theirs.send(b"%d" % number)
    received, others = traffic.receive(SOON)
    assert sorted((data, line.fd) for line, data in received) == [
        (b"%d" % number, pair.line.fd) for number, pair in enumerate(pairs[:3])
    ]
    assert others == []
    assert traffic.receive(0.0) == ([], [])


def test_end_of_file_is_no_bytes(traffic: Traffic[Line], pairs: list[Pair]) -> None:
    traffic.add(pairs[0].line)
    pairs[0].theirs.close()
    assert traffic.receive(SOON) == ([(pairs[0].line, b"")], [])


def test_sockets_beyond_those_of_one_go_have_their_turn(
    traffic: Traffic[Line], pairs: list[Pair]
) -> None:
    for pair in pairs:
        traffic.add(pair.line)
        pair.theirs.send(b"x")
    seen: set[int] = set()
    while len(seen) < len(pairs):
        received, _ = traffic.receive(SOON)
        assert 0 < len(received) <= AT_ONCE
        seen |= {line.fd for line, _ in received}
    assert traffic.receive(0.0) == ([], [])


@pytest.mark.parametrize("size", [1, READ_SIZE, READ_SIZE + 1, LONG_READ_SIZE + 1])
def test_long_messages_arrive_whole_in_order_and_without_waiting(
    traffic: Traffic[Line], pairs: list[Pair], size: int
) -> None:
    traffic.add(pairs[0].line)
    message = bytes(number % 251 for number in range(size))
    pairs[0].theirs.sendall(message)
    whole = b""
    while len(whole) < size:
        [(_, data)], _ = traffic.receive(SOON)
        assert len(data) <= LONG_READ_SIZE
        whole += data
    assert whole == message


def test_watched_descriptor_is_told_of_and_not_read(traffic: Traffic[Line]) -> None:
    reader, writer = os.pipe()
    traffic.watch(reader)
    os.write(writer, b"x")
    assert traffic.receive(SOON) == ([], [(reader, None)])
    assert os.read(reader, 2) == b"x"
    traffic.unwatch(reader)
    os.write(writer, b"x")
    assert traffic.receive(0.0) == ([], [])
    os.close(reader)
    os.close(writer)


def test_forgetting_a_closed_descriptor_is_no_error(traffic: Traffic[Line]) -> None:
    reader, writer = os.pipe()
    traffic.watch(reader)
    os.close(reader)
    traffic.unwatch(reader)
    os.close(writer)


def test_removed_line_is_not_received_from(traffic: Traffic[Line], pairs: list[Pair]) -> None:
    traffic.add(pairs[0].line)
    traffic.remove(pairs[0].line)
    pairs[0].theirs.send(b"x")
    assert traffic.receive(0.0) == ([], [])


def connected_over_tcp() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    return Pair(ours, theirs)


def test_error_of_a_line_is_told_with_its_descriptor(traffic: Traffic[Line]) -> None:
    pair = connected_over_tcp()
    line, theirs = pair.line, pair.theirs
    traffic.add(line)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()  # with a reset
    received, others = traffic.receive(SOON)
    assert received == []
    [(fd, error)] = others
    assert fd == line.fd
    assert isinstance(error, ConnectionResetError)
    pair.close()


def test_messages_are_sent_each_to_its_socket(pairs: list[Pair]) -> None:
    assert send([(pairs[0].line, b"one"), (pairs[1].line, b"two")]) == []
    assert pairs[0].theirs.recv(9) == b"one"
    assert pairs[1].theirs.recv(9) == b"two"


def test_what_a_socket_does_not_take_is_given_back(pairs: list[Pair]) -> None:
    taken = filled(pairs[0])
    assert send([(pairs[0].line, b"more"), (pairs[1].line, b"fits")]) == [
        (pairs[0].line, b"more", None)
    ]
    assert pairs[1].theirs.recv(9) == b"fits"
    left = taken
    while left:
        left -= len(pairs[0].theirs.recv(left))
    assert send([(pairs[0].line, b"more")]) == []


def test_error_of_sending_concerns_its_socket_alone(pairs: list[Pair]) -> None:
    pairs[0].theirs.close()
    [(line, rest, failure)] = send([(pairs[0].line, b"lost"), (pairs[1].line, b"fits")])
    assert (line, rest) == (pairs[0].line, b"lost")
    assert isinstance(failure, BrokenPipeError)
    assert pairs[1].theirs.recv(9) == b"fits"


def test_paused_line_is_told_of_when_it_takes_bytes_again(
    traffic: Traffic[Line], pairs: list[Pair]
) -> None:
    pair = pairs[0]
    traffic.add(pair.line)
    taken = filled(pair)
    traffic.pause(pair.line)
    pair.theirs.send(b"unseen")
    assert traffic.receive(0.0) == ([], [])
    while taken:
        taken -= len(pair.theirs.recv(taken))
    assert traffic.receive(SOON) == ([], [(pair.line.fd, None)])
    traffic.go_on(pair.line)
    assert traffic.receive(SOON) == ([(pair.line, b"unseen")], [])
