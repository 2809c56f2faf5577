"""Who may connect: checked as each connection is accepted, before any process, thread or callback sees it."""

from __future__ import annotations

import grp
import pwd
import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.dispatchers.peers import TELLS_WHO, credentials, further_groups, plain_host
from pmilter.dispatchers.sparing import SparingLog
from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.address import Address

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_MAPPED_BITS: Final = 96
_IPV4: Final = 0xFFFFFFFF


class Peers(NamedTuple):
    """Those that are served, where not all are."""

    networks: frozenset[IPv4Network | IPv6Network] = frozenset()
    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def allowing(self, *peers: str) -> Peers:
        """Return the same with more allowed; see `Milter.allow_peers`.

        Raises:
            ConfigError: As said there.
            TypeError: As said there.
        """
        if not peers:
            raise ConfigError("allow_peers needs a peer at least; without a call all are served")
        allowed = self
        for peer in peers:
            allowed = allowed._with(peer)
        return allowed

    def _with(self, peer: str) -> Peers:
        if not isinstance(peer, str):
            raise TypeError(f"a peer is a text such as '192.0.2.0/24', not {peer!r}")
        kind, colon, name = peer.partition(":")
        if colon and kind.lower() == "user":
            return self._replace(uids=self.uids | {_number(name, "user", _uid)})
        if colon and kind.lower() == "group":
            return self._replace(gids=self.gids | {_number(name, "group", _gid)})
        return self._replace(networks=self.networks | {_network(peer)})

    def check(self, address: Address) -> None:
        """Raise where nobody at all could be served on a socket.

        Raises:
            ConfigError: As said.
        """
        if address.scheme != "unix":
            if not self.networks:
                raise ConfigError(
                    f"nobody may connect to {address}: give allow_peers networks, such as '192.0.2.0/24'"
                )
        elif not (self.uids or self.gids):
            raise ConfigError(
                f"nobody may connect to {address}: give allow_peers a 'user:NAME' or 'group:NAME'"
            )
        elif not TELLS_WHO:
            raise ConfigError(
                "this system does not tell who connects to a UNIX socket: use its mode and group instead"
            )

    def gate(self) -> Gate:
        """Return what keeps all others out of one service."""
        return Gate(self)


class Gate:
    """Decides about each connection of one service.

    Args:
        peers: Those that are served.
    """

    def __init__(self, peers: Peers) -> None:
        self._networks = tuple(peers.networks)
        self._uids = peers.uids
        self._gids = peers.gids
        self._log = SparingLog()

    def admits(self, conn: socket.socket, address: object) -> bool:
        """Return whether to serve a connection; say in the log where not, and what would change that.

        Args:
            conn: The connection.
            address: What accept(2) gave with it.
        """
        if conn.family == socket.AF_UNIX:
            try:
                return self._admits_process(conn)
            except OSError:  # gone already
                return False
        return self._admits_host(plain_host(address[0] if isinstance(address, tuple) else ""))

    def _admits_host(self, host: str) -> bool:
        try:
            where = ip_address(host)
        except ValueError:  # of a family that has no networks
            admitted = False
        else:
            admitted = any(where in network for network in self._networks)
        if not admitted:
            self._refuse(host, host)
        return admitted

    def _admits_process(self, conn: socket.socket) -> bool:
        who = credentials(conn)
        if who is None:
            return False
        if who.uid in self._uids or who.gid in self._gids:
            return True
        if self._gids and not self._gids.isdisjoint(further_groups(conn)):
            return True
        self._refuse(f"pid {who.pid} of uid {who.uid}", f"user:{who.uid}")
        return False

    def _refuse(self, name: str, peer: str) -> None:
        message = (
            "%s may not connect, so it was cut off; if it should: allow_peers(%r), or --allow %s"
        )
        self._log.warning(message, name, peer, peer)


def _network(peer: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(peer)
    except ValueError as error:
        raise ConfigError(
            f"peer {peer!r}: {error}; write a network such as '192.0.2.0/24' or '2001:db8::/32', an address, "
            "'user:NAME' or 'group:NAME'",
            source=peer,
        ) from None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        bits = int(network.network_address) & _IPV4
        return IPv4Network((bits, network.prefixlen - _MAPPED_BITS))
    return network


def _number(name: str, kind: str, find: Callable[[str], int]) -> int:
    if name.isascii() and name.isdecimal():
        return int(name)
    try:
        return find(name)
    except KeyError:
        raise ConfigError(f"there is no {kind} {name!r} on this machine", source=name) from None


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid
