"""A server program in the foreground, with all its children: when it is up, and that nothing of it is left.

The children of an MTA outlive it by a moment, and not all are ours to wait for; so the whole process group is
watched. Nothing here knows mail.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmilter.errors import MilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT: Final = 15.0  # seconds
STOP_TIMEOUT: Final = 10.0  # seconds, each for asking and for killing
_POLL: Final = 0.01  # seconds between two looks at another program


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free loopback port that the system gives to nobody else until the block is left.

    A server that sets SO_REUSEADDR, as MTAs do, can take it meanwhile.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        yield holder.getsockname()[1]


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], *, output: Path, port: int
) -> Iterator[None]:
    """Run a server from when it listens on `port` until the block is left; then end it and all its children.

    Args:
        command: The program, which must stay in the foreground and in its process group.
        environment: Its whole environment.
        output: File for what it prints.
        port: Loopback port that tells that it is up; no connection is made, lest a filter behind it sees one.

    Raises:
        MilterError: It ended, or did not listen in time.
    """
    with output.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603  the program is the caller's, arguments are not parsed by a shell
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _await_start(process, port)
        yield
    finally:
        _stop(process)


def wait_for(condition: Callable[[], bool], timeout: float) -> bool:
    """Look until `condition` holds; False if it does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _await_start(process: subprocess.Popen[bytes], port: int) -> None:
    wait_for(lambda: process.poll() is not None or _listens(port), START_TIMEOUT)
    if process.poll() is not None:
        raise MilterError(
            f"{process.args!r} ended with status {process.returncode} instead of listening"
        )
    if not _listens(port):
        raise MilterError(
            f"{process.args!r} did not listen on port {port} within {START_TIMEOUT:g} s"
        )


def _listens(port: int) -> bool:
    """Whether a server listens there: only then SO_REUSEADDR does not help another one to bind."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the program to end; then kill what is left of its group, which nobody needs any more."""
    _signal_group(process.pid, signal.SIGTERM)
    wait_for(lambda: process.poll() is not None, STOP_TIMEOUT)
    _signal_group(process.pid, signal.SIGKILL)
    if not wait_for(
        lambda: process.poll() is not None and not _group_lives(process.pid), STOP_TIMEOUT
    ):
        raise MilterError(f"{process.args!r} left processes behind, process group {process.pid}")


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _group_lives(group: int) -> bool:
    """Whether the group has a process that runs; in a container nobody may collect those that ended."""
    return _signal_group(group, 0) and any(
        _runs_in(group, entry) for entry in Path("/proc").glob("[0-9]*/stat")
    )


def _runs_in(group: int, stat: Path) -> bool:
    try:
        state, _, process_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):  # it ended while we looked
        return False
    return int(process_group) == group and state != "Z"
