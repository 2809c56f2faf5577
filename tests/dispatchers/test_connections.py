from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from pmilter.dispatchers.connections import Connections
from pmilter.dispatchers.scoreboard import Census
from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    import pytest


def test_numbers_are_counted_and_each_change_is_told() -> None:
    told: list[Census] = []
    connections = Connections(lambda: told.append(connections.census()))
    one, two = socket.socketpair()
    with one, two:
        connections.note_accepted()
        connections.enter(one)
        connections.note_denied()
        connections.leave(one)
        connections.leave(one)
    assert told == [
        Census(requests=1),
        Census(connections=1, requests=1),
        Census(connections=1, requests=1, denied=1),
        Census(requests=1, denied=1),
        Census(requests=1, denied=1),
    ]


def test_connection_that_is_noted_twice_is_one() -> None:
    connections = Connections(lambda: None)
    one, two = socket.socketpair()
    with one, two:
        connections.enter(one)
        connections.enter(one)
        assert len(connections) == 1
        connections.leave(one)
    assert not connections


def test_no_probe_is_lost_where_many_threads_count_them() -> None:
    connections = Connections(lambda: None)
    begin = threading.Barrier(8)

    def count() -> None:
        begin.wait(DEADLINE)
        for _ in range(2000):
            connections.note_probe()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert connections.census() == Census(probes=16_000)


def test_those_that_do_not_end_in_time_are_cut_off_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    connections = Connections(lambda: None)
    connections.cut_off()
    assert caplog.messages == []
    one, two = socket.socketpair()
    gone = socket.socket()
    gone.close()
    with one, two:
        connections.enter(gone)
        connections.enter(one)
        connections.cut_off()
        assert two.recv(1) == b""
    assert caplog.messages == ["cutting off 2 connections that did not end in time"]
