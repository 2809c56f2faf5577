"""One thread, all connections, a loop of its own: the most mail a second, for callbacks that do not wait for anything."""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.doorway import Doorway, Guest
from pmilter.dispatchers.driver import acknowledge, writer
from pmilter.dispatchers.handling import REFUSAL_TIME
from pmilter.dispatchers.overflow import Overflow, Places, check_overflow, places_for
from pmilter.dispatchers.traffic import Line, Traffic, send
from pmilter.effects import Receive
from pmilter.errors import MilterTimeout

if TYPE_CHECKING:
    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.effects import Talk
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_ROUND: Final = 1.0
"""Seconds between two looks for connections whose time is over."""

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


class _Connection(Line):
    """One connection: its socket, its conversation, what it waits for."""

    __slots__ = (
        "deadline",
        "guest",
        "receives_next",
        "resume",
        "throw",
        "timeout",
        "unsent",
        "until",
    )

    def __init__(self, guest: Guest, talk: Talk, until: float) -> None:
        super().__init__(guest.sock)
        self.guest = guest
        self.resume = talk.send
        self.throw = talk.throw
        self.until = until
        self.deadline = until
        self.timeout: float | None = None
        self.unsent = b""
        self.receives_next = False


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
        self._traffic: Traffic[_Connection] = Traffic()
        self._tcp = listener.socket.family != socket.AF_UNIX
        self._doorway = Doorway(
            listener, handler, places, self._traffic.watch, self._traffic.unwatch
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
            self._traffic.close()

    def _round(self, seconds: float) -> None:
        """Wait until something happens, for some seconds at most, and do what it makes possible."""
        now = self._now
        if now >= self._next_look:
            self._look(now)
        received, others = self._traffic.receive(min(seconds, self._next_look - now))
        now = self._now = time.monotonic()
        if received:
            self._carry_on(received, now)
        for fd, error in others:
            self._heed(fd, error, now)

    def _heed(self, fd: int, error: OSError | None, now: float) -> None:
        """Do what else has become possible."""
        connection = self._connections.get(fd)
        if connection is not None:
            if error is not None:
                self._carry_on([(connection, error)], now, thrown=True)
            else:
                self._send_rest(connection, now)
        elif fd == self._doorway.fd:
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
                self._traffic.unwatch(fd)
            for fd in watched:
                self._traffic.watch(fd)
            self._watched = watched

    def _begin(self, guest: Guest, now: float) -> None:
        sock, peer, place = guest
        make = self._handler.conversation if place.served else self._handler.refusal
        until = _NEVER if place.served else now + REFUSAL_TIME
        connection = _Connection(guest, make(peer, writer(sock)), until)
        self._connections[connection.fd] = connection
        self._traffic.add(connection)
        self._carry_on([(connection, None)], now)

    # --- performing

    def _carry_on(
        self, outcomes: list[tuple[_Connection, Any]], now: float, *, thrown: bool = False
    ) -> None:
        """Carry some conversations on, up to where each waits for its MTA; then send what they have to say.

        Args:
            outcomes: With what each goes on.
            now: The time.
            thrown: Whether these are errors to be thrown into them.
        """
        while outcomes:
            said: list[tuple[_Connection, bytes]] = []
            again: list[tuple[_Connection, Any]] = []
            for connection, outcome in outcomes:
                try:
                    effect: Any = (connection.throw if thrown else connection.resume)(outcome)
                except BaseException as error:  # noqa: BLE001  # one connection's trouble is not another's
                    self._end(connection, error)
                    continue
                if type(effect) is Receive:
                    timeout = connection.timeout = effect.timeout
                    connection.deadline = _NEVER if timeout is None else now + timeout
                    if effect.answer:
                        said.append((connection, effect.answer))
                    elif self._tcp:
                        acknowledge(connection.sock)
                else:
                    said.append((connection, effect.data))
                    again.append((connection, None))
            for connection, rest, failure in send(said):
                receives = (connection, None) not in again
                if not receives:
                    again.remove((connection, None))
                if failure is not None:
                    self._carry_on([(connection, failure)], now, thrown=True)
                else:
                    self._send_later(connection, rest, now, receives=receives)
            outcomes, thrown = again, False

    def _send_later(
        self, connection: _Connection, rest: bytes, now: float, *, receives: bool
    ) -> None:
        """Have a conversation wait until the MTA takes the rest; what it waits for then is bytes, or to go on."""
        connection.unsent = rest
        connection.receives_next = receives
        connection.deadline = now + self._handler.program.plan.limits.frame_time
        self._traffic.pause(connection)

    def _send_rest(self, connection: _Connection, now: float) -> None:
        unsent = send([(connection, connection.unsent)])
        if not unsent:
            connection.unsent = b""
            self._traffic.go_on(connection)
            if connection.receives_next:
                timeout = connection.timeout
                connection.deadline = _NEVER if timeout is None else now + timeout
            else:
                self._carry_on([(connection, None)], now)
            return
        [(_, connection.unsent, failure)] = unsent
        if failure is not None:
            self._carry_on([(connection, failure)], now, thrown=True)

    def _time_out(self, now: float) -> None:
        """End the connections whose time is over."""
        for connection in [
            c for c in self._connections.values() if min(c.deadline, c.until) <= now
        ]:
            what = "the MTA takes no more" if connection.unsent else "nothing came from the MTA"
            error = MilterTimeout(f"{what} for too long")
            self._carry_on([(connection, error)], now, thrown=True)

    def _end(self, connection: _Connection, error: BaseException) -> None:
        """Note that a conversation has ended: by returning, as it should, or by an error of its own."""
        self._close(connection)  # first: what went wrong may be the log
        if not isinstance(error, StopIteration):
            logger.error("a connection failed", exc_info=error)

    def _close(self, connection: _Connection) -> None:
        if self._connections.pop(connection.fd, None) is None:
            return
        self._traffic.remove(connection)
        self._doorway.let_out(connection.guest)
        connection.sock.close()
