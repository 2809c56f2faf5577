"""One connection after the other, on the thread that calls `main`: for debugging, and as a worker of other dispatchers."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.accepting import Stopped

if TYPE_CHECKING:
    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter


_EVER: Final = 86_400.0


def sequential_dispatcher() -> Dispatcher:
    """Return a dispatcher that serves one connection at a time; others wait in the backlog, whatever `max_children` says."""
    return _serve


def _serve(_milter: Milter, listener: Listener, handler: Handler) -> None:
    # This thread is busy with a connection when the stop comes, so another one ends the grace period.
    watch = threading.Thread(
        target=_watch, args=(listener, handler), name="pmilter-stop", daemon=True
    )
    watch.start()
    handler.at_once = True
    try:
        while True:
            conn, _ = listener.accept()
            handler(conn)
    except Stopped:
        pass
    finally:
        handler.serving.stop_here()
        watch.join()


def _watch(listener: Listener, handler: Handler) -> None:
    serving = handler.serving
    while not serving.ending:
        serving.wait(_EVER)
    listener.close()  # lest MTAs wait for a connection that is never accepted
    serving.await_connections()
