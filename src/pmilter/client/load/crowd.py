"""The connections of a load that are open: how they come to be, are written to, and end."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from errno import ECONNREFUSED, EINPROGRESS, ENOENT
from typing import TYPE_CHECKING, Final

from pmilter.client.load.connection import Connection, Scripts
from pmilter.client.load.script import opening
from pmilter.client.load.sockets import Poller, look_up
from pmilter.errors import (
    ConnectionClosed,
    LimitExceeded,
    MilterError,
    MilterTimeout,
    RemoteProtocolError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.client.load.figures import Figures
    from pmilter.client.load.plan import Plan

_PATIENCE: Final = 10
"""Failures in a row, with no message between them, after which a load gives up; more where there are more connections."""

_NOBODY: Final = frozenset({ECONNREFUSED, ENOENT})
"""What connecting says where nobody listens."""

_KINDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (LimitExceeded, "limit"),
    (MilterTimeout, "timeout"),
    (ConnectionClosed, "closed"),
    (MilterError, "protocol"),
    (OSError, "closed"),
)
"""Error -> kind of failure; the first that fits counts."""


class Crowd:
    """All connections that are open.

    Args:
        plan: The load.
        figures: Where failures are counted.

    Attributes:
        poller: Tells which of them are ready.
        resting: Those that wait for a message.
        knocking: Those that found the filter's backlog full.
        failures_in_a_row: How many connections have failed since this was last set to 0.

    Raises:
        ConfigError: The address is none to connect to.
        OSError: Its host or service is not known.
    """

    def __init__(self, plan: Plan, figures: Figures) -> None:
        self._plan = plan
        self._figures = figures
        self._endpoint = look_up(plan.address)
        self._scripts = Scripts(plan)
        self._opening = opening(plan)
        self._open: dict[int, Connection] = {}
        self.find = self._open.get
        self.poller = Poller()
        self.resting: list[Connection] = []
        self.knocking: list[Connection] = []
        self.failures_in_a_row = 0

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """Go through those that are open now, whatever becomes of them meanwhile."""
        return iter([*self._open.values()])

    @property
    def room(self) -> int:
        """How many more there may be."""
        return self._plan.connections - len(self._open)

    @property
    def hopeless(self) -> bool:
        """Whether so many have failed that the others will too."""
        return self.failures_in_a_row >= max(_PATIENCE, self._plan.connections)

    def open(self, due: int, now: int) -> None:
        """Open one for a message."""
        try:
            sock = self._endpoint.socket()
        except OSError as error:
            self._note_failure("unreachable", f"{self._plan.address}: {error.strerror}")
            return
        connection = Connection(sock, self._plan, self._scripts, self._figures, now)
        connection.due = due
        self._open[connection.fd] = connection
        self._connect(connection)

    def knock(self) -> None:
        """Try again where the backlog was full."""
        knocking, self.knocking = self.knocking, []
        for connection in knocking:
            if self._is_open(connection):
                self._connect(connection)

    def _connect(self, connection: Connection) -> None:
        try:
            connection.sock.connect(self._endpoint.target)
        except BlockingIOError as error:
            if error.errno == EINPROGRESS:
                connection.connecting = True
                self.poller.watch(connection.fd, room=True)
            else:
                self.knocking.append(connection)
        except OSError as error:
            self._fail_to_connect(connection, error.errno or 0)
        else:
            self.poller.watch(connection.fd, room=False)
            self.send(connection, self._opening)

    def _fail_to_connect(self, connection: Connection, number: int) -> None:
        self.close(connection)
        question = " (is the filter running?)" if number in _NOBODY else ""
        self._note_failure("unreachable", f"{self._plan.address}: {os.strerror(number)}{question}")

    def go_on(self, connection: Connection) -> None:
        """Go on with one that had to wait to be made, or to send."""
        if connection.connecting:
            connection.connecting = False
            number = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self._fail_to_connect(connection, number)
                return
            rest: bytes | memoryview = self._opening
        else:
            assert connection.unsent is not None  # one of the two it was
            rest, connection.unsent = connection.unsent, None
        self.poller.watch(connection.fd, room=False)
        self.send(connection, rest)

    def send(self, connection: Connection, data: bytes | memoryview) -> None:
        """Send something, or as much of it as there is room for, and the rest when there is."""
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.fail(connection, error)
            return
        if sent < len(data):
            connection.unsent = memoryview(data)[sent:]
            connection.fast = None  # an answer would come too early
            self.poller.watch(connection.fd, room=True)

    def leave(self, connection: Connection, parting: bytes) -> None:
        """End one as the MTA does."""
        if _surplus(connection):
            text = "the filter has sent more than its last answer"
            self.fail(connection, RemoteProtocolError(text))
            return
        with suppress(OSError):  # where the filter was faster to close
            connection.send(parting)
        self.close(connection)

    def dismiss(self) -> None:
        """End those that wait for a message: there will be none."""
        while self.resting:
            connection = self.resting.pop()
            self.leave(connection, connection.parting)

    def give_up_silent(self, since: int) -> None:
        """End those that have owed an answer for too long, where nothing was heard of them since a time."""
        seconds = self._plan.timeout
        for connection in self:
            if connection.heard < since and not connection.resting:
                text = f"no answer at {connection.stage} within {seconds:g} s"
                self.fail(connection, MilterTimeout(text, seconds=seconds))

    def break_off_greetings(self) -> None:
        """Close those that have not got as far as a message, and count where they wait."""
        for connection in self:
            if connection.begun is None and not connection.resting:
                self._figures.waiting[connection.stage] += 1
                self.close(connection)

    def fail(self, connection: Connection, error: Exception) -> None:
        """End one that something is wrong with."""
        if connection in self.resting:
            self.resting.remove(connection)
        self.close(connection)
        text = str(error)
        if isinstance(error, OSError) and not isinstance(error, MilterError):
            text = f"connection lost at {connection.stage}: {error.strerror}"
        self._note_failure(next(name for kind, name in _KINDS if isinstance(error, kind)), text)

    def close(self, connection: Connection) -> None:
        """Close one without a word."""
        if self._is_open(connection):
            del self._open[connection.fd]
            connection.sock.close()

    def close_all(self) -> None:
        """Close all without a word, and release the poller."""
        for connection in self:
            self.close(connection)
        self.poller.close()

    def _is_open(self, connection: Connection) -> bool:
        return self._open.get(connection.fd) is connection

    def _note_failure(self, kind: str, text: str) -> None:
        self._figures.note_failure(kind, text)
        self.failures_in_a_row += 1


def _surplus(connection: Connection) -> bool:
    """Return whether bytes have come that nobody asked for."""
    try:
        return bool(connection.recv(1))
    except OSError:
        return False
