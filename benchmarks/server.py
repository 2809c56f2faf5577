"""A contestant that runs: started, waited for, and ended with all its processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING, Self

from benchmarks.build import HERE, SOURCE
from benchmarks.catalogue import PROCESSES
from benchmarks.processes import on_core

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.cases import Family
    from benchmarks.catalogue import Contestant

OFFER = struct.pack(">IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)
QUIT = struct.pack(">Ic", 1, b"Q")
START_LIMIT = 10.0  # seconds


class ServerError(Exception):
    """The server did not start; the text says what it wrote last."""


def free_port() -> int:
    """Pick a TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """Context manager around the process of a contestant.

    Attributes:
        address: Where it listens, as the load generator and the contestants write it.
        startup: Seconds from the start of the process to its first answer.
    """

    def __init__(
        self,
        contestant: Contestant,
        program: Path,
        *,
        family: Family,
        kind: str,
        folder: Path,
        core: int | None,
    ) -> None:
        self.startup = 0.0
        self._name = contestant.name
        self._path = folder / "socket"
        self._port = free_port() if family == "tcp" else 0
        self.address = f"inet:{self._port}@127.0.0.1" if self._port else f"unix:{self._path}"
        words = contestant.command.format(
            program=shlex.quote(str(program)),
            here=shlex.quote(str(HERE)),
            address=self.address,
            filter=kind,
            processes=PROCESSES,
        )
        self._core = core
        self._command = shlex.split(words)
        self._environment = dict(os.environ)
        if contestant.need in ("pmilter", "pmilter with uvloop"):
            self._environment["PYTHONPATH"] = str(SOURCE)
        elif contestant.need == "pmilter compiled":
            self._environment["PYTHONPATH"] = ""  # what is installed there, not the source
        self._log = folder / "server.log"

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        begun = time.monotonic()
        with self._log.open("wb") as log, on_core(self._core):
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        try:
            while not self._answers():
                self._check_started(begun)
                time.sleep(0.001)
        except BaseException:
            self._end()
            raise
        self.startup = time.monotonic() - begun
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    @property
    def leader(self) -> int:
        """The id of the process and of its session."""
        return self._process.pid

    def last_words(self) -> str:
        """Read the end of what it wrote."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "(it wrote nothing)"

    def _answers(self) -> bool:
        family = socket.AF_INET if self._port else socket.AF_UNIX
        at = ("127.0.0.1", self._port) if self._port else str(self._path)
        with socket.socket(family) as probe:
            probe.settimeout(START_LIMIT)
            try:
                probe.connect(at)
                probe.sendall(OFFER)
                answer = probe.recv(5)
                probe.sendall(QUIT)
            except OSError:
                return False
            return answer[4:] == b"O"

    def _check_started(self, begun: float) -> None:
        ended = self._process.poll()
        if ended is not None:
            raise ServerError(f"{self._name} ended with status {ended}: {self.last_words()}")
        if time.monotonic() - begun > START_LIMIT:
            raise ServerError(f"{self._name} does not answer: {self.last_words()}")

    def _end(self) -> None:
        # The figures are taken, and some need five seconds to stop: no time for good manners.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
