"""A process a connection: nothing of one connection can touch another. The default, as in Sendmail::PMilter."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.children import Children
from pmilter.dispatchers.overflow import Overflow, check_overflow, room
from pmilter.dispatchers.serving import Stopped

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.dispatchers.serving import Handler, Listener
    from pmilter.milter import Milter

_FULL_PAUSE: Final = 0.05
"""Seconds after which a full service looks whether a child has ended."""


def postfork_dispatcher(*, overflow: Overflow = "refuse") -> Dispatcher:
    """Return a dispatcher that forks a child for each connection.

    Args:
        overflow: What becomes of connections over `max_children` (by default over `Limits.connections`).

    Raises:
        ConfigError: `overflow` is neither ``"refuse"`` nor ``"wait"``.
    """
    check_overflow(overflow)

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        limit = milter.get_max_interpreters() or handler.program.plan.limits.connections
        most = room(limit, overflow)
        serving = handler.serving
        children = Children(serving)
        try:
            while True:
                conn, _ = listener.accept(children.reap)
                children.reap()
                serve_it = handler if len(children) < limit else handler.refuse
                children.fork(partial(_serve_one, listener, serve_it, conn))
                conn.close()
                while len(children) >= most and not serving.stopping:
                    serving.await_stop(_FULL_PAUSE)
                    children.reap()
        except Stopped:
            children.stop()

    return serve


def _serve_one(
    listener: Listener, serve: Callable[[socket.socket], None], conn: socket.socket
) -> None:
    listener.socket.close()
    serve(conn)
