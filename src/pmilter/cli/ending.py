"""Signals that come when all is over: they must not turn a clean end into a death."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pmilter.dispatchers.signals import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def late_signals_ignored(is_over: Callable[[], bool]) -> Iterator[None]:
    """Let a signal do nothing once serving is over: it would end the process with a status of its own in the midst of its end.

    Before that, a signal does what it would do without this. The service takes the signals inside the body, and puts these
    handlers back at its end. After the body they stay ignored, since what follows is the end of the process, in which Python
    takes its handlers away.

    Args:
        is_over: Whether the service has come to its end. Called in a signal handler.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: object) -> None:
        action = before[signal.Signals(number)]
        if is_over():
            return
        if callable(action) and not isinstance(action, signal.Handlers):
            action(number, frame)  # type: ignore[arg-type]  # the frame is what Python has given
        elif action is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
