"""A filter served by a dispatcher in a process of its own, whose main thread runs `Milter.main` as a daemon's would."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pmilter import asyncio_dispatcher
from pmilter.dispatchers.registry import MODULES, dispatcher_named
from tests.support.processes import DEADLINE, fork, wait
from tests.support.wire import Trace, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pmilter import Milter
    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher

DISPATCHERS = (*MODULES, "uvloop")
"""Names of all dispatchers; uvloop is asyncio on another loop."""

CONCURRENT = tuple(name for name in DISPATCHERS if name != "sequential")
"""Those that serve several connections at a time."""


def dispatcher_of(name: str, **options: Any) -> Dispatcher:
    """Return the dispatcher of a name, which may be uvloop."""
    if name == "uvloop":
        return asyncio_dispatcher(uvloop=True, **options)
    return dispatcher_named(name, **options)


class Service:
    """A running service.

    Attributes:
        name: Its dispatcher.
        pid: Its process.
        address: Where it listens.
    """

    def __init__(self, name: str, pid: int, address: str, log: Path) -> None:
        self.name = name
        self.pid = pid
        self.address = address
        self._log = log
        self._ended = False

    def connect(self, source: str | None = None) -> Wire:
        """Return a new connection to it, from an address of this machine where one is given."""
        return Wire(self.address, source)

    def play(self, script: str) -> None:
        """Play a script on a connection of its own."""
        with self.connect() as wire:
            wire.play(script)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to its main process."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = DEADLINE) -> int:
        """Return the exit status: 0 where `main` has returned."""
        self._ended = True
        return wait(self.pid, seconds)

    def stop(self, seconds: float = DEADLINE) -> None:
        """Stop it with a signal, and check that it ends well."""
        if not self._ended:
            self.signal()
            assert self.wait(seconds) == 0, self.log()

    def await_log(self, text: str, seconds: float = DEADLINE) -> list[str]:
        """Return the lines logged so far that hold a text, as soon as there is one."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not (lines := [line for line in self.log() if text in line]):
            assert time.monotonic() < deadline, f"nothing is logged with {text!r}: {self.log()}"
            pause.wait(0.01)
        return lines

    def log(self) -> list[str]:
        """Return the lines that it has logged so far: level, then message."""
        # A long one appears page by page to who reads meanwhile; such a piece may end within a character.
        whole, _, _ = self._log.read_bytes().rpartition(b"\n")
        return whole.decode().splitlines()


def log_to(path: Path) -> None:
    """Send the log of this process, a child of the test's, to a file."""
    logging.basicConfig(
        filename=path, format="%(levelname)s %(message)s", level=logging.INFO, force=True
    )


def _announced(dispatcher: Dispatcher, announce: Callable[[], object]) -> Dispatcher:
    """Return a dispatcher that is the same as another, and says when it begins: signals are taken from then on."""

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        announce()
        dispatcher(milter, listener, handler)

    vars(serve).update(getattr(dispatcher, "__dict__", {}))  # a compiled function has none
    return serve


@contextmanager
def serving(
    milter: Milter,
    directory: Path,
    dispatcher: str | Dispatcher,
    *,
    desc: str = "inet:0@127.0.0.1",
    max_children: int = 0,
    before: Callable[[], object] | None = None,
    after: Callable[[], object] | None = None,
) -> Iterator[Service]:
    """Serve a filter while the body runs; stop it at its end.

    Args:
        milter: The filter.
        directory: Where to put the log.
        dispatcher: What to serve it by; a name means its default parameters.
        desc: Where to listen.
        max_children: Passed to `main`.
        before: Called in the process before `main`, after `setconn`.
        after: Called in the process when `main` has ended, however.
    """
    log = directory / "service.log"
    ready = Trace()

    def work() -> None:
        log_to(log)
        chosen = dispatcher_of(dispatcher) if isinstance(dispatcher, str) else dispatcher
        milter.setconn(desc)
        address = str(milter.address)
        milter.set_dispatcher(_announced(chosen, lambda: ready.say(address)))
        if before is not None:
            before()
        try:
            milter.main(max_children)
        finally:
            if after is not None:
                after()

    pid = fork(work)
    try:
        service = Service(str(dispatcher), pid, ready.next(), log)
    finally:
        ready.close()
    try:
        yield service
    except BaseException:
        if not service._ended:
            service.signal(signal.SIGKILL)
            service.wait()
        raise
    service.stop()
