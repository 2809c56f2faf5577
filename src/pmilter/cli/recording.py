"""Records what MTA and filter say to each other: at the MTA's session in memory, at the filter's socket for a real MTA.

Nothing in the library knows of it, so that nothing is slower where nobody records.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pmilter.cli.account import Recorder
from pmilter.errors import MilterTimeout
from pmilter.protocol.frames import FrameReader
from pmilter.protocol.messages import Message, decode_answer, decode_command
from pmilter.protocol.mta_session import MtaSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter


class RecordedSession(MtaSession):
    """An MTA's session that tells a recorder of all messages."""

    __slots__ = ("_recorder",)

    def __init__(self, recorder: Recorder, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recorder = recorder

    def send(self, command: Message) -> None:
        """Send a command."""
        super().send(command)
        self._recorder.command(command)

    def next_answer(self) -> Message | None:
        """Return the next answer."""
        answer = super().next_answer()
        if answer is not None:
            self._recorder.answer(answer)
        return answer


class Connection:
    """What passes on one connection, cut into messages.

    Attributes:
        recorder: What has passed so far.
    """

    def __init__(self) -> None:
        self.recorder = Recorder()
        self._commands = FrameReader()
        self._answers = FrameReader()
        self._closed = threading.Event()

    def from_mta(self, data: bytes) -> None:
        """Take bytes that the MTA sent."""
        self._commands.feed(data)
        while frame := self._commands.next_frame():
            self.recorder.command(decode_command(*frame))

    def from_filter(self, data: bytes) -> None:
        """Take bytes that the filter sent."""
        self._answers.feed(data)
        while frame := self._answers.next_frame():
            self.recorder.answer(decode_answer(*frame))

    def close(self) -> None:
        """Take it that nothing more will pass."""
        self._closed.set()

    def wait_closed(self, seconds: float) -> None:
        """Wait until nothing more will pass.

        Raises:
            MilterTimeout: The MTA did not end the connection in time.
        """
        if not self._closed.wait(seconds):
            raise MilterTimeout(
                f"the MTA did not end its connection within {seconds:g} s", seconds=seconds
            )


class RecordedSocket(socket.socket):
    """A connected socket that tells of the bytes that pass."""

    def __init__(self, conn: socket.socket, connection: Connection) -> None:
        super().__init__(fileno=conn.detach())
        self._connection = connection

    def recv(self, *args: Any) -> bytes:
        """Receive from the MTA."""
        data = super().recv(*args)
        self._connection.from_mta(data)
        return data

    def sendall(self, data: Any, *args: Any) -> None:
        """Send to the MTA; recorded first, lest the MTA is quicker."""
        self._connection.from_filter(bytes(data))
        super().sendall(data, *args)

    def close(self) -> None:
        """Close."""
        super().close()
        self._connection.close()


def recording_dispatcher(begin: Callable[[Connection], object]) -> Dispatcher:
    """Return a dispatcher that serves one connection at a time, and records it.

    Args:
        begin: Called with each connection when it begins.
    """

    def serve(_milter: Milter, listener: Listener, handler: Handler) -> None:
        from pmilter.dispatchers.accepting import Stopped  # needed for real sockets only

        with suppress(Stopped):
            while True:
                conn, _ = listener.accept()
                connection = Connection()
                begin(connection)
                handler(RecordedSocket(conn, connection))

    return serve
