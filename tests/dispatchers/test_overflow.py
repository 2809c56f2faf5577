"""Connections over `max_children`, over every dispatcher that serves several at a time."""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Limits, Milter
from pmilter.dispatchers.handling import REFUSAL_TIME
from pmilter.dispatchers.overflow import REFUSALS, Place, Places, check_overflow
from tests.support.playbook import filter_of, returns
from tests.support.processes import DEADLINE
from tests.support.service import CONCURRENT, Service, dispatcher_of, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.wire import Wire

LIMITED = tuple(name for name in CONCURRENT if name != "prefork")
"""Dispatchers whose `max_children` counts connections."""

REFUSED = ">> O 6 1ff 1fffff\n<< O 6 0 {steps}\n>> C x␀U\n<< t\n<< EOF"
CONNECT_ONLY = "37e"


def dispatcher(name: str, overflow: str) -> Any:
    return dispatcher_of(name, overflow=overflow)


def asking() -> Milter:
    """Return a filter that asks for more than a refusal needs."""
    return filter_of(
        {"helo": returns(None), "eom": returns(None)}, actions=0x1FF, limits=Limits(grace=0.5)
    )


@pytest.fixture(params=LIMITED)
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Service, Wire]]:
    """A service of one connection, and that one."""
    how = dispatcher(request.param, "refuse")
    with serving(asking(), tmp_path, how, max_children=1) as service, service.connect() as wire:
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c")
        yield service, wire


def test_connection_over_the_limit_is_told_to_try_again_later(
    full: tuple[Service, Wire],
) -> None:
    service, wire = full
    with service.connect() as refused:
        refused.sock.settimeout(2)
        refused.play(REFUSED.format(steps=CONNECT_ONLY))
    wire.play(">> H x␀\n<< c\n>> Q\n<< EOF")


@pytest.mark.parametrize("name", LIMITED)
def test_who_sees_the_end_of_a_connection_finds_its_place_free(name: str, tmp_path: Path) -> None:
    how = dispatcher(name, "refuse")
    with serving(asking(), tmp_path, how, max_children=1) as service:
        for _ in range(30):
            service.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> Q\n<< EOF")


def test_connection_over_the_limit_has_5_seconds() -> None:
    assert REFUSAL_TIME == 5.0


@pytest.mark.parametrize("name", LIMITED)
def test_connection_over_the_limit_that_says_nothing_is_closed_when_its_time_is_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = dispatcher(name, "refuse")
    for module in list(sys.modules.values()):
        if module.__name__.startswith("pmilter.") and hasattr(module, "REFUSAL_TIME"):
            monkeypatch.setattr(module, "REFUSAL_TIME", 0.2)
    with (
        serving(asking(), tmp_path, how, max_children=1) as service,
        service.connect() as served,
        service.connect() as silent,
    ):
        served.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c")
        silent.sock.settimeout(3)
        assert silent.answers() == []


def test_those_being_refused_take_no_place_of_those_served(full: tuple[Service, Wire]) -> None:
    service, wire = full
    with service.connect() as lingering:
        lingering.play(">> O 6 1ff 1fffff\n<< O *")
        wire.play(">> Q\n<< EOF")
        with service.connect() as third:
            third.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> Q\n<< EOF")


@pytest.mark.parametrize("name", LIMITED)
def test_place_that_becomes_free_is_given_again(name: str, tmp_path: Path) -> None:
    session = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> Q\n<< EOF"
    with serving(asking(), tmp_path, dispatcher(name, "wait"), max_children=1) as service:
        for _ in range(4):
            service.play(session)


@pytest.mark.parametrize("name", LIMITED)
def test_with_wait_a_connection_over_the_limit_stays_in_the_backlog(
    name: str, tmp_path: Path
) -> None:
    how = dispatcher(name, "wait")
    with (
        serving(asking(), tmp_path, how, max_children=2) as service,
        service.connect() as one,
        service.connect() as two,
    ):
        for wire in (one, two):
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c")
        with service.connect() as three:
            three.play(">> O 6 1ff 77f")
            assert three.is_silent(0.1)
            one.play(">> Q\n<< EOF")
            three.play("<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> Q\n<< EOF")
        two.play(">> H x␀\n<< c\n>> Q\n<< EOF")


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize("overflow", ["refuse", "wait"])
def test_full_service_stops_all_the_same(name: str, overflow: str, tmp_path: Path) -> None:
    how = dispatcher(name, overflow)
    with (
        serving(asking(), tmp_path, how, max_children=1) as service,
        service.connect() as wire,
    ):
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c")
        service.signal()
        wire.until_goodbye("H x␀")
        assert service.wait(2) == 0


