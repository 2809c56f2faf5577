from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from pmilter.dispatchers.accepting import Listener
from pmilter.dispatchers.doorway import Doorway, Guest
from pmilter.dispatchers.handling import Handler
from pmilter.dispatchers.overflow import Places
from pmilter.dispatchers.serving import Serving
from pmilter.program import Program
from tests.support.playbook import filter_of, returns

if TYPE_CHECKING:
    from collections.abc import Iterator


class Scene:
    """A doorway on a socket of its own, and what it has its loop wait for."""

    def __init__(self, places: Places) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.serving = Serving(grace=1.0)
        self.watched: set[int] = set()
        self.clients: list[socket.socket] = []
        self.guests: list[Guest] = []
        program = Program(filter_of({"helo": returns(None)}).plan())
        self.doorway = Doorway(
            Listener(self.listening, self.serving),
            Handler(program, self.serving),
            places,
            self.watched.add,
            self.watched.remove,
        )

    def knock(self) -> None:
        self.clients.append(socket.create_connection(self.listening.getsockname()))

    def let_in(self) -> Guest | None:
        guest = self.doorway.let_in()
        if guest is not None:
            self.guests.append(guest)
        return guest

    def close(self) -> None:
        for sock in (*self.clients, *(guest.sock for guest in self.guests), self.listening):
            sock.close()
        self.serving.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene(Places(1, "wait"))
    yield scene
    scene.close()


def test_open_doorway_waits_for_connections_and_a_shut_one_does_not(scene: Scene) -> None:
    scene.doorway.open()
    assert scene.watched == {scene.listening.fileno()} == {scene.doorway.fd}
    scene.doorway.shut()
    scene.doorway.shut()
    assert (scene.watched, scene.doorway.fd) == (set(), -1)


def test_guest_is_counted_and_does_not_block(scene: Scene) -> None:
    scene.doorway.open()
    scene.knock()
    guest = scene.let_in()
    assert guest is not None
    assert guest.place.served
    assert guest.peer.startswith("127.0.0.1:")
    assert not os.get_blocking(guest.sock.fileno())
    assert scene.serving.census().connections == 1


def test_nobody_is_let_in_where_nobody_waits(scene: Scene) -> None:
    scene.doorway.open()
    assert scene.let_in() is None


def test_full_house_is_shut_until_a_guest_has_left(scene: Scene) -> None:
    scene.doorway.open()
    scene.knock()
    guest = scene.let_in()
    assert guest is not None
    assert scene.watched == set()
    scene.doorway.open()
    assert scene.watched == set()
    scene.doorway.let_out(guest)
    assert scene.watched == {scene.listening.fileno()}
    assert scene.serving.census().connections == 0


def test_doorway_of_a_service_that_ends_lets_nobody_in(scene: Scene) -> None:
    scene.doorway.open()
    scene.knock()
    scene.serving.stop_here()
    assert scene.let_in() is None
    scene.doorway.close()
    assert scene.watched == set()
    assert scene.listening.fileno() == -1
    scene.doorway.open()
    assert scene.watched == set()


def test_broken_socket_is_told_of(scene: Scene) -> None:
    scene.doorway.open()
    scene.listening.detach()
    with pytest.raises(OSError, match="Bad file descriptor"):
        scene.let_in()
