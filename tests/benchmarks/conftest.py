from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

import pytest

from benchmarks.build import load_generator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def generator() -> Path:
    """The load generator, built from its sources."""
    if shutil.which("gcc") is None:
        if os.environ.get("PMILTER_REQUIRE_MTA"):
            pytest.fail("gcc is not installed")
        pytest.skip("gcc is not installed")
    return load_generator()


def frame(code: bytes, payload: bytes = b"") -> bytes:
    return struct.pack(">I", 1 + len(payload)) + code + payload


class ScriptedFilter:
    """A filter that answers each command with the bytes it was told to, whatever they are.

    Attributes:
        address: Where it listens.
        commands: The codes it received, connection after connection.
    """

    def __init__(
        self,
        path: Path,
        *,
        agreement: tuple[int, int, int] = (6, 0, 0),
        answers: dict[str, bytes] | None = None,
    ) -> None:
        self.address = f"unix:{path}"
        self.commands = ""
        usual = {code: frame(b"c") for code in "CHMRTLNB"}
        offer = {"O": frame(b"O", struct.pack(">III", *agreement))}
        self._answers = {**usual, "E": frame(b"a"), **offer, **(answers or {})}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                try:
                    self._talk(connection, stream.read)
                except OSError:
                    continue  # the generator has seen enough

    def _talk(self, connection: socket.socket, read: Callable[[int], bytes]) -> None:
        while len(head := read(5)) == 5:
            length, code = struct.unpack(">Ic", head)
            read(length - 1)
            letter = code.decode()
            self.commands += letter
            if letter == "Q":
                return
            connection.sendall(self._answers.get(letter, b""))
