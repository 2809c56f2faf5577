"""Programs in processes of their own, started as a user starts them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pmilter.testing.rig.daemon import wait_for
from tests.support.processes import DEADLINE
from tests.support.wire import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTENING = re.compile(r"listening on (\S+)")


class Process:
    """A program of Python that runs in the background, and what it has said on stderr."""

    def __init__(self, *arguments: str, **environ: str) -> None:
        self._process = subprocess.Popen(
            [environ.pop("PYTHON", sys.executable), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environ,
        )
        self.pid = self._process.pid
        self.log = ""

    def listening(self) -> str:
        """Wait until its log tells where it listens, and return that address."""
        found = _LISTENING.search(self.await_line("listening on"))
        assert found is not None
        return found[1]

    def await_line(self, text: str) -> str:
        """Wait until it logs a line with a text, and return that line."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log += line
            if text in line:
                return line
        raise AssertionError(f"it ended instead of logging {text!r}: {self.log}")

    def reload(self) -> str:
        """Have it load its program anew; return the line that tells of the outcome."""
        self._process.send_signal(signal.SIGHUP)
        self.await_line("loading the program anew")
        line = self.await_line(" ")
        while "serves on" not in line and "not loaded anew" not in line:
            line = self.await_line(" ")
        return line

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        self._process.send_signal(number)
        self.output, rest = self._process.communicate(timeout=DEADLINE)
        self.log += rest
        return self._process.returncode

    def stop_impatiently(self) -> int:
        """Send SIGTERM again and again until the end, and return the exit status."""
        while self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):  # who handles signals only comes to no end
                self._process.wait(0.005)
        return self.stop()

    def kill(self) -> None:
        """End it without mercy, if it is still there."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def started(*arguments: str, **environ: str) -> Iterator[Process]:
    """Run Python with these arguments, and further environment variables, for the length of a block."""
    process = Process(*arguments, **environ)
    try:
        yield process
    finally:
        process.kill()


def await_filter(address: str) -> None:
    """Wait until a filter takes connections."""
    assert wait_for(lambda: _accepts(address), DEADLINE), f"nobody listens on {address}"


def _accepts(address: str) -> bool:
    try:
        connect(address).close()
    except OSError:
        return False
    return True
