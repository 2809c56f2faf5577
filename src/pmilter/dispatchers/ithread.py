"""A thread a connection: for callbacks that wait for other servers."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.accepting import Stopped
from pmilter.dispatchers.deadlines import Watch
from pmilter.dispatchers.overflow import Overflow, Place, Places, check_overflow, places_for

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_PAUSE: Final = 0.05
"""Seconds after which a full service looks whether a connection has ended."""

_LAST_MOMENT: Final = 1.0
"""Seconds for the callbacks of connections that were cut off."""


def ithread_dispatcher(*, overflow: Overflow = "refuse") -> Dispatcher:
    """Return a dispatcher that serves each connection on a thread of its own.

    Args:
        overflow: What becomes of connections over `max_children` (by default over `Limits.connections`).

    Raises:
        ConfigError: `overflow` is neither ``"refuse"`` nor ``"wait"``.
    """
    check_overflow(overflow)

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        handler.watch = Watch(handler.program.plan.limits)
        threads = _Threads(handler, places_for(milter, handler, overflow))
        handler.on_end = threads.give_place
        try:
            while True:
                threads.await_room()
                conn, _ = listener.accept()
                threads.start(conn)
        except Stopped:
            handler.serving.await_connections()
            threads.await_end()
            handler.watch.close()

    return serve


class _Threads:
    """The threads of one service, counted."""

    def __init__(self, handler: Handler, places: Places) -> None:
        self._handler = handler
        self._places = places
        self._held: dict[socket.socket, Place] = {}
        self._changed = threading.Condition()
        self._running = 0

    def await_room(self) -> None:
        """Return when a thread more may be started, or the service is stopping."""
        serving = self._handler.serving
        while self._places.full and not serving.ending:
            serving.wait(_PAUSE)

    def await_end(self) -> None:
        """Give the connections that were cut off a moment for their abort and close."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, _LAST_MOMENT)

    def start(self, conn: socket.socket) -> None:
        """Serve a connection, or refuse it where the limit is reached."""
        with self._changed:
            place = self._places.take(conn)
            if place is None:
                conn.close()
                return
            self._held[conn] = place
            self._running += 1
        serve = self._handler if place.served else self._handler.refuse
        # At once, so that a stop from now on waits for it.
        self._handler.serving.connections.enter(conn)
        try:
            run = partial(self._run, serve, conn)
            threading.Thread(target=run, name="pmilter", daemon=True).start()
        except RuntimeError as error:
            logger.error("cannot start a thread: %s; the connection is closed", error)
            self._handler.serving.connections.leave(conn)
            self.give_place(conn)
            conn.close()
            self._end()

    def give_place(self, conn: socket.socket) -> None:
        """Let another connection have the place of one that has been served."""
        with self._changed:
            self._places.give(self._held.pop(conn))
            self._changed.notify_all()

    def _run(self, serve: Callable[[socket.socket], None], conn: socket.socket) -> None:
        try:
            serve(conn)
        finally:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()