def test_default_limit_is_that_of_the_limits(tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)}, limits=Limits(connections=1, grace=0.5))
    with (
        serving(milter, tmp_path, "ithread") as service,
        service.connect() as one,
        service.connect() as two,
    ):
        one.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c")
        two.play(">> O 6 1ff 1fffff\n<< O *\n>> C x␀U\n<< t")
        one.play(">> Q\n<< EOF")


def test_max_children_is_told_to_who_asks() -> None:
    asked: list[tuple[int, int]] = []
    milter = filter_of({"eom": returns(None)})
    milter.set_dispatcher(
        lambda m, *_: asked.append((m.get_max_interpreters(), m.get_max_requests()))
    )
    for arguments in ((7, 9), ()):
        milter.setconn("inet:0@127.0.0.1")
        milter.main(*arguments)
    assert asked == [(7, 9), (0, 0)]


@pytest.fixture
def conn() -> Iterator[socket.socket]:
    """A connection, all of which are this process's user's."""
    one, two = socket.socketpair()
    with one, two:
        yield one


def test_with_refuse_places_are_full_when_enough_are_being_refused(conn: socket.socket) -> None:
    places = Places(2, "refuse")
    taken = [place for _ in range(2 + REFUSALS) if (place := places.take(conn))]
    assert [place.served for place in taken] == [True] * 2 + [False] * REFUSALS
    assert places.full
    assert places.most == len(taken)
    places.give(taken[-1])
    assert not places.full


def test_with_wait_places_are_full_when_all_are_served(conn: socket.socket) -> None:
    places = Places(1, "wait")
    place = places.take(conn)
    assert place is not None
    assert places.full
    places.give(place)
    assert not places.full


@pytest.mark.parametrize("overflow", ["refuse", "wait"])
def test_peer_over_its_limit_is_refused_and_then_cut_off_while_there_is_room_for_others(
    conn: socket.socket, overflow: Any
) -> None:
    places = Places(5, overflow, 2)
    first = places.take(conn)
    assert first == Place(served=True, peer=f"uid {os.getuid()}")
    places.take(conn)
    refused = [places.take(conn) for _ in range(REFUSALS)]
    assert refused == [Place(served=False, peer=None)] * REFUSALS
    assert places.take(conn) is None
    assert not places.full
    places.give(first)
    assert places.take(conn) == first


def test_refusals_are_said_and_do_not_fill_the_log(
    conn: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    places = Places(5, "refuse", 1)
    for _ in range(10):
        places.take(conn)
    (message,) = caplog.messages
    assert f"uid {os.getuid()} has 1 connections already" in message


@pytest.mark.parametrize("overflow", [None, 5, ["wait"]])
def test_overflow_of_another_type(overflow: Any) -> None:
    with pytest.raises(TypeError, match="overflow"):
        check_overflow(overflow)


@pytest.mark.parametrize("overflow", ["refuse", "wait"])
@pytest.mark.parametrize("name", LIMITED)
def test_peer_over_its_limit_is_told_to_try_again_later_and_others_are_served(
    name: str, overflow: str, tmp_path: Path
) -> None:
    milter = filter_of({"helo": returns(None)}, limits=Limits(grace=0.5, connections_per_peer=2))
    how = dispatcher(name, overflow)
    greet = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c"
    with serving(milter, tmp_path, how, desc="inet:0@0.0.0.0") as service, ExitStack() as stack:
        own = [stack.enter_context(service.connect("127.0.0.2")) for _ in range(2)]
        for wire in own:
            wire.play(greet)
        service.connect("127.0.0.2").play(REFUSED.format(steps=CONNECT_ONLY)).close()
        stack.enter_context(service.connect("127.0.0.3")).play(greet)
        own[0].play(">> Q\n<< EOF")
        until_served(service, "127.0.0.2", greet)
        assert len(service.await_log("127.0.0.2 has 2 connections already")) == 1


def until_served(service: Service, source: str, greet: str) -> None:
    """Connect until there is a place again: a process that ends gives its place back a little after its connection ends."""
    for _ in range(200):
        with service.connect(source) as wire:
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U")
            if wire.answer() == "c":
                return
            assert wire.is_unanswered(0.01)
    raise AssertionError("the place is not given again")


@pytest.mark.parametrize("name", LIMITED)
def test_no_more_connections_than_the_limit_are_served_at_a_time(name: str, tmp_path: Path) -> None:
    verdicts: list[str] = []
    told = threading.Barrier(8)

    def client() -> None:
        with service.connect() as wire:
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U")
            verdicts.append(wire.answer())
            told.wait(DEADLINE)

    how = dispatcher(name, "refuse")
    with serving(asking(), tmp_path, how, max_children=3) as service:
        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert sorted(verdicts) == ["c"] * 3 + ["t"] * 5
