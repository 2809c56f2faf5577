from __future__ import annotations

import asyncio
import contextvars
import select
import socket
from contextlib import contextmanager
from itertools import pairwise
from types import coroutine
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.dispatchers.driver import READ_SIZE
from pmilter.dispatchers.eager import PARKED, Attendant, Office
from pmilter.dispatchers.readers import LoopReaders, Readers, readers_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.dispatchers.eager import Run, Step, Work

both = pytest.mark.parametrize("kind", [Readers, LoopReaders])


class Keeper:
    """Keeps what arrives at a socket, and calls something for each piece."""

    def __init__(self, sock: socket.socket, then: Callable[[Keeper], object]) -> None:
        self.socket = sock
        self.read_size = READ_SIZE
        self.waiting = True
        self.kept: list[object] = []
        self.run: Run = contextvars.copy_context().run
        self._then = then
        self.work = self._keep()
        self.work.send(None)
        self.resume = self.work.send

    @coroutine
    def _keep(self) -> Work:
        while True:
            try:
                self.kept.append((yield PARKED))
            except OSError as error:
                self.kept.append(type(error))
            self._then(self)

    def attended(self, attendant: Attendant) -> None:
        raise AssertionError(attendant)

    def arrived(self, data: bytes) -> Step | None:
        self.kept.append(len(data))
        return (self, self.resume, b"") if self.waiting else None

    def lost(self, error: OSError) -> Step | None:
        return self, self.work.throw, error


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(count)]
    try:
        for ours, _ in made:
            ours.setblocking(False)
        yield made
    finally:
        for pair in made:
            for end in pair:
                end.close()


def serve(
    kind: type[LoopReaders],
    ours: list[socket.socket],
    then: Callable[[Keeper], object],
    meanwhile: Callable[[list[Keeper], LoopReaders], Any],
) -> list[list[object]]:
    """Receive from sockets while something else goes on, and return what each was told."""

    async def main() -> list[list[object]]:
        loop = asyncio.get_running_loop()
        readers = kind(loop, Office(loop))
        keepers = [Keeper(sock, then) for sock in ours]
        for keeper in keepers:
            readers.add(keeper.socket.fileno(), keeper)
        try:
            await asyncio.wait_for(meanwhile(keepers, readers), 10)
        finally:
            for keeper in keepers:
                readers.remove(keeper.socket.fileno())
            readers.close()
        return [keeper.kept for keeper in keepers]

    return asyncio.run(main())


def go_on(keeper: Keeper) -> None:
    keeper.waiting = True


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # whatever sets an event would be what is tested
        await asyncio.sleep(0)


async def all_told(keepers: list[Keeper], _: LoopReaders) -> None:
    await until(lambda: all(keeper.kept for keeper in keepers))


@both
def test_each_socket_that_is_readable_is_received_from(kind: type[LoopReaders]) -> None:
    async def meanwhile(keepers: list[Keeper], readers: LoopReaders) -> None:
        await all_told(keepers[1:], readers)
        assert keepers[0].kept == []
        made[0][1].send(b"last")
        await all_told(keepers, readers)

    with pairs(100) as made:
        for number, (_, theirs) in enumerate(made):
            if number:
                theirs.send(b"%d" % number)
        kept = serve(kind, [ours for ours, _ in made], go_on, meanwhile)
    assert kept == [[b"last"], *([b"%d" % number] for number in range(1, 100))]


def test_all_receive_before_any_work_goes_on() -> None:
    left: list[bytes] = []

    def look(_: Keeper) -> None:
        for ours, _theirs in made:
            with pytest.raises(BlockingIOError):
                left.append(ours.recv(1))

    with pairs(3) as made:
        for _, theirs in made:
            theirs.send(b"x")
        assert serve(Readers, [ours for ours, _ in made], look, all_told) == [[b"x"]] * 3
    assert left == []


@both
def test_much_at_once_and_what_nobody_waits_for_is_told_of_first(kind: type[LoopReaders]) -> None:
    async def meanwhile(keepers: list[Keeper], readers: LoopReaders) -> None:
        await all_told(keepers, readers)
        assert not keepers[0].waiting
        made[0][1].send(b"abc")
        await until(lambda: len(keepers[0].kept) == 2)

    with pairs(2) as made:
        made[0][1].send(b"x")
        made[1][1].send(b"x" * READ_SIZE)
        small, large = serve(kind, [ours for ours, _ in made], lambda _: None, meanwhile)
    assert small == [b"x", 3]
    assert large[:2] == [READ_SIZE, b""]


@both
def test_socket_that_is_reset_is_told_of(kind: type[LoopReaders]) -> None:
    with pairs(1) as [(ours, theirs)]:
        ours.send(b"never read")
        theirs.close()
        kept = serve(kind, [ours], go_on, all_told)
    assert kept[0][0] is ConnectionResetError


@both
def test_over_tcp_too(kind: type[LoopReaders]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as theirs:
            ours, _ = server.accept()
            with ours:
                ours.setblocking(False)
                theirs.send(b"x")
                assert serve(kind, [ours], go_on, all_told) == [[b"x"]]


@both
def test_one_that_fails_keeps_none_from_the_others(
    kind: type[LoopReaders], caplog: pytest.LogCaptureFixture
) -> None:
    async def meanwhile(keepers: list[Keeper], readers: LoopReaders) -> None:
        keepers[0].arrived = fail  # type: ignore[method-assign]  # what cannot happen
        keepers[0].waiting = False
        await all_told(keepers[1:], readers)

    def fail(data: bytes) -> Step | None:
        raise KeyError(data)

    with pairs(2) as made:
        for _, theirs in made:
            theirs.send(b"x")
        kept = serve(kind, [ours for ours, _ in made], go_on, meanwhile)
    assert kept == [[], [b"x"]]
    assert "error in pmilter itself" in caplog.messages


def test_loop_has_its_turn_however_much_arrives() -> None:
    turns: list[int] = []

    def send_more(keeper: Keeper) -> None:
        keeper.waiting = True
        made[0][1].send(b"x")

    async def meanwhile(keepers: list[Keeper], _: LoopReaders) -> None:
        while len(turns) < 5:
            turns.append(len(keepers[0].kept))
            await asyncio.sleep(0)

    with pairs(1) as made:
        made[0][1].send(b"x")
        serve(Readers, [made[0][0]], send_more, meanwhile)
    assert max(later - turn for turn, later in pairwise(turns)) <= 64


def test_loops_own_means_are_taken_where_there_is_no_epoll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        mine = readers_for(loop, Office(loop))
        mine.close()
        monkeypatch.delattr(select, "epoll")
        return [type(mine), type(readers_for(loop, Office(loop)))]

    assert asyncio.run(main()) == [Readers, LoopReaders]
