"""All connections on one asyncio loop: ``async def`` callbacks on the loop, ``def`` callbacks in a pool of threads.

What the connections of one service share stands here; what each of them does, in `aio_connection`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pmilter.callbacks import is_coroutine_callback
from pmilter.dispatchers.aio_connection import Connection, send_answers
from pmilter.dispatchers.crew import Crew
from pmilter.dispatchers.deadlines import pause_between_looks
from pmilter.dispatchers.doorway import Doorway
from pmilter.dispatchers.eager import Office
from pmilter.dispatchers.overflow import Overflow, Places, check_overflow, places_for
from pmilter.dispatchers.readers import readers_for
from pmilter.errors import ConfigError
from pmilter.limits import check_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.effects import Late
    from pmilter.limits import Limits
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_ROUND: Final = 1.0
"""Seconds between two looks for connections whose time is over."""

_LAST_MOMENT: Final = 1.0
"""Seconds for the callbacks of connections that were cut off."""


def asyncio_dispatcher(
    *, overflow: Overflow = "refuse", threads: int = 32, uvloop: bool = False
) -> Dispatcher:
    """Return a dispatcher that serves all connections on one asyncio loop, in the thread that calls `main`.

    Args:
        overflow: What becomes of connections over `max_children` (by default over `Limits.connections`).
        threads: Most ``def`` callbacks that run at a time; one a connection at most.
        uvloop: Use uvloop, which must be installed (``pip install 'pmilter[uvloop]'``).

    Raises:
        ConfigError: A bad argument, or uvloop is not installed.
        TypeError: An argument of another type.
    """
    check_overflow(overflow)
    check_whole("threads", threads, 1)
    factory = _uvloop_factory() if uvloop else None

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        places = places_for(milter, handler, overflow)
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(Server(listener, handler, places, threads).run())

    serve.runs_coroutines = True  # type: ignore[attr-defined]  # what the registry asks of dispatchers
    return serve


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # an optional package
    except ImportError as error:
        raise ConfigError(
            "uvloop is not installed: pip install 'pmilter[uvloop]', or leave it out"
        ) from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Coroutines(dict["Callable[..., Any]", bool]):
    """Callback -> whether it is a coroutine function; remembered, since finding out is slow."""

    def __missing__(self, function: Callable[..., Any]) -> bool:
        self[function] = found = is_coroutine_callback(function)
        return found


class Server:
    """What the connections of one service share. For the loop's thread."""

    def __init__(self, listener: Listener, handler: Handler, places: Places, threads: int) -> None:
        self._listener = listener
        self.handler = handler
        self.serving = handler.serving
        self.limits: Limits = handler.program.plan.limits
        self._places = places
        self.pool = Crew(threads)
        self.connections: set[Connection] = set()
        self.answers: list[tuple[Connection, bytes]] = []  # to be sent when all have gone on
        self.is_coroutine = _Coroutines()
        self._pause = pause_between_looks(self.limits)
        self._slow: set[Connection] = set()
        self._looking = False
        self._apart: set[asyncio.Task[Any]] = set()
        self._watched: tuple[int, ...] = ()

    async def run(self) -> None:
        """Serve until all has come to its end."""
        self.loop = asyncio.get_running_loop()
        self.loop_thread = threading.get_ident()
        self.office = Office(self.loop, partial(send_answers, self.answers))
        self.readers = readers_for(self.loop, self.office)
        self.doorway = Doorway(
            self._listener,
            self.handler,
            self._places,
            lambda fd: self.loop.add_reader(fd, self._accept),
            self.loop.remove_reader,
        )
        self._happened: asyncio.Future[None] = self.loop.create_future()
        serving, connections = self.serving, self.connections
        try:
            while not serving.ending:
                await self._round(_ROUND)
            self.doorway.close()
            while connections and (left := serving.time_left()) > 0:
                await self._round(left)
            serving.connections.cut_off()
            deadline = time.monotonic() + _LAST_MOMENT
            while connections and (left := deadline - time.monotonic()) > 0:
                await self._round(left)
        finally:
            for connection in tuple(connections):
                connection.abandon()
            self._watch(())
            self.readers.close()
            self.pool.close()

    async def _round(self, seconds: float) -> None:
        """Do what is to be done from time to time, then return when something has happened to the service, or after some seconds."""
        self._watch(self.serving.watched_fds())
        self.doorway.open()
        now = time.monotonic()
        for connection in [c for c in self.connections if min(c.deadline, c.until) <= now]:
            self.loop.call_soon(connection.time_out)  # not within this task, see Office.take
        pause = min(seconds, _ROUND, self.serving.notifier.sign_of_life())
        self._happened = self.loop.create_future()
        timer = self.loop.call_later(pause, _resolve, self._happened)
        try:
            await self._happened
        finally:
            timer.cancel()

    def _watch(self, fds: tuple[int, ...]) -> None:
        """Wait for what may happen to the service, and for nothing else than that."""
        if fds != self._watched:
            for fd in self._watched:
                self.loop.remove_reader(fd)
            for fd in fds:
                self.loop.add_reader(fd, self._heed, fd)
            self._watched = fds

    def _heed(self, fd: int) -> None:
        self.serving.heed(fd)
        self._watch(self.serving.watched_fds())
        _resolve(self._happened)

    # --- accepting

    def _accept(self) -> None:
        try:
            guest = self.doorway.let_in()
        except OSError as error:  # the listening socket itself is broken
            self.doorway.shut()
            if not self._happened.done():
                self._happened.set_exception(error)
            return
        if guest is not None:
            connection = Connection(self, guest)
            self.connections.add(connection)
            connection.begin()

    def forget(self, connection: Connection) -> None:
        """Note that a connection has ended."""
        self.connections.remove(connection)
        self.doorway.let_out(connection.guest)

    # --- callbacks

    def watch(self, connection: Connection) -> None:
        """Look after a connection whose callback has not returned at once."""
        self._slow.add(connection)
        if not self._looking:
            self._looking = True
            self.loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        looked_after, self._slow = self._slow, set()
        self._slow |= {connection for connection in looked_after if connection.look(now)}
        self._looking = bool(self._slow)
        if self._looking:
            self.loop.call_later(self._pause, self._look)

    def finish(self, late: Late) -> None:
        """Have called what had to wait for a late callback; nobody waits for it."""
        for function, arguments in late.finish():
            if self.is_coroutine[function]:
                task = self.loop.create_task(_close_on_loop(function, arguments))
                self._apart.add(task)
                task.add_done_callback(self._apart.discard)
            else:
                self.pool.submit(partial(_close_in_thread, function, arguments))


async def _close_on_loop(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        await function(*arguments)
    except Exception:
        logger.exception("the close callback failed")


def _close_in_thread(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except BaseException:  # nobody waits for it
        logger.exception("the close callback failed")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
