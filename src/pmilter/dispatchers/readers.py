"""Tells when sockets are readable, on an asyncio loop, for less than the loop's own `add_reader` costs.

All sockets are in one epoll, which stands in the loop for all of them: the loop makes and runs a handle once for all that have become
readable, not for each.
"""

from __future__ import annotations

import logging
import select
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

logger: Final = logging.getLogger("pmilter")

_AT_A_TIME: Final = 64
"""Most sockets that are seen to before the loop has its turn again."""


class Readers:
    """What is to be called for which descriptor. For the loop's thread.

    Args:
        loop: The running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: dict[int, Callable[[], object]] = {}
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._run)

    def add(self, fd: int, call: Callable[[], object]) -> None:
        """Have something called whenever a descriptor is readable."""
        self._epoll.register(fd, select.EPOLLIN)
        self._calls[fd] = call

    def remove(self, fd: int) -> None:
        """Forget a descriptor; to be done before it is closed."""
        del self._calls[fd]
        self._epoll.unregister(fd)

    def close(self) -> None:
        """Forget all."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _run(self) -> None:
        calls = self._calls
        for fd, _ in self._epoll.poll(0, _AT_A_TIME):
            call = calls.get(fd)  # one of those before may have removed it
            if call is not None:
                try:
                    call()
                except Exception:  # it is no business of the others
                    logger.exception("error in pmilter itself")


class LoopReaders:
    """The same by the loop's own means, where these cost nothing (uvloop), or the system has no epoll.

    Args:
        loop: The running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.add = loop.add_reader
        self.remove = loop.remove_reader

    def close(self) -> None:
        """Do nothing."""


def readers_for(loop: asyncio.AbstractEventLoop) -> Readers | LoopReaders:
    """Return the cheaper ones."""
    is_pure = type(loop).__module__.startswith("asyncio.")
    return Readers(loop) if is_pure and hasattr(select, "epoll") else LoopReaders(loop)
