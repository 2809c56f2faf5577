from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pmilter.address import parse_address
from pmilter.client.load.connection import Connection, Scripts
from pmilter.client.load.figures import Figures
from pmilter.client.load.plan import Plan
from pmilter.client.load.script import Ending, Turn
from pmilter.errors import ConnectionClosed, NegotiationError, RemoteProtocolError
from tests.support.notation import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = parse("O 6 1ff 0")
PLAN = Plan(
    address=parse_address("/run/filter"), message=b"Subject: x\r\n\r\nhello\r\n", messages=3
)


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def connection(figures: Figures) -> Iterator[Connection]:
    with socket.socket() as sock:
        yield Connection(sock, PLAN, Scripts(PLAN), figures, now=1000)


def greeted(connection: Connection) -> Connection:
    for line in (ALL, parse("c"), parse("c")):
        connection.answered(line, 2000)
    return connection


def test_answer_to_the_offer_leads_to_the_greeting(
    connection: Connection, figures: Figures
) -> None:
    assert connection.stage == "negotiate"
    turn = connection.answered(ALL, 6000)
    assert isinstance(turn, Turn)
    assert (turn.stage, connection.stage) == ("connect", "connect")
    assert figures.connections == 1
    assert figures.agreed == (6, 0x1FF, 0)
    assert figures.latency["negotiate"].most == 5000


def test_greeting_ends_with_the_connection_at_rest(connection: Connection) -> None:
    rests = []
    for line in (ALL, parse("c"), parse("c")):
        following = connection.answered(line, 2000)
        rests.append(connection.resting)
    assert rests == [False, False, True]
    assert isinstance(following, Ending)
    assert connection.parting.endswith(parse("Q"))


def test_message_is_begun_and_answered_turn_by_turn(
    connection: Connection, figures: Figures
) -> None:
    first = greeted(connection).begin(3000)
    assert (first.stage, connection.begun, connection.left) == ("envfrom", 3000, 2)
    assert connection.fast is first.next
    connection.asked = 3000
    following = connection.answered(parse("c"), 3400)
    assert isinstance(following, Turn)
    assert following is first.next
    assert figures.latency["envfrom"].most == 400
    assert figures.answers == {}


def test_other_answers_than_continue_are_counted(connection: Connection, figures: Figures) -> None:
    greeted(connection).begin(3000)
    connection.answered(parse("y 451 4.7.1 wait␀"), 3400)
    assert figures.answers == {("envfrom", "replycode 4xx"): 1}


def test_nothing_is_fast_in_the_middle_of_an_answer(connection: Connection) -> None:
    greeted(connection).begin(3000)
    assert connection.answered(parse("c")[:3], 3100) is None
    assert connection.fast is None
    assert isinstance(connection.answered(parse("c")[3:], 3100), Turn)
    assert connection.fast is not None


def test_end_of_file_is_told_with_the_stage(connection: Connection) -> None:
    greeted(connection).begin(3000)
    with pytest.raises(ConnectionClosed, match="at envfrom"):
        connection.answered(b"", 3100)


def test_bytes_between_messages_are_unasked(connection: Connection) -> None:
    with pytest.raises(RemoteProtocolError, match="unasked at the end of a message"):
        greeted(connection).answered(parse("c"), 3000)


def test_answer_before_the_command_is_sent_is_unasked(connection: Connection) -> None:
    greeted(connection).begin(3000)
    connection.unsent = memoryview(b"rest")
    with pytest.raises(RemoteProtocolError, match="unasked at envfrom"):
        connection.answered(parse("c"), 3100)


def test_illegal_answer_to_the_offer_is_refused(connection: Connection) -> None:
    with pytest.raises(NegotiationError):
        connection.answered(parse("O 9 0 0"), 2000)


def test_script_is_made_once_for_each_answer() -> None:
    scripts = Scripts(PLAN)
    assert scripts.find(ALL) is scripts.find(ALL)
    assert scripts.find(ALL) is not scripts.find(parse("O 2 0 0"))


def test_filter_that_negotiates_at_random_fills_no_memory() -> None:
    scripts = Scripts(PLAN)
    for actions in range(64):
        scripts.find(parse(f"O 6 {actions:x} 0"))
    late = parse("O 6 1ff 20")
    assert scripts.find(late) is not scripts.find(late)
