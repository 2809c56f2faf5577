"""Does some work in a process of its own, so that there is an outcome whatever a user's code does there."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pmilter.cli.exits import describe
from pmilter.dispatchers.supervisor import describe as describe_exit
from pmilter.errors import ConfigError, MilterError

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK: Final = 65536
_STDOUT, _STDERR = 1, 2


def do_apart(name: str, work: Callable[[], Any], seconds: float, remedy: str = "") -> Any:
    """Do some work in a child, and return its result, which must be such as JSON has. What it prints goes to stderr.

    Args:
        name: What to call it in errors.
        work: What to do.
        seconds: After which to give up.
        remedy: What to say to who would wait longer.

    Raises:
        ConfigError: It raised something, ended the process, or took too long.
    """
    _flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _be_child(work, writer)
    os.close(writer)
    try:
        line = _read_line(reader, time.monotonic() + seconds)
    except TimeoutError:
        raise ConfigError(
            f"{name} has not come to an end within {seconds:g} seconds{remedy and f'; {remedy}'}"
        ) from None
    finally:
        os.close(reader)
        code = _end(pid)
    if not line:
        raise ConfigError(f"{name} has ended its process with {describe_exit(code)}")
    outcome = json.loads(line)
    if "error" in outcome:
        raise ConfigError(outcome["error"])
    return outcome["result"]


def _be_child(work: Callable[[], Any], writer: int) -> NoReturn:
    """Do the work, and tell the outcome. Nothing of the parent's (finally blocks, exit handlers) must run here."""
    try:
        os.dup2(_STDERR, _STDOUT)
        outcome = _outcome(work)
        _flush()
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            pipe.write(json.dumps(outcome) + "\n")
    finally:
        os._exit(0)


def _outcome(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": work()}
    except (MilterError, OSError) as error:
        return {"error": describe(error)}
    except BaseException as error:  # noqa: BLE001  # whatever a program raises, it is told
        return {"error": f"{type(error).__name__}: {error}"}


def _read_line(fd: int, deadline: float) -> bytes:
    """Return what comes up to a line feed, or nothing where the other end is closed before."""
    data = b""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while not data.endswith(b"\n"):
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        chunk = os.read(fd, _CHUNK)
        if not chunk:
            return b""
        data += chunk
    return data


def _end(pid: int) -> int:
    """End a child that has said all that it has to say, and return its exit status; minus the signal where it had ended by one."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
