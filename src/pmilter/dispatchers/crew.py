"""Threads that call callbacks. They are daemons: one that hangs keeps no process from ending."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[], object]

logger: Final = logging.getLogger("pmilter")


class Crew:
    """A number of threads, each started when it is first needed. Any thread may use it.

    Args:
        most: Most threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads = 0
        self._idle = 0
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def submit(self, job: Job) -> None:
        """Have a job done, which must not raise; where all threads are at work, later."""
        with self._changed:
            self._jobs.append(job)
            if self._idle >= len(self._jobs) or self._threads == self._most:
                self._changed.notify()
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="pmilter", daemon=True).start()
        except RuntimeError as error:  # those that there are will do it, or its deadline comes
            logger.error("cannot start a thread: %s", error)
            with self._changed:
                self._threads -= 1

    def withdraw(self, job: Job) -> bool:
        """Forget a job; return False where it has begun."""
        with self._changed:
            try:
                self._jobs.remove(job)
            except ValueError:
                return False
            return True

    def close(self) -> None:
        """Begin nothing more; threads that are at work end when their job does."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Job | None:
        """Wait for a job; return None where there are to be no more."""
        with self._changed:
            self._idle += 1
            while not self._jobs and not self._closed:
                self._changed.wait()
            self._idle -= 1
            return None if self._closed else self._jobs.popleft()
