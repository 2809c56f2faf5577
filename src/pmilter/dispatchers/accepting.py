"""Where dispatchers get their connections from."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pmilter.dispatchers.serving import Serving

logger: Final = logging.getLogger("pmilter")

_BROKEN: Final = frozenset(
    {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP, errno.EFAULT}
)
"""Errors of accept that trying again does not mend; all others are the network's, or pass (accept(2))."""

_EXHAUSTED_PAUSE: Final = 0.5
_IDLE: Final = 0.5
_EVER: Final = float("inf")


class Stopped(Exception):  # it tells of an event, not of an error
    """`Listener.accept` has nothing more to give: the service is stopping."""


class Listener:
    """Where a dispatcher gets its connections from.

    Several processes may wait on one socket: all of them are woken, and those that come too late wait on. Waking one alone
    (EPOLLEXCLUSIVE) would lose a connection's wake-up together with a process that is killed at that moment.

    Args:
        sock: The listening socket; becomes non-blocking.
        serving: The service.
        most: Connections after which this process takes no more, or None.
        close: Closes the socket, and removes what is to go with it.

    Attributes:
        socket: The socket.
        exhausted: True where the last try failed for want of memory, descriptors or the like: better wait a little.
    """

    def __init__(
        self,
        sock: socket.socket,
        serving: Serving,
        most: int | None = None,
        close: Callable[[], object] | None = None,
    ) -> None:
        self.socket = sock
        self.close = close or sock.close
        """Closes this process's copy of the socket; others that have one may go on accepting."""
        self._serving = serving
        self._left = most
        self.exhausted = False
        sock.setblocking(False)  # noqa: FBT003  # the standard library's own signature

    def accept(self, idle: Callable[[], object] | None = None) -> tuple[socket.socket, Any]:
        """Wait for a connection.

        Args:
            idle: Called every half a second in which none came.

        Returns:
            The connected socket, which now is the caller's, and its address.

        Raises:
            Stopped: No more connections are to be accepted. This process's copy of the socket is closed, so that nobody waits in
                vain for this process to accept.
        """
        while True:
            if self._is_over():
                self.close()
                raise Stopped
            seconds = _EVER if idle is None else _IDLE
            fd = self.fileno()  # below 0 where another thread has just closed it
            ready = self._serving.wait(seconds, (fd,) if fd >= 0 else ())
            if ready and (accepted := self._try_accept()) is not None:
                return accepted
            if ready and self.exhausted:
                self._serving.wait(_EXHAUSTED_PAUSE)
            if not ready and idle is not None:
                idle()

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for; who asks for it is ready to serve, which the parent is told."""
        self._serving.note_ready()
        return self.socket.fileno()

    def accept_now(self) -> tuple[socket.socket, Any] | None:
        """Return a connection that waits, as `accept`, or None where there is none; for dispatchers with a loop of their own.

        Raises:
            Stopped: No more connections are to be accepted; the socket is left open.
        """
        if self._is_over():
            raise Stopped
        accepted = self._try_accept()
        self._is_over()  # after the last one the service drains at once, not when the next has come to wait in vain
        return accepted

    def _is_over(self) -> bool:
        if self._left == 0 and not self._serving.ending:
            self._serving.drain_here()
        return self._serving.ending

    def _try_accept(self) -> tuple[socket.socket, Any] | None:
        self.exhausted = False
        try:
            accepted = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            if self._serving.ending:  # another thread has closed it
                return None
            if error.errno in _BROKEN:
                raise
            logger.error(
                "cannot accept: %s; trying again", error
            )  # no traceback needed, it is the system's state
            self.exhausted = True
            return None
        gate = self._serving.gate
        if gate is not None and not gate.admits(*accepted):
            self._serving.connections.note_denied()
            accepted[0].close()
            return None
        self._serving.connections.note_accepted()
        if self._left is not None:
            self._left -= 1
        return accepted
