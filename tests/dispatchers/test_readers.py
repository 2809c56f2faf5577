from __future__ import annotations

import asyncio
import select
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.dispatchers.readers import LoopReaders, Readers, readers_for

if TYPE_CHECKING:
    from collections.abc import Iterator

both = pytest.mark.parametrize("kind", [Readers, LoopReaders])


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(count)]
    try:
        yield made
    finally:
        for pair in made:
            for end in pair:
                end.close()


@both
def test_each_descriptor_that_is_readable_is_told_of(kind: type[Any]) -> None:
    async def main() -> None:
        seen: set[int] = set()
        full = asyncio.Event()
        readers = kind(asyncio.get_running_loop())

        def read(number: int, sock: socket.socket) -> None:
            sock.recv(10)
            seen.add(number)
            if len(seen) >= 99:
                full.set()

        with pairs(100) as made:
            for number, (ours, theirs) in enumerate(made):
                readers.add(ours.fileno(), lambda n=number, s=ours: read(n, s))
                if number:
                    theirs.send(b"x")
            await asyncio.wait_for(full.wait(), 10)
            assert 0 not in seen
            full.clear()
            made[0][1].send(b"x")
            await asyncio.wait_for(full.wait(), 10)
            assert 0 in seen
            for ours, _ in made:
                readers.remove(ours.fileno())
            readers.close()

    asyncio.run(main())


@both
def test_descriptor_that_another_one_removes_in_the_same_round_is_not_told_of(
    kind: type[Any],
) -> None:
    async def main() -> None:
        told: list[int] = []
        readers = kind(asyncio.get_running_loop())

        def tell(number: int) -> None:
            told.append(number)
            for ours, _ in made:
                readers.remove(ours.fileno())

        with pairs(2) as made:
            for number, (ours, theirs) in enumerate(made):
                readers.add(ours.fileno(), lambda n=number: tell(n))
                theirs.send(b"x")
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(told) == 1
            readers.close()

    asyncio.run(main())


def test_one_that_fails_keeps_none_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        readers = Readers(asyncio.get_running_loop())
        told = asyncio.Event()

        def fail() -> None:
            readers.remove(made[0][0].fileno())
            raise KeyError("broken")

        with pairs(2) as made:
            readers.add(made[0][0].fileno(), fail)
            readers.add(made[1][0].fileno(), told.set)
            for _, theirs in made:
                theirs.send(b"x")
            await asyncio.wait_for(told.wait(), 10)
            readers.remove(made[1][0].fileno())
            readers.close()

    asyncio.run(main())
    assert "error in pmilter itself" in caplog.messages


def test_loops_own_means_are_taken_where_there_is_no_epoll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        mine = readers_for(loop)
        mine.close()
        monkeypatch.delattr(select, "epoll")
        return [type(mine), type(readers_for(loop))]

    assert asyncio.run(main()) == [Readers, LoopReaders]
