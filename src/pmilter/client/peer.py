"""The SMTP client that an MTA serves: how each MTA tells a filter of it, in CONNECT and in macros."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, NamedTuple

from pmilter.errors import ConfigError
from pmilter.protocol.constants import Family
from pmilter.protocol.messages import Connect
from pmilter.text import encode

if TYPE_CHECKING:
    from pmilter.client.dialect import Dialect

_DEFAULT_PORT = 49152


class Peer(NamedTuple):
    """An SMTP client. Build it with `parse_peer`."""

    name: str | None
    """Its verified host name, or None."""
    address: IPv4Address | IPv6Address | str | None
    """Its address, the path of a UNIX socket, or None where nothing is known."""
    port: int

    def connect(self, dialect: Dialect) -> Connect:
        """Return the command that tells a filter of it."""
        family, port = _FAMILIES[type(self.address)], self.port
        if family in {Family.UNIX, Family.UNKNOWN}:
            port = 0
        name = self.name or self._bracketed(dialect) or dialect.unknown_host
        return Connect(
            encode(name, "host name"), family, port, encode(self._text(dialect), "address")
        )

    def macros(self, dialect: Dialect) -> dict[str, str]:
        """Return the macros about it, by name without braces."""
        name = self.name or dialect.unknown_name or self._bracketed(dialect)
        address = self._text(dialect) or "unknown"
        validated = f"{name} [{address}]" if name != self._bracketed(dialect) else name
        return {
            "_": validated or dialect.unknown_host,
            "client_addr": address,
            "client_name": name or dialect.unknown_host,
            "client_port": str(self.port),
            "client_ptr": name or dialect.unknown_host,
            "client_resolve": "OK" if self.name else "FAIL",
        }

    def _text(self, dialect: Dialect) -> str:
        if isinstance(self.address, IPv6Address) and dialect.full_ipv6:
            groups = self.address.exploded.split(":")
            return "IPv6:" + ":".join(format(int(group, 16), "x") for group in groups)
        return "" if self.address is None else str(self.address)

    def _bracketed(self, dialect: Dialect) -> str | None:
        return (
            f"[{self._text(dialect)}]"
            if isinstance(self.address, (IPv4Address, IPv6Address))
            else None
        )


_FAMILIES = {
    IPv4Address: Family.INET,
    IPv6Address: Family.INET6,
    str: Family.UNIX,
    type(None): Family.UNKNOWN,
}


def parse_peer(given: tuple[str | None, str] | tuple[str | None, str, int] | str | None) -> Peer:
    """Return the client that a program means.

    Args:
        given: Name (None where it is not verified), IPv4 or IPv6 address and, if it matters, port; a UNIX socket's path may
            stand for the address, or for all; None is a client of which nothing is known.

    Raises:
        ConfigError: The address cannot be read, or the port is none.
        TypeError: Something else was given.
    """
    if given is None:
        return Peer(None, None, 0)
    parts = ("localhost", given) if isinstance(given, str) else tuple(given)
    if not 2 <= len(parts) <= 3:
        raise TypeError(
            f"a client is given as (name, address) or (name, address, port), not {given!r}"
        )
    name, address, *rest = parts
    port = rest[0] if rest else _DEFAULT_PORT
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"the client's port must be from 0 to 65535, not {port!r}")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"the client's name must be str or None, not {type(name).__name__}")
    return Peer(name, _parse_address(address), port)


def _parse_address(text: object) -> IPv4Address | IPv6Address | str:
    if not isinstance(text, str):
        raise TypeError(f"the client's address must be str, not {type(text).__name__}")
    if text.startswith("/"):
        return text
    try:
        address = ip_address(text[5:] if text[:5].lower() == "ipv6:" else text)
    except ValueError:
        raise ConfigError(
            f"the client's address must be IPv4, IPv6 or the path of a UNIX socket, not {text!r}"
        ) from None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
