"""One thread, all connections, a loop of its own: the most mail a second, for callbacks that do not wait for anything."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.driver import QUICKACK, READ_SIZE, peer_name
from pmilter.dispatchers.overflow import Overflow, Places, check_overflow
from pmilter.dispatchers.serving import REFUSAL_TIME, Stopped
from pmilter.effects import Call, Receive, thrown
from pmilter.errors import MilterTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.dispatchers.serving import Handler, Listener
    from pmilter.effects import Effect, Talk
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_IN: Final = select.POLLIN
_OUT: Final = select.POLLOUT
_ROUND: Final = 1.0
"""Seconds between two looks for connections whose time is over."""

_NEVER: Final = float("inf")


def selector_dispatcher(*, overflow: Overflow = "refuse") -> Dispatcher:
    """Return a dispatcher that serves all connections on one thread. A slow callback stalls all of them.

    Args:
        overflow: What becomes of connections over `max_children` (by default over `Limits.connections`).

    Raises:
        ConfigError: `overflow` is neither ``"refuse"`` nor ``"wait"``.
    """
    check_overflow(overflow)

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        limit = milter.get_max_interpreters() or handler.program.plan.limits.connections
        _Loop(listener, handler, Places(limit, overflow)).run()

    return serve


class _Connection:
    """One connection: its socket, its conversation, what it waits for."""

    __slots__ = (
        "deadline",
        "quickack",
        "recv",
        "resume",
        "send",
        "sock",
        "talk",
        "unsent",
        "until",
    )

    def __init__(self, sock: socket.socket, talk: Talk, until: float) -> None:
        self.sock = sock
        self.talk = talk
        self.resume = talk.send
        self.recv = sock.recv
        self.send = sock.send
        self.until = until
        self.deadline = until
        self.unsent: memoryview | None = None
        self.quickack = sock.family != socket.AF_UNIX and QUICKACK is not None


class _Loop:
    """The loop of one service.

    Args:
        listener: Where connections come from.
        handler: Makes conversations.
        places: Counts the connections.
    """

    def __init__(self, listener: Listener, handler: Handler, places: Places) -> None:
        self._listener = listener
        self._handler = handler
        self._serving = handler.serving
        self._places = places
        self._poller = _Poller()
        self._connections: dict[int, _Connection] = {}
        self._listening = False

    def run(self) -> None:
        """Serve until all has come to its end."""
        self._poller.register(self._serving.stop_fd, _IN)
        self._listen()
        clock, poll, connections = time.monotonic, self._poller.poll, self._connections
        looked = clock()
        try:
            while not self._serving.stopping:
                events = poll(_ROUND)
                now = clock()
                for fd, _ in events:
                    connection = connections.get(fd)
                    if connection is not None:
                        self._attend(connection, now)
                    elif fd == self._serving.stop_fd:
                        self._serving.stop_here()
                    else:
                        self._accept(now)
                if now - looked >= _ROUND:
                    looked = now
                    self._time_out(now)
        except Stopped:
            pass
        finally:
            self._finish()
            self._poller.close()

    def _finish(self) -> None:
        """Let open messages end, for as long as the grace period allows."""
        serving = self._serving
        serving.stop_here()
        self._unlisten()
        self._poller.unregister(serving.stop_fd)
        deadline = time.monotonic() + serving.grace
        while self._connections and not serving.urgent and (now := time.monotonic()) < deadline:
            for fd, _ in self._poller.poll(min(_ROUND, deadline - now)):
                if (connection := self._connections.get(fd)) is not None:
                    self._attend(connection, now)
        for connection in tuple(self._connections.values()):
            self._perform(connection, connection.resume, b"", time.monotonic())
            self._close(connection)

    # --- accepting

    def _listen(self) -> None:
        if not self._listening:
            self._poller.register_listener(self._listener.socket.fileno())
            self._listening = True

    def _unlisten(self) -> None:
        if self._listening:
            self._poller.unregister(self._listener.socket.fileno())
            self._listening = False

    def _accept(self, now: float) -> None:
        """Accept one connection: not all that wait, so that other processes get their share."""
        accepted = self._listener.accept_now()
        if accepted is None:
            return
        sock = accepted[0]
        try:
            self._begin(sock, now)
        except OSError as error:  # gone before it began
            logger.info("a connection was lost: %s", error)
            sock.close()
        if self._places.full:
            self._unlisten()

    def _begin(self, sock: socket.socket, now: float) -> None:
        sock.setblocking(False)  # noqa: FBT003  # the standard library's own signature
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = peer_name(sock)
        served = self._places.take()
        make = self._handler.conversation if served else self._handler.refusal
        connection = _Connection(
            sock, make(peer, sock.send), _NEVER if served else now + REFUSAL_TIME
        )
        self._connections[sock.fileno()] = connection
        self._serving.enter(sock)
        self._poller.register(sock.fileno(), _IN)
        self._perform(connection, connection.resume, None, now)

    # --- performing

    def _attend(self, connection: _Connection, now: float) -> None:
        """Do what has become possible on a connection."""
        if connection.unsent is not None:
            self._send_rest(connection, now)
            return
        try:
            if connection.quickack:
                connection.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK or 0, 1)
            data = connection.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._perform(connection, connection.talk.throw, error, now)
            return
        self._perform(connection, connection.resume, data, now)

    def _perform(
        self, connection: _Connection, step: Callable[[Any], Effect], value: object, now: float
    ) -> None:
        """Carry a conversation on, up to where it waits."""
        resume = connection.resume
        while True:
            try:
                effect = step(value)
            except StopIteration:
                self._close(connection)
                return
            step = resume
            try:
                if type(effect) is Call:
                    value = effect.function(*effect.arguments)
                elif type(effect) is Receive:
                    timeout = effect.timeout
                    connection.deadline = connection.until if timeout is None else now + timeout
                    return
                elif self._has_sent(connection, effect.data, now):  # type: ignore[union-attr]  # it is a Send
                    value = None
                else:
                    return
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                step, value = connection.talk.throw, thrown(error)

    def _has_sent(self, connection: _Connection, data: bytes, now: float) -> bool:
        """Send; return False where the conversation is to wait until the MTA takes the rest."""
        sent = _send(connection, data)
        if sent == len(data):
            return True
        connection.unsent = memoryview(data)[sent:]
        connection.deadline = now + self._handler.program.plan.limits.frame_time
        self._poller.modify(connection.sock.fileno(), _OUT)
        return False

    def _send_rest(self, connection: _Connection, now: float) -> None:
        unsent = connection.unsent or memoryview(b"")
        try:
            sent = _send(connection, unsent)
        except OSError as error:
            self._perform(connection, connection.talk.throw, error, now)
            return
        connection.unsent = unsent[sent:]
        if sent == len(unsent):
            connection.unsent = None
            self._poller.modify(connection.sock.fileno(), _IN)
            self._perform(connection, connection.resume, None, now)

    def _time_out(self, now: float) -> None:
        """End the connections whose time is over."""
        for connection in [
            c for c in self._connections.values() if min(c.deadline, c.until) <= now
        ]:
            what = (
                "nothing came from the MTA"
                if connection.unsent is None
                else "the MTA takes no more"
            )
            error = MilterTimeout(f"{what} for too long")
            self._perform(connection, connection.talk.throw, error, now)

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._poller.unregister(fd)
        connection.sock.close()
        self._serving.leave(connection.sock)
        self._places.give(served=connection.until == _NEVER)
        if not self._places.full and not self._serving.ending:
            self._listen()


def _send(connection: _Connection, data: bytes | memoryview) -> int:
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0


class _Poller:
    """epoll where there is one, else poll: the same calls, times in seconds."""

    def __init__(self) -> None:
        epoll = getattr(select, "epoll", None)
        self._epoll = epoll() if epoll is not None else None
        self._poll = self._epoll or select.poll()
        self.register = self._poll.register
        self.modify = self._poll.modify

    def register_listener(self, fd: int) -> None:
        """Register a socket that several processes may accept on: not all of them need be woken for each connection."""
        if self._epoll is not None:
            with contextlib.suppress(OSError):
                self._epoll.register(fd, _IN | select.EPOLLEXCLUSIVE)
                return
        self._poll.register(fd, _IN)

    def unregister(self, fd: int) -> None:
        """Forget a descriptor; one that is closed already has been forgotten."""
        with contextlib.suppress(OSError, KeyError, ValueError):
            self._poll.unregister(fd)

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        """Return descriptors and events, after some seconds at the latest."""
        return self._poll.poll(seconds if self._epoll is not None else seconds * 1000)

    def close(self) -> None:
        """Release the descriptor."""
        if self._epoll is not None:
            self._epoll.close()
