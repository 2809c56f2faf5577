"""Who is at the other end of a connection: a host, or on UNIX sockets the process that has connected."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Final, NamedTuple

_CREDENTIALS: Final = struct.Struct("=iII")
_GROUP: Final = struct.Struct("=I")
_SO_PEERCRED: Final[int | None] = getattr(socket, "SO_PEERCRED", None)
_SO_PEERGROUPS: Final = 59 if sys.platform == "linux" else None
"""Linux's number on all but SPARC and PA-RISC; the module `socket` does not know it."""

_MOST_GROUPS: Final = 1024
"""Bytes for their numbers."""

_MAPPED: Final = "::ffff:"

TELLS_WHO: Final = _SO_PEERCRED is not None
"""Whether this system tells who has connected to a UNIX socket."""


class Credentials(NamedTuple):
    """What a process was when it connected."""

    pid: int
    uid: int
    gid: int


def credentials(conn: socket.socket) -> Credentials | None:
    """Return those of the process behind a UNIX socket, or None where the system does not tell."""
    if _SO_PEERCRED is None:
        return None
    return Credentials(
        *_CREDENTIALS.unpack(conn.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _CREDENTIALS.size))
    )


def further_groups(conn: socket.socket) -> frozenset[int]:
    """Return the supplementary groups of the process behind a UNIX socket; none where the system does not tell."""
    if _SO_PEERGROUPS is None:
        return frozenset()
    try:
        data = conn.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS)
    except OSError:  # before Linux 4.13, or in more groups than anyone is
        return frozenset()
    return frozenset(number for (number,) in _GROUP.iter_unpack(data))


def plain_host(host: str) -> str:
    """Return an address as people write it: IPv4 within IPv6 as IPv4, without the interface that it was reached by."""
    host = host.partition("%")[0]
    return host.removeprefix(_MAPPED) if "." in host else host


def peer_key(conn: socket.socket) -> str:
    """Return what connections of one peer have in common: the host, or on a UNIX socket the user."""
    if conn.family == socket.AF_UNIX:
        who = credentials(conn)
        return "unix" if who is None else f"uid {who.uid}"
    try:
        return plain_host(conn.getpeername()[0])
    except OSError:
        return "a peer that has gone"
