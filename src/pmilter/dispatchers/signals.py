"""The signals of a service: to whom they go, and when they must not come."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.dispatchers.serving import Serving

SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
)
"""Those that a service handles, see `Serving.signalled`."""


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


def take_signals(serving: Serving) -> dict[signal.Signals, Any]:
    """Have a service handle its signals for good; return the handlers before."""
    owner = os.getpid()

    def handle(number: int, _frame: object) -> None:
        if os.getpid() == owner:
            serving.signalled(number)
        else:  # a process that a callback has forked; what the service has to do with it ends there
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    return {number: signal.signal(number, handle) for number in SIGNALS}


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
