"""A filter that serves in processes of its own, and tells of its state as it would tell systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from proofs.handover import NAME
from proofs.processes import descendants

if TYPE_CHECKING:
    from proofs.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
FILTERS = Path(__file__).with_name("filters")
LOG = "service.log"
"""Name of the file with what the filter logs."""
BACKLOG = 1024
"""Connections that may wait: with fewer, Postfix would be turned away by the system, and not by the filter."""
TIMEOUT = 60.0
"""Seconds for a start, a reload or a stop."""


class ServiceError(Exception):
    """The service did not do what it was asked to; the text has the end of its log."""


class Service:
    """A running filter; use it as a context manager.

    Args:
        program: Name of a file in `FILTERS`.
        settings: How it is served.
        directory: Where its log goes.
        address: Where it listens; by default a UNIX socket of its own.
        reloads: Serve with ``pmilter run``, whose parent loads nothing.
        handed: A listening socket to hand over, which is where it listens then.

    Attributes:
        address: Where it listens.
    """

    def __init__(
        self,
        program: str,
        settings: Settings,
        directory: Path,
        *,
        address: str | None = None,
        reloads: bool = False,
        handed: socket.socket | None = None,
    ) -> None:
        self._log = directory / LOG
        self._log.unlink(missing_ok=True)
        self._place = tempfile.TemporaryDirectory(prefix="proof-")  # a short path, as sockets need
        self._told_at = Path(self._place.name, "notify")
        self._handed = handed
        self.address = address or f"unix:{self._place.name}/socket"
        where = self.address if handed is None else f"fd:{NAME}"
        self._command = _command(FILTERS / f"{program}.py", where, settings, reloads=reloads)
        self._environment = {
            **os.environ,
            **settings.environment(),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "NOTIFY_SOCKET": str(self._told_at),
        }
        self._process: subprocess.Popen[bytes]
        self._manager: socket.socket

    def __enter__(self) -> Self:
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(self._told_at))
        try:
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def pid(self) -> int:
        """The topmost process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def descendants(self) -> list[int]:
        """Return the processes below the topmost."""
        return descendants(self.pid)

    def log(self) -> str:
        """Return what it has logged so far."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start it; return when it serves."""
        handed = [] if self._handed is None else [self._handed.fileno()]
        handover = [sys.executable, "-m", "proofs.handover", str(handed[0])] if handed else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*handover, *self._command],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=handed,
                start_new_session=True,
            )
        self._await("READY=1")

    def reload(self) -> None:
        """Have it load its program anew; return when that serves."""
        self._process.send_signal(signal.SIGHUP)
        self._await("RELOADING=1")
        self._await("READY=1")

    def stop(self) -> int:
        """Stop it with TERM, and return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(TIMEOUT)

    def _await(self, state: str) -> None:
        """Return when it has told of a state."""
        deadline = time.monotonic() + TIMEOUT
        self._manager.settimeout(0.2)
        while self.alive and time.monotonic() < deadline:
            try:
                told = self._manager.recv(65536).decode()
            except TimeoutError:
                continue
            if state in told.splitlines():
                return
        raise ServiceError(f"{state} did not come; its log ends with:\n{self.log()[-2000:]}")

    def _close(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._manager.close()
        self._place.cleanup()


def _command(program: Path, address: str, settings: Settings, *, reloads: bool) -> list[str]:
    if not reloads:
        return [sys.executable, "-m", "proofs.serve", str(program), address]
    options = ["--listen", address, "--backlog", str(BACKLOG)]
    if settings.max_memory is not None:
        options += ["--max-memory", str(settings.max_memory)]
    return [sys.executable, "-m", "pmilter", "run", str(program), *options]
