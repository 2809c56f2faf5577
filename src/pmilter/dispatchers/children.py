"""Forked children: started, counted, reaped and stopped. For dispatchers that serve in processes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.serving import Serving

logger: Final = logging.getLogger("pmilter")

_CHECK: Final = 0.02
"""Seconds between two looks for ended children while stopping."""


class Children:
    """The children of one service. For one thread.

    Args:
        serving: The service; in a child it is that child's own.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._pids: set[int] = set()

    def __len__(self) -> int:
        """Return how many there are, as of the last `reap`."""
        return len(self._pids)

    def fork(self, work: Callable[[], object]) -> None:
        """Have a child do some work and end. A failed fork is logged, and the work left undone."""
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:
            logger.error("cannot fork: %s; the connection is closed", error)  # the system's state
            return
        if pid == 0:
            self._run(work)
        self._pids.add(pid)

    def _run(self, work: Callable[[], object]) -> None:
        """Be the child. Never returns: nothing of the parent's (finally blocks, exit handlers) must run here."""
        status = 1
        try:
            self._pids.clear()
            self._serving.begin_child()
            self._take_signals()
            work()
            status = 0
        except BaseException:
            logger.exception("a child failed")
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _take_signals(self) -> None:
        """Finish gracefully on TERM; leave INT to the parent, since a terminal sends it to all."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: self._serving.stop_here())
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def reap(self) -> None:
        """Collect the children that have ended; only ours, whoever else forks in this process."""
        for pid in tuple(self._pids):
            ended, status = _waitpid(pid)
            if ended:
                self._pids.discard(pid)
                code = os.waitstatus_to_exitcode(status)
                if code:
                    logger.warning("child %d ended with %s", pid, _describe(code))

    def stop(self) -> None:
        """Have all children finish what they have, and end those that do not within the grace period."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + self._serving.grace
        while self._reaped() and not self._serving.urgent and time.monotonic() < deadline:
            time.sleep(_CHECK)
        if self._reaped():
            logger.warning("killing %d children that did not end in time", len(self._pids))
            self._signal(signal.SIGKILL)
            for pid in tuple(self._pids):
                os.waitpid(pid, 0)
                self._pids.discard(pid)

    def _reaped(self) -> int:
        self.reap()
        return len(self._pids)

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            os.kill(pid, number)


def _waitpid(pid: int) -> tuple[bool, int]:
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # the embedding program ignores SIGCHLD, so the kernel has reaped it
        return True, 0
    return ended != 0, status


def _describe(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
