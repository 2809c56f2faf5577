"""Receives from all sockets that are readable, on an asyncio loop.

All receive before any conversation goes on, and all go on before any answers: the same code runs again and again, which the
processor's caches reward, and the MTAs are not woken one by one while there is still something to do.
"""

from __future__ import annotations

import logging
import os
import select
from typing import TYPE_CHECKING, Final, Protocol

from pmilter.dispatchers.driver import READ_SIZE
from pmilter.dispatchers.eager import Worker

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from socket import socket

    from pmilter.dispatchers.eager import Office, Step

logger: Final = logging.getLogger("pmilter")

_AT_ONCE: Final = 16
"""Most sockets that are received from in one go: the first one's answer waits for the last one's callback."""

_IN_A_TURN: Final = 64
"""Most sockets, about, that are seen to before the loop has its turn again."""


class Reader(Worker, Protocol):
    """Whose work goes on with what arrives.

    Attributes:
        socket: Where it arrives.
        read_size: Bytes to ask for.
        waiting: Whether the work can go on with what arrives at once.
        resume: The `send` of the work.
    """

    socket: socket
    read_size: int
    waiting: bool
    resume: Callable[[bytes], object]

    def arrived(self, data: bytes) -> Step | None:
        """Take what has arrived, where it is much or the work cannot go on with it; return the step that it allows."""

    def lost(self, error: OSError) -> Step | None:
        """Take note that nothing more can arrive; return the step that this allows."""


class LoopReaders:
    """Who is to receive when which descriptor is readable. For the loop's thread.

    Args:
        loop: The running loop.
        office: Takes the steps that become possible.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, office: Office) -> None:
        self._loop = loop
        self._office = office
        self._readers: dict[int, Reader] = {}

    def add(self, fd: int, reader: Reader) -> None:
        """Have someone receive whenever a descriptor is readable."""
        self._readers[fd] = reader
        self._loop.add_reader(fd, self._receive, ((fd, 0),))

    def remove(self, fd: int) -> None:
        """Forget a descriptor; to be done before it is closed."""
        self._loop.remove_reader(fd)
        del self._readers[fd]

    def close(self) -> None:
        """Forget all."""

    def _receive(self, ready: Iterable[tuple[int, int]]) -> None:
        """Receive from some descriptors, then have the work go on that this allows."""
        readers = self._readers
        steps: list[Step] = []
        for fd, _ in ready:
            reader = readers[fd]
            try:
                data = os.read(fd, reader.read_size)
                if reader.waiting and len(data) < READ_SIZE:  # nearly always
                    reader.waiting = False
                    reader.read_size = READ_SIZE
                    steps.append((reader, reader.resume, data))
                    continue
                step = reader.arrived(data)
            except BlockingIOError:
                continue
            except OSError as error:
                step = reader.lost(error)
            except Exception:  # it is no business of the others
                logger.exception("error in pmilter itself")
                continue
            if step is not None:
                steps.append(step)
        if steps:
            self._office.take(steps)


class Readers(LoopReaders):
    """The same for less than the loop's own `add_reader` costs.

    All sockets are in one epoll, which stands in the loop for all of them: the loop makes and runs a handle once for all that have
    become readable, not for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, office: Office) -> None:
        super().__init__(loop, office)
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._run)

    def add(self, fd: int, reader: Reader) -> None:
        """Have someone receive whenever a descriptor is readable."""
        self._readers[fd] = reader
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget a descriptor; to be done before it is closed."""
        self._epoll.unregister(fd)
        del self._readers[fd]

    def close(self) -> None:
        """Forget all."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _run(self) -> None:
        """Receive, again and again while there is something: each turn of the loop costs as much as some receives."""
        left = _IN_A_TURN
        while left > 0 and (ready := self._epoll.poll(0, _AT_ONCE)):
            self._receive(ready)
            left -= len(ready)


def readers_for(loop: asyncio.AbstractEventLoop, office: Office) -> LoopReaders:
    """Return the cheaper ones that the system has."""
    return Readers(loop, office) if hasattr(select, "epoll") else LoopReaders(loop, office)
