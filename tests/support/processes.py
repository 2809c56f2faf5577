"""Children of the test process: forked, since a test's own functions run in them, and never returning into pytest."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 10.0
"""Seconds after which a test gives up waiting; nothing ever waits that long where all is well."""


def fork(work: Callable[[], object]) -> int:
    """Start a child that does some work, and return its number; its status is 0, or 1 with the traceback on stderr."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # The runner's own threads do nothing that a child could wait for.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def wait(pid: int, seconds: float = DEADLINE) -> int:
    """Return a child's exit status (minus the signal where one killed it); kill it and fail where it does not end in time."""
    fd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        ended = bool(poller.poll(seconds * 1000))
    finally:
        os.close(fd)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended, f"the child did not end within {seconds} seconds"
    return status


def in_child(work: Callable[[], object]) -> None:
    """Do some work in a child, and fail where it fails."""
    assert wait(fork(work)) == 0, "see the child's traceback on stderr"


def resident() -> int:
    """Return the bytes of memory that this process has: a child that it forks begins with as many."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
