"""A filter in a process of its own that answers each command with the bytes it was told, right or wrong."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from typing import TYPE_CHECKING, Self

from tests.support.notation import frame, parse, split
from tests.support.processes import fork, wait
from tests.support.wire import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

CLOSE = b""
"""An answer: close the connection."""

SILENCE = None
"""An answer: say nothing."""

USUAL: dict[str, bytes | None] = {
    "O": parse("O 6 1ff 0"),
    **{code: frame("c") for code in "CHMRTLNBUE"},
}
"""Code of a command -> answer, of a filter that wants to see all and lets everything pass."""


class RawFilter:
    """Context manager.

    Args:
        directory: Where to put the socket.
        answers: Code of a command -> answer, where it differs from `USUAL`. An answer to Q is given before closing.

    Attributes:
        address: Where it listens.
        trace: The codes that came on a connection, a line for each that has ended.
    """

    def __init__(self, directory: Path, answers: Mapping[str, bytes | None] | None = None) -> None:
        path = directory / "raw"
        self.address = f"unix:{path}"
        self.trace = Trace()
        self._answers = {**USUAL, **(answers or {})}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)

    def __enter__(self) -> Self:
        self._pid = fork(self._serve)
        self._listener.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.kill(self._pid, signal.SIGKILL)
        wait(self._pid)
        self.trace.close()

    def _serve(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._codes: dict[int, str] = {}
        self._data: dict[int, bytes] = {}
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    sock, _ = self._listener.accept()
                    self._selector.register(sock, selectors.EVENT_READ)
                    self._codes[sock.fileno()], self._data[sock.fileno()] = "", b""
                elif not self._goes_on(sock):
                    self._close(sock)

    def _goes_on(self, sock: socket.socket) -> bool:
        try:
            return self._answer(sock)
        except OSError:
            return False

    def _answer(self, sock: socket.socket) -> bool:
        fd = sock.fileno()
        data = sock.recv(1_000_000)
        frames, self._data[fd] = split(self._data[fd] + data)
        for command in frames:
            code = chr(command[4])
            self._codes[fd] += code
            answer = self._answers.get(code, SILENCE)
            if answer == CLOSE:
                return False
            if answer is not None:
                sock.sendall(answer)
        return bool(data)

    def _close(self, sock: socket.socket) -> None:
        self.trace.say(self._codes[sock.fileno()])
        self._selector.unregister(sock)
        sock.close()
