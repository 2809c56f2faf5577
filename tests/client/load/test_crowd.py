from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.address import parse_address
from pmilter.client.load.crowd import Crowd
from pmilter.client.load.figures import Figures
from pmilter.client.load.plan import Plan
from pmilter.errors import ConnectionClosed, LimitExceeded, NegotiationError, RemoteProtocolError
from tests.support.notation import frame, parse, show
from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pmilter.client.load.connection import Connection


class Filter:
    """A filter's listening socket, and a crowd that connects to it."""

    def __init__(self, family: int, name: Any, **changes: Any) -> None:
        self.listener = socket.socket(family)
        self.listener.bind(name)
        self.listener.settimeout(DEADLINE)
        self.listener.listen(changes.pop("backlog", 8))
        if family == socket.AF_UNIX:
            self.address = f"unix:{name}"
        else:
            self.address = f"inet:{self.listener.getsockname()[1]}@127.0.0.1"
        usual: dict[str, Any] = {"message": b"Subject: x\r\n\r\n", "connections": 12, "timeout": 5}
        self.figures = Figures()
        address = parse_address(self.address)
        self.crowd = Crowd(Plan(address=address, **(usual | changes)), self.figures)

    def accept(self) -> socket.socket:
        sock, _ = self.listener.accept()
        sock.settimeout(DEADLINE)
        return sock

    def connection(self, now: int = 1) -> Connection:
        """Open a connection, as far as that goes at once."""
        before = set(self.crowd)
        self.crowd.open(now, now)
        [connection] = set(self.crowd) - before
        return connection

    def close(self) -> None:
        self.crowd.close_all()
        self.listener.close()


@pytest.fixture
def filter_(tmp_path: Path) -> Iterator[Filter]:
    made = Filter(socket.AF_UNIX, str(tmp_path / "socket"))
    yield made
    made.close()


def test_new_connection_says_its_offer(filter_: Filter) -> None:
    connection = filter_.connection(now=7)
    with filter_.accept() as sock:
        assert show(sock.recv(100)) == "O 6 1ff 1fffff"
    assert (connection.due, connection.opened) == (7, 7)
    assert filter_.crowd.find(connection.fd) is connection
    assert (len(filter_.crowd), filter_.crowd.room) == (1, 11)


def test_offer_over_tcp_is_sent_when_the_connection_is_made() -> None:
    made = Filter(socket.AF_INET, ("127.0.0.1", 0))
    connection = made.connection()
    with made.accept() as sock:
        if connection.connecting:
            assert made.crowd.poller.wait(DEADLINE) == [(connection.fd, 4)]
            made.crowd.go_on(connection)
        assert show(sock.recv(100)) == "O 6 1ff 1fffff"
    made.close()


def test_connection_that_is_refused_is_unreachable(filter_: Filter) -> None:
    filter_.listener.close()
    filter_.crowd.open(1, 1)
    assert len(filter_.crowd) == 0
    assert filter_.figures.reasons == {
        "unreachable": f"{filter_.address}: Connection refused (is the filter running?)"
    }


def test_full_backlog_is_knocked_at_until_there_is_room(tmp_path: Path) -> None:
    made = Filter(socket.AF_UNIX, str(tmp_path / "socket"), backlog=0)
    first, second = made.connection(), made.connection()
    assert made.crowd.knocking == [second]
    made.crowd.knock()
    assert made.crowd.knocking == [second]
    with made.accept():
        made.crowd.knock()
        assert made.crowd.knocking == []
        with made.accept() as sock:
            assert show(sock.recv(100)) == "O 6 1ff 1fffff"
    assert set(made.crowd) == {first, second}
    made.close()


def test_closed_connection_knocks_no_more(tmp_path: Path) -> None:
    made = Filter(socket.AF_UNIX, str(tmp_path / "socket"), backlog=0)
    made.connection()
    made.crowd.close(made.connection())
    made.crowd.knock()
    assert made.crowd.knocking == []
    made.close()


