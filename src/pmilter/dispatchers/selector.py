"""One thread, all connections, a loop of its own: the most mail a second, for callbacks that do not wait for anything."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.doorway import Doorway, Guest
from pmilter.dispatchers.driver import LONG_READ_SIZE, QUICKACK, READ_SIZE, writer
from pmilter.dispatchers.handling import REFUSAL_TIME
from pmilter.dispatchers.overflow import Overflow, Places, check_overflow, places_for
from pmilter.effects import Receive
from pmilter.errors import MilterTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.effects import Effect, Send, Talk
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_IN: Final = select.POLLIN
_OUT: Final = select.POLLOUT
_ROUND: Final = 1.0
"""Seconds between two looks for connections whose time is over."""

_AT_ONCE: Final = 16
"""Most connections that take a step together: the first one's answer waits for the last one's callback."""

_LAST_MOMENT: Final = 1.0
"""Seconds for the callbacks of connections that were cut off."""

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
        _Loop(listener, handler, places_for(milter, handler, overflow)).run()

    return serve


class _Connection:
    """One connection: its socket, its conversation, what it waits for."""

    __slots__ = (
        "deadline",
        "guest",
        "quickack",
        "read_size",
        "receives_next",
        "recv",
        "resume",
        "send",
        "sock",
        "talk",
        "timeout",
        "unsent",
        "until",
    )

    def __init__(self, guest: Guest, talk: Talk, until: float) -> None:
        self.sock = sock = guest.sock
        self.guest = guest
        self.talk = talk
        self.resume = talk.send
        self.recv = sock.recv
        self.send = sock.send
        self.until = until
        self.deadline = until
        self.timeout: float | None = None
        self.unsent: memoryview | None = None
        self.receives_next = False
        self.read_size = READ_SIZE
        self.quickack = sock.family != socket.AF_UNIX and QUICKACK is not None


_Step = tuple[_Connection, "Callable[[Any], Effect]", object]
"""What a conversation is to go on with: it, its `send` or `throw`, and the argument of that."""


class _Loop:
    """The loop of one service.

    Args:
        listener: Where connections come from.
        handler: Makes conversations.
        places: Counts the connections.
    """

    def __init__(self, listener: Listener, handler: Handler, places: Places) -> None:
        handler.at_once = True
        self._handler = handler
        self._serving = handler.serving
        self._poller = _Poller()
        self._doorway = Doorway(
            listener,
            handler,
            places,
            lambda fd: self._poller.register(fd, _IN),
            self._poller.unregister,
        )
        self._connections: dict[int, _Connection] = {}
        self._watched: tuple[int, ...] = ()
        self._now = time.monotonic()
        self._next_look = self._now

    def run(self) -> None:
        """Serve until all has come to its end."""
        serving, connections = self._serving, self._connections
        try:
            while not serving.ending:
                self._round(_ROUND)
            self._doorway.close()
            while connections and (left := serving.time_left()) > 0:
                self._round(left)
            serving.connections.cut_off()
            deadline = self._now + _LAST_MOMENT
            while connections and (left := deadline - self._now) > 0:
                self._round(left)
        finally:
            self._poller.close()

    def _round(self, seconds: float) -> None:
        """Wait until something happens, for some seconds at most, and do what it makes possible.

        What has arrived is received from all connections before the first conversation goes on: see `_carry_on`.
        """
        now = self._now
        if now >= self._next_look:
            self._look(now)
        connections = self._connections
        events = self._poller.poll(min(seconds, self._next_look - now))
        now = self._now = time.monotonic()
        steps: list[_Step] = []
        for fd, _ in events:
            connection = connections.get(fd)
            if connection is None:
                self._heed(fd, now)
                continue
            if connection.unsent is not None:
                self._send_rest(connection, now)
                continue
            try:
                if connection.quickack:
                    connection.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK or 0, 1)
                data = connection.recv(connection.read_size)
            except BlockingIOError:
                continue
            except OSError as error:
                steps.append((connection, connection.talk.throw, error))
                continue
            connection.read_size = READ_SIZE if len(data) < READ_SIZE else LONG_READ_SIZE
            steps.append((connection, connection.resume, data))
        self._carry_on(steps, now)

    def _heed(self, fd: int, now: float) -> None:
        """Do what has become possible elsewhere than on a connection."""
        if fd == self._doorway.fd:
            guest = self._doorway.let_in()
            if guest is not None:
                self._begin(guest, now)
        elif fd in self._watched:
            self._serving.heed(fd)
            self._watch()

    def _look(self, now: float) -> None:
        """Do what is to be done from time to time."""
        self._watch()
        self._time_out(now)
        self._doorway.open()
        self._next_look = now + min(_ROUND, self._serving.notifier.sign_of_life())

    def _watch(self) -> None:
        """Wait for what may happen to the service."""
        watched = self._serving.watched_fds()
        if watched != self._watched:
            for fd in self._watched:
                self._poller.unregister(fd)
            for fd in watched:
                self._poller.register(fd, _IN)
            self._watched = watched

    def _begin(self, guest: Guest, now: float) -> None:
        sock, peer, place = guest
        make = self._handler.conversation if place.served else self._handler.refusal
        until = _NEVER if place.served else now + REFUSAL_TIME
        connection = _Connection(guest, make(peer, writer(sock)), until)
        self._connections[sock.fileno()] = connection
        self._poller.register(sock.fileno(), _IN)
        self._carry_on([(connection, connection.resume, None)], now)

    # --- performing

    def _carry_on(  # noqa: C901  # one piece, since it runs for every header of every mail
        self, steps: list[_Step], now: float
    ) -> None:
        """Carry conversations on, up to where each waits for its MTA.

        All take a step, then what they have to say is sent: receiving, thinking and sending in turns, each for several connections,
        finds the processor's caches warm, which saves a tenth of the time.
        """
        while steps:
            effects: list[tuple[_Connection, Any]] = []
            for connection, step, value in steps:
                try:
                    effects.append((connection, step(value)))
                except BaseException as error:  # noqa: BLE001  # one connection's trouble is not another's
                    self._end(connection, error)
            steps = []
            for connection, effect in effects:
                receives = type(effect) is Receive
                if receives:
                    timeout = effect.timeout
                    connection.deadline = _NEVER if timeout is None else now + timeout
                    data = effect.answer
                    if not data:
                        continue
                else:
                    data = effect.data
                try:
                    sent = connection.send(data)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    steps.append((connection, connection.talk.throw, error))
                    continue
                if sent < len(data):
                    self._send_later(connection, data[sent:], effect, now)
                elif not receives:
                    steps.append((connection, connection.resume, None))

    def _send_later(
        self, connection: _Connection, rest: bytes, effect: Receive | Send, now: float
    ) -> None:
        """Have a conversation wait until the MTA takes the rest; what it waits for then is bytes, or to go on."""
        connection.unsent = memoryview(rest)
        connection.receives_next = isinstance(effect, Receive)
        connection.timeout = effect.timeout if isinstance(effect, Receive) else None
        connection.deadline = now + self._handler.program.plan.limits.frame_time
        self._poller.modify(connection.sock.fileno(), _OUT)

    def _send_rest(self, connection: _Connection, now: float) -> None:
        unsent = connection.unsent or memoryview(b"")
        try:
            sent = connection.send(unsent)
        except BlockingIOError:
            return
        except OSError as error:
            self._carry_on([(connection, connection.talk.throw, error)], now)
            return
        connection.unsent = unsent[sent:]
        if sent == len(unsent):
            connection.unsent = None
            self._poller.modify(connection.sock.fileno(), _IN)
            if connection.receives_next:
                timeout = connection.timeout
                connection.deadline = _NEVER if timeout is None else now + timeout
            else:
                self._carry_on([(connection, connection.resume, None)], now)

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
            self._carry_on([(connection, connection.talk.throw, error)], now)

    def _end(self, connection: _Connection, error: BaseException) -> None:
        """Note that a conversation has ended: by returning, as it should, or by an error of its own."""
        self._close(connection)  # first: what went wrong may be the log
        if not isinstance(error, StopIteration):
            logger.error("a connection failed", exc_info=error)

    def _close(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._poller.unregister(fd)
        self._doorway.let_out(connection.guest)
        connection.sock.close()


class _Poller:
    """epoll where there is one, else poll: the same calls, times in seconds."""

    def __init__(self) -> None:
        epoll = getattr(select, "epoll", None)
        self._epoll = epoll() if epoll is not None else None
        self._poll = self._epoll or select.poll()
        self.register = self._poll.register
        self.modify = self._poll.modify

    def unregister(self, fd: int) -> None:
        """Forget a descriptor; one that is closed already has been forgotten."""
        with contextlib.suppress(OSError, KeyError, ValueError):
            self._poll.unregister(fd)

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        """Return some descriptors and their events, after some seconds at the latest."""
        if self._epoll is not None:
            return self._epoll.poll(seconds, _AT_ONCE)  # type: ignore[no-any-return]  # looked up by name
        events: list[tuple[int, int]] = self._poll.poll(seconds * 1000)
        return events

    def close(self) -> None:
        """Release the descriptor."""
        if self._epoll is not None:
            self._epoll.close()
