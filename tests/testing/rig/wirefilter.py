"""A milter spoken byte by byte, with nothing of pmilter in it: the independent peer of the real MTAs.

It says yes to everything, except where a test gave it answers of its own, and keeps every command it got.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 6
ALL_ACTIONS = 0x1FF
ASK_EVERYTHING = 0  # no event is switched off and each is answered

SILENT = frozenset(b"AD")  # abort and macros have no answer
GOODBYE = frozenset(b"QK")

Answer = Callable[[bytes], list[bytes]]


def frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


class WireFilter:
    """Listens from construction until `close`; a thread for each connection.

    `answers` maps a command letter to the payloads sent for it, or to a function of the command's data that
    makes them; other commands are answered with ``c``. At a command of `dies_at` it hangs up without an answer.
    """

    def __init__(
        self,
        answers: Mapping[bytes, list[bytes] | Answer] | None = None,
        *,
        path: Path | None = None,
        dies_at: Collection[bytes] = (),
    ) -> None:
        self._dies_at = dies_at
        self._answers = dict(answers or {})
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"inet:{self._listener.getsockname()[1]}@127.0.0.1"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            path.chmod(0o666)
            self._listener.listen()
            self.address = f"unix:{path}"
        self.events: list[tuple[bytes, bytes]] = []
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for open_socket in (self._listener, *self._connections):
            with suppress(OSError):  # closed by now
                open_socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def data(self, letter: bytes) -> list[bytes]:
        """What came with each command of that letter."""
        return [data for code, data in self.events if code == letter]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                while head := stream.read(4):
                    command = stream.read(struct.unpack(">I", head)[0])
                    if not self._reply(connection, command[:1], command[1:]):
                        return
            except ConnectionError:  # the MTA was stopped
                return

    def _reply(self, connection: socket.socket, letter: bytes, data: bytes) -> bool:
        self.events.append((letter, data))
        if letter[0] in GOODBYE or letter in self._dies_at:
            return False
        if letter[0] not in SILENT:
            connection.sendall(b"".join(frame(payload) for payload in self._payloads(letter, data)))
        return True

    def _payloads(self, letter: bytes, data: bytes) -> list[bytes]:
        if letter == b"O":
            return [b"O" + struct.pack(">III", VERSION, ALL_ACTIONS, ASK_EVERYTHING)]
        answer = self._answers.get(letter, [b"c"])
        return answer(data) if callable(answer) else answer
