"""Where connections come in to a dispatcher that has a loop of its own."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.dispatchers.accepting import Stopped
from pmilter.dispatchers.driver import peer_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.overflow import Place, Places

_SHUT: Final = -1


class Guest(NamedTuple):
    """A connection that was let in: non-blocking, counted, and noted by the service."""

    sock: socket.socket
    peer: str
    """Its other end, for the log."""
    place: Place


class Doorway:
    """Has the loop wait for connections where there is room for more, and lets them in. For the loop's thread.

    Args:
        listener: Where they come from.
        handler: Is told of those that are gone before they began.
        places: Counts them.
        watch: Has the loop tell when a descriptor is readable.
        unwatch: Has it do so no more.

    Attributes:
        fd: The descriptor that the loop waits for; -1 while it waits for none.
    """

    def __init__(
        self,
        listener: Listener,
        handler: Handler,
        places: Places,
        watch: Callable[[int], object],
        unwatch: Callable[[int], object],
    ) -> None:
        self._listener = listener
        self._family = listener.socket.family
        self._handler = handler
        self._serving = handler.serving
        self._places = places
        self._watch = watch
        self._unwatch = unwatch
        self.fd = _SHUT

    def open(self) -> None:
        """Wait for connections, unless there is no room or the service ends."""
        if self.fd == _SHUT and not self._places.full and not self._serving.ending:
            self.fd = self._listener.fileno()
            self._watch(self.fd)

    def shut(self) -> None:
        """Wait for no more, until `open`."""
        if self.fd != _SHUT:
            self._unwatch(self.fd)
            self.fd = _SHUT

    def close(self) -> None:
        """Wait for no more for good: close this process's copy of the socket, lest MTAs wait for what is never accepted."""
        self.shut()
        self._listener.close()

    def let_in(self) -> Guest | None:
        """Accept one connection: not all that wait, so that other processes get their share.

        Returns:
            The connection, or None where none waits after all, it is gone already, or it is not to be served.

        Raises:
            OSError: The listening socket itself is broken.
        """
        try:
            accepted = self._listener.accept_now()
        except Stopped:
            return None
        guest = None if accepted is None else self._receive(accepted[0])
        if self._places.full or self._listener.exhausted:
            self.shut()
        return guest

    def _receive(self, sock: socket.socket) -> Guest | None:
        try:
            sock.setblocking(False)  # noqa: FBT003  # the standard library's own signature
            if self._family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = peer_name(sock, self._family)
        except OSError as error:
            self._handler.lost(error)
            sock.close()
            return None
        place = self._places.take(sock)
        if place is None:
            sock.close()
            return None
        self._serving.connections.enter(sock)
        return Guest(sock, peer, place)

    def let_out(self, guest: Guest) -> None:
        """Note that a connection has ended, before it is closed: whoever sees its end finds its place free."""
        self._serving.connections.leave(guest.sock)
        self._places.give(guest.place)
        self.open()
