"""`pmilter run` in a process of its own, with a filter that tests can hold up and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pmilter.testing.rig.daemon import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

FILTER = Path(__file__).with_name("filter_app.py")
DEADLINE = 20.0  # seconds


class App:
    """A running `pmilter run`; `waiting` and `go` are the two ends of X-Wait."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self._log = directory / "app.log"
        with self._log.open("ab") as log:
            offset = log.tell()
            command = [sys.executable, "-m", "pmilter", "run", str(FILTER), *options]
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        listening = wait_for(
            lambda: (
                b"listening on" in self._log.read_bytes()[offset:]
                or self.process.poll() is not None
            ),
            DEADLINE,
        )
        assert listening, self.log
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def wait_header(self) -> bytes:
        return f"X-Wait: {self.directory}\n".encode()

    def await_callback(self) -> int:
        """Wait until a callback waits, and return the id of the process that it runs in."""
        pid = self.directory / "pid"
        assert wait_for(pid.exists, DEADLINE), self.log
        return int(pid.read_text())

    def go(self) -> None:
        """Let the callback go on, and those after it."""
        (self.directory / "go").touch()

    def end(self) -> None:
        """Kill all that is left of it."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@contextmanager
def running(directory: Path, *options: str) -> Iterator[App]:
    """Run the app with options of `pmilter run` until the block is left, however it ends."""
    app = App(directory, *options)
    try:
        yield app
    finally:
        app.end()