def test_what_there_is_no_room_for_is_sent_later(filter_: Filter) -> None:
    connection = filter_.connection()
    data = bytes(range(256)) * 8000
    with filter_.accept() as sock:
        offer = sock.recv(100)
        filter_.crowd.send(connection, data)
        assert connection.unsent is not None
        assert connection.fast is None
        received = b""
        while len(received) < len(data):
            received += sock.recv(1_000_000)
            for _ in filter_.crowd.poller.wait(0.01):
                filter_.crowd.go_on(connection)
    assert offer
    assert received == data
    assert connection.unsent is None


def test_leaving_says_the_parting_words(filter_: Filter) -> None:
    connection = filter_.connection()
    with filter_.accept() as sock:
        sock.recv(100)
        filter_.crowd.leave(connection, parse("Q"))
        assert sock.recv(100) == parse("Q")
        assert sock.recv(100) == b""
    assert len(filter_.crowd) == 0
    assert filter_.figures.failures == {}


def test_surplus_at_the_end_is_a_failure(filter_: Filter) -> None:
    connection = filter_.connection()
    with filter_.accept() as sock:
        sock.sendall(frame("c"))
        filter_.crowd.leave(connection, parse("Q"))
    assert filter_.figures.failures == {"protocol": 1}


def test_filter_that_closes_first_may_do_so(filter_: Filter) -> None:
    connection = filter_.connection()
    filter_.accept().close()
    filter_.crowd.leave(connection, parse("Q"))
    assert filter_.figures.failures == {}


def test_sending_to_a_filter_that_is_gone_is_a_failure(filter_: Filter) -> None:
    connection = filter_.connection()
    filter_.accept().close()
    filter_.crowd.send(connection, parse("Q"))
    assert filter_.figures.reasons == {"closed": "connection lost at negotiate: Broken pipe"}
    assert len(filter_.crowd) == 0


def test_resting_ones_are_dismissed(filter_: Filter) -> None:
    connection = filter_.connection()
    connection.parting = parse("Q")
    filter_.crowd.resting.append(connection)
    with filter_.accept() as sock:
        sock.recv(100)
        filter_.crowd.dismiss()
        assert sock.recv(100) == parse("Q")
    assert filter_.crowd.resting == []


def test_resting_one_that_fails_rests_no_more(filter_: Filter) -> None:
    connection = filter_.connection()
    filter_.crowd.resting.append(connection)
    filter_.crowd.fail(connection, ConnectionClosed("gone"))
    assert filter_.crowd.resting == []


def test_only_those_that_owe_an_answer_time_out(filter_: Filter) -> None:
    late, early = filter_.connection(now=10), filter_.connection(now=20)
    filter_.crowd.give_up_silent(since=15)
    assert set(filter_.crowd) == {early}
    assert filter_.figures.reasons == {"timeout": "no answer at negotiate within 5 s"}
    for line in ("O 6 1ff 0", "c", "c"):  # the greeting is over, and nothing is asked
        early.answered(parse(line), 20)
    filter_.crowd.give_up_silent(since=30)
    assert set(filter_.crowd) == {early}
    assert late.sock.fileno() == -1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionClosed("x"), "closed"),
        (RemoteProtocolError("x"), "protocol"),
        (NegotiationError("x"), "protocol"),
        (LimitExceeded("x"), "limit"),
        (ConnectionResetError(104, "x"), "closed"),
    ],
)
def test_errors_are_sorted(filter_: Filter, error: Exception, kind: str) -> None:
    filter_.crowd.fail(filter_.connection(), error)
    assert filter_.figures.failures == {kind: 1}


def test_it_is_hopeless_after_as_many_failures_in_a_row_as_connections(filter_: Filter) -> None:
    signs = []
    for number in range(24):
        if number == 12:  # a message has come through
            filter_.crowd.failures_in_a_row = 0
        filter_.crowd.fail(filter_.connection(), ConnectionClosed("x"))
        filter_.accept().close()
        signs.append(filter_.crowd.hopeless)
    assert signs == ([False] * 11 + [True]) * 2
