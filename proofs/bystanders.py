"""Connections that go about their business while others are in trouble, and look at the clock."""

from __future__ import annotations

import threading
import time
from itertools import cycle
from typing import Self

from proofs.wire import CONTINUE, MESSAGE, STAGES, Wire

PAUSE = 0.01
"""Seconds between two commands of one of them."""


class Bystander:
    """One connection that sends message after message.

    Attributes:
        pid: The process that serves it.
        slowest: Seconds that the slowest answer took.
        cut: The answer that was none, empty for a closed connection; None where all are well.
    """

    def __init__(self, address: str, stop: threading.Event) -> None:
        self._stop = stop
        self._wire = Wire(address)
        self._wire.begin()
        code = self._wire.send_message()
        if code != CONTINUE:
            raise ConnectionError(f"a filter answers an ordinary message with {code!r}")
        self.pid = int(self._wire.added[-1])
        self.slowest = 0.0
        self.cut: bytes | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Return when it has ended."""
        self._thread.join()
        self._wire.close()

    def _run(self) -> None:
        for stage in cycle(MESSAGE):
            begun = time.monotonic()
            code, _ = self._wire.ask(STAGES[stage])
            if code != CONTINUE:
                self.cut = code
                return
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if self._stop.wait(PAUSE):
                return


class Bystanders:
    """Some of them; use it as a context manager."""

    def __init__(self, address: str, count: int) -> None:
        self._stop = threading.Event()
        self.all = [Bystander(address, self._stop) for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self.all:
            each.end()
