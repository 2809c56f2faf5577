"""The signals of a service: to whom they go, and when they must not come."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.parent import Parent
from pmilter.dispatchers.pipes import Pipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.dispatchers.serving import Serving

logger: Final = logging.getLogger("pmilter")

SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
)
"""Those that a service handles."""


class Errands:
    """What signals ask of a service.

    What is more than a word to the service is not done by the signal handler, where that can be helped: it interrupts the main thread
    anywhere, in the middle of logging too.

    Args:
        serving: The service.

    Attributes:
        awaited: True where somebody waits for that; else all is done at once.
        on_hup: What SIGHUP does; a service that can reload sets it.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._numbers: deque[int] = deque()
        self._bell = Pipe()
        self._was_told_to_stop = False
        self.awaited = False
        self.on_hup: Callable[[], object] = _ignore_hup

    @property
    def reader(self) -> int:
        """A descriptor that is readable when there is something to `run`."""
        return self._bell.reader

    def signalled(self, number: int) -> None:
        """Handle a signal: TERM and INT stop, the second of them at once; QUIT stops at once; USR1 and HUP are left to `run`.

        In a child only TERM and QUIT count, and TERM any number of times: a terminal sends its signals to parent and children,
        and a service manager sends TERM to all.
        """
        if number == signal.SIGQUIT:
            self._serving.hurry()
        elif isinstance(self._serving.parent, Parent):
            if number == signal.SIGTERM:
                self._serving.stop_here()
        elif number not in {signal.SIGTERM, signal.SIGINT}:
            self._note(number)
        elif self._was_told_to_stop:
            self._serving.hurry()
        else:
            self._was_told_to_stop = True
            self._serving.end_here()

    def _note(self, number: int) -> None:
        self._numbers.append(number)
        self._bell.write()
        if not self.awaited:  # the dispatcher has a loop of its own, which may not look at the bell
            self.run()

    def run(self) -> None:
        """Do what is left to do: log a status line, reload."""
        self._bell.drain()
        while True:
            try:
                number = self._numbers.popleft()
            except IndexError:  # all is done, perhaps by another thread that waits here too
                return
            self._do(number)

    def _do(self, number: int) -> None:
        if number == signal.SIGHUP:
            self.on_hup()
        else:
            # Whoever asks wants to see it, whatever the level of the log.
            logger.warning("status: %s", self._serving.census())

    def close(self) -> None:
        """Release the descriptors."""
        self._bell.close()


def _ignore_hup() -> None:
    logger.warning(
        "SIGHUP is ignored: only 'pmilter run --listen ...' loads a filter anew; restart it"
    )


@contextlib.contextmanager
def signals_to(serving: Serving) -> Iterator[None]:
    """Have a service handle its signals, where this is the main thread; put the old handlers back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = take_signals(serving)
    try:
        yield
    finally:
        for number, handler in before.items():
            # None is a handler that was not set from Python, and cannot be put back from it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        serving.signals_of = 0


def take_signals(serving: Serving) -> dict[signal.Signals, Any]:
    """Have a service handle its signals for good; return the handlers before."""
    serving.signals_of = os.getpid()

    def handle(number: int, _frame: object) -> None:
        if os.getpid() == serving.signals_of:
            serving.errands.signalled(number)
        else:  # a process that a callback has forked; what the service has to do with it ends there
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    return {number: signal.signal(number, handle) for number in SIGNALS}


def inherit_signals(serving: Serving) -> None:
    """Have a service, in a forked child, handle the child's signals; the handlers of its parent do, where there are any."""
    if serving.signals_of:
        serving.signals_of = os.getpid()
    else:
        take_signals(serving)


@contextlib.contextmanager
def signals_held() -> Iterator[set[int]]:
    """Let no signal come in between: a child must not handle one before it knows that it is a child. Yields the mask before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield before
    finally:
        release_signals(before)


def release_signals(mask: set[int]) -> None:
    """Let the signals come again."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
