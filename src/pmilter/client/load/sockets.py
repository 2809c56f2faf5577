"""Where a filter listens, and which connections are ready."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from pmilter.address import Address

_SOON: Final = 0.002
"""Seconds below which an epoll object, which counts in milliseconds, would be too coarse."""


class Endpoint(NamedTuple):
    """An address, looked up."""

    family: int
    target: Any
    """What `socket.connect` takes for this family."""

    def socket(self) -> socket.socket:
        """Return a new socket for it that never blocks, and sends at once.

        Raises:
            OSError: This process may have no more of them.
        """
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.settimeout(0)
        if self.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def look_up(address: Address) -> Endpoint:
    """Return where to connect to; a host that was left out is this machine.

    Raises:
        ConfigError: It is a socket handed in, which has no address.
        OSError: Host or service are not known.
    """
    if address.scheme == "unix":
        return Endpoint(socket.AF_UNIX, address.path)
    if address.scheme == "fd":
        raise ConfigError(f"{address} is for the filter's side; give the address behind it")
    family = socket.AF_INET6 if address.scheme == "inet6" else socket.AF_INET
    host = address.host or ("::1" if family == socket.AF_INET6 else "127.0.0.1")
    try:
        found = socket.getaddrinfo(host, address.port, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(error.errno, error.strerror, str(address)) from error
    return Endpoint(family, found[0][4])


class Poller:
    """Tells which sockets are ready; Linux only."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def watch(self, fd: int, *, room: bool) -> None:
        """Wait for bytes, or where there is `room` to wait for, for room to send too."""
        wanted = select.EPOLLIN | (select.EPOLLOUT if room else 0)
        try:
            self._epoll.modify(fd, wanted)
        except FileNotFoundError:
            self._epoll.register(fd, wanted)

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Return (descriptor, events) of those that are ready, after this time at most; it may be well below a millisecond."""
        if seconds >= _SOON:
            return self._epoll.poll(seconds - _SOON / 2)
        if seconds > 0:
            select.select([self._epoll], [], [], seconds)
        return self._epoll.poll(0)

    def close(self) -> None:
        """Release it."""
        self._epoll.close()
