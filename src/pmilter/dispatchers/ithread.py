"""A thread a connection: for callbacks that wait for other servers."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.deadlines import Watch
from pmilter.dispatchers.overflow import Overflow, check_overflow, room
from pmilter.dispatchers.serving import Stopped

if TYPE_CHECKING:
    import socket

    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.dispatchers.serving import Handler, Listener
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_STOP_CHECK: Final = 0.25
"""Seconds after which a full service looks whether it is to stop."""


def ithread_dispatcher(*, overflow: Overflow = "refuse") -> Dispatcher:
    """Return a dispatcher that serves each connection on a thread of its own.

    Args:
        overflow: What becomes of connections over `max_children` (by default over `Limits.connections`).

    Raises:
        ConfigError: `overflow` is neither ``"refuse"`` nor ``"wait"``.
    """
    check_overflow(overflow)

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        limit = milter.get_max_interpreters() or handler.program.plan.limits.connections
        handler.watch = Watch(handler.program.plan.limits)
        threads = _Threads(handler, limit, room(limit, overflow))
        try:
            while True:
                threads.await_room()
                conn, _ = listener.accept()
                threads.start(conn)
        except Stopped:
            handler.serving.await_connections()

    return serve


class _Threads:
    """The threads of one service, counted."""

    def __init__(self, handler: Handler, limit: int, most: int) -> None:
        self._handler = handler
        self._limit = limit
        self._most = most
        self._count = 0
        self._changed = threading.Condition()

    def await_room(self) -> None:
        """Return when a thread more may be started, or the service is stopping."""
        with self._changed:
            while self._count >= self._most and not self._handler.serving.stopping:
                self._changed.wait(_STOP_CHECK)  # a signal handler cannot notify a condition

    def start(self, conn: socket.socket) -> None:
        """Serve a connection, or refuse it where the limit is reached."""
        with self._changed:
            serve = self._handler if self._count < self._limit else self._handler.refuse
            self._count += 1
        self._handler.serving.enter(conn)  # at once, so that a stop from now on waits for it
        try:
            threading.Thread(
                target=self._run, args=(serve, conn), name="pmilter", daemon=True
            ).start()
        except RuntimeError as error:
            logger.error(
                "cannot start a thread: %s; the connection is closed", error
            )  # the system's state
            conn.close()
            self._end(conn)

    def _run(self, serve: Handler, conn: socket.socket) -> None:
        try:
            serve(conn)
        finally:
            self._end(conn)

    def _end(self, conn: socket.socket) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify()
        self._handler.serving.leave(conn)
