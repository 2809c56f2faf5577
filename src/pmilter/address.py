"""Socket addresses as people write them for milters, for filter, client and command line alike.

Accepted are ``local:/path``, ``unix:/path``, ``/path``, ``inet:PORT[@HOST]``, ``inet6:PORT[@HOST]``, Postfix's spelling
``inet:HOST:PORT``, and ``fd:NAME`` for a socket handed in by systemd. Nothing is looked up in the network here.
"""

from __future__ import annotations

import re
from typing import Final

from pmilter.errors import ConfigError

MAX_PATH: Final = 107
"""Largest UNIX socket path in bytes: one less than the kernel's field, for the final NUL."""

_FORMS: Final = (
    "inet:PORT@HOST, inet6:PORT@HOST, inet:HOST:PORT, unix:/path, local:/path, /path or fd:NAME"
)
_PORT: Final = re.compile(r"[0-9]{1,5}|[A-Za-z0-9][A-Za-z0-9+_-]*")
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+")
_NAME: Final = re.compile(r"[^\s:\x00-\x1f\x7f]{1,255}")


class Address(str):
    """An address in its canonical spelling, which is the text itself, with its parts as attributes.

    Attributes:
        scheme: ``"unix"``, ``"inet"``, ``"inet6"`` or ``"fd"``.
        host: Host without brackets, ``""`` for all interfaces; None but for inet and inet6.
        port: Port number or service name; None but for inet and inet6.
        path: Path of a UNIX socket, or None.
        name: Name of a socket handed in, or None.
    """

    __slots__ = ("host", "name", "path", "port", "scheme")

    scheme: str
    host: str | None
    port: int | str | None
    path: str | None
    name: str | None

    @classmethod
    def unix(cls, path: str) -> Address:
        """Return the address of a UNIX socket."""
        return cls._make(f"unix:{path}", scheme="unix", path=path)

    @classmethod
    def inet(cls, scheme: str, port: int | str, host: str = "") -> Address:
        """Return the address of an internet socket; `scheme` is ``inet`` or ``inet6``."""
        spelled = f"[{host}]" if ":" in host else host
        text = f"{scheme}:{port}@{spelled}" if host else f"{scheme}:{port}"
        return cls._make(text, scheme=scheme, host=host, port=port)

    @classmethod
    def fd(cls, name: str) -> Address:
        """Return the address of a socket handed in by systemd under a name."""
        return cls._make(f"fd:{name}", scheme="fd", name=name)

    @classmethod
    def _make(cls, text: str, **parts: object) -> Address:
        address = cls(text)
        for part in cls.__slots__:
            setattr(address, part, parts.get(part))
        return address

    @property
    def postfix(self) -> str:
        """The spelling for Postfix's main.cf: host before port."""
        if self.scheme == "unix":
            return str(self)
        host = self.host or "127.0.0.1"
        return f"inet:[{host}]:{self.port}" if ":" in host else f"inet:{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that a text names.

    Args:
        text: One of the forms above; the scheme in any case, the host in brackets or not.

    Raises:
        ConfigError: It is none of them; the message shows the text and the right spelling.
        TypeError: It is no `str`.
    """
    if not isinstance(text, str):
        raise TypeError(f"address must be str, not {type(text).__name__}")
    if text.startswith("/"):
        return _unix(text, text)
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    if not colon:
        raise _bad(text, "it has no scheme")
    if scheme in {"unix", "local"}:
        return _unix(text, rest)
    if scheme in {"inet", "inet6"}:
        return _inet(text, scheme, rest)
    if scheme == "fd":
        if not _NAME.fullmatch(rest):
            raise _bad(
                text, "the name of the socket is empty or has blanks, colons or control characters"
            )
        return Address.fd(rest)
    raise _bad(text, f"unknown scheme {scheme!r}")


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(f"address {text!r}: {why}; write {_FORMS}", source=text)


def _unix(text: str, path: str) -> Address:
    if not path.startswith("/"):
        raise _bad(text, "the path is not absolute")
    size = len(path.encode("utf-8", "surrogateescape"))
    if size > MAX_PATH:
        raise ConfigError(
            f"address {text!r}: the path has {size} bytes, a UNIX socket's has at most {MAX_PATH}",
            source=text,
        )
    if "\0" in path or path.endswith("/"):
        raise _bad(text, "the path does not name a file")
    return Address.unix(path)


def _inet(text: str, scheme: str, rest: str) -> Address:
    if "@" in rest:
        port, _, host = rest.partition("@")
        if not host:
            raise _bad(text, "no host after the @")
    elif ":" in rest:  # as Postfix spells it
        host, _, port = rest.rpartition(":")
        if ":" in host and not host.startswith("["):
            raise _bad(text, "an IPv6 host before the port stands in brackets")
    else:
        port, host = rest, ""
    return _finish(text, scheme, port, host)


def _finish(text: str, scheme: str, port: str, host: str) -> Address:
    host = _host(text, host)
    if ":" in host:
        scheme = "inet6"
    elif scheme == "inet6" and re.fullmatch(r"[0-9.]+", host):
        raise _bad(text, f"{host} is an IPv4 address, its scheme is inet")
    return Address.inet(scheme, _port(text, port), host)


def _host(text: str, host: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if bare and not _HOST.fullmatch(bare):
        raise _bad(text, f"{host!r} is no host")
    if host and not bare:
        raise _bad(text, "the host is empty")
    return bare


def _port(text: str, port: str) -> int | str:
    if not _PORT.fullmatch(port):
        raise _bad(text, f"{port!r} is neither a port number nor the name of a service")
    if not port.isdigit():
        return port
    if int(port) > 65535:
        raise _bad(text, f"port {port} is above 65535")
    return int(port)
