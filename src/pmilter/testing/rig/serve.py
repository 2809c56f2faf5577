"""Run a filter in a background thread for as long as a test needs it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers import ithread_dispatcher
from pmilter.errors import LocalProtocolError, MilterTimeout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.address import Address
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter

STOP_TIMEOUT: Final = 30.0  # seconds; above the grace that a filter gives to open messages
STOP_AGAIN: Final = 0.2  # seconds


@contextmanager
def serve(
    milter: Milter,
    address: str = "inet:0@127.0.0.1",
    *,
    dispatcher: Dispatcher | None = None,
    perms: int | None = None,
) -> Iterator[Address]:
    """Serve `milter` until the block is left, and yield the address to connect to.

    It can be connected to at once: the socket is bound before the block begins.

    Args:
        milter: A filter that is not being served yet. One that has a socket keeps it.
        address: Where to listen if it has none; port 0 lets the system choose.
        dispatcher: How to serve; by default a thread for each connection, whatever the filter had
            chosen, since a dispatcher that forks does not belong into a process with threads.
        perms: Mode of a UNIX socket.

    Raises:
        Exception: What ``milter.main()`` raised, when the block is left.
        MilterTimeout: The filter did not stop.
    """
    if milter.address is None:
        milter.setconn(address, perms)
    bound = milter.address
    if bound is None:
        raise LocalProtocolError("the filter has no address after setconn")
    milter.set_dispatcher(dispatcher or ithread_dispatcher())
    thread = _Main(milter)
    thread.start()
    try:
        yield bound
    finally:
        thread.stop()


class _Main(threading.Thread):
    """The thread that calls ``main()``, and what that raised."""

    def __init__(self, milter: Milter) -> None:
        super().__init__(name="pmilter-main")
        self._milter = milter
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._milter.main()
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits, see stop
            self._error = error

    def stop(self) -> None:
        """Ask the filter to end until it does, and raise what ``main()`` raised."""
        deadline = time.monotonic() + STOP_TIMEOUT
        while self.is_alive():
            # Asked too early, before main() has begun to serve, it would not hear: hence again.
            self._milter.stop()
            self.join(STOP_AGAIN)
            if time.monotonic() > deadline:
                raise MilterTimeout(
                    f"the filter did not stop within {STOP_TIMEOUT:g} s", seconds=STOP_TIMEOUT
                )
        if self._error is not None:
            raise self._error
