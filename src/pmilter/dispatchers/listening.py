"""Opens the socket that a filter listens on, so that nobody can connect too early and no live socket is taken over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import logging
import os
import re
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmilter.address import Address, parse_address
from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger: Final = logging.getLogger("pmilter")

_SYSTEMD_FIRST_FD: Final = 3
_LOCK_TRIES: Final = 50
_LOCK_PAUSE: Final = 0.02
_ANY_HOST: Final = {"inet": "0.0.0.0", "inet6": "::"}  # noqa: S104  # without a host all interfaces are meant, and a warning says so
_FAMILY: Final = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class ListeningSocket:
    """A socket that listens, its address, and what is to be removed with it.

    Attributes:
        socket: The socket.
        address: What it is bound to.
        handed_in: Whether somebody else keeps it, and connections wait there while nobody serves.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        *,
        owns_path: bool = False,
        handed_in: bool = False,
    ) -> None:
        self.socket = sock
        self.address = address
        self.handed_in = handed_in
        self._pid = os.getpid()
        self._identity = _identity(address.path) if owns_path and address.path else None

    def take_over(self) -> None:
        """Make this process the one that removes the path; it may be a child of the one that bound it."""
        self._pid = os.getpid()

    def close(self) -> None:
        """Close it, and remove its path if that is still this very socket and this the process that it belongs to.

        May be called again, and by another thread.
        """
        path, identity = self.address.path, self._identity
        self._identity = None
        if path and identity and self._pid == os.getpid():
            with contextlib.suppress(OSError), locked(Path(path).parent):
                if _identity(path) == identity:  # while it is open, nobody else is given its number
                    Path(path).unlink()
        self.socket.close()


def listen_on(
    desc: str, perms: int | str | None, group: int | str | None, backlog: int
) -> ListeningSocket:
    """Bind and listen.

    Args:
        desc: Address as a person wrote it.
        perms: Mode of a UNIX socket, as number or octal text; None for what the umask leaves, nothing for others.
        group: Group of a UNIX socket, as number or name; None to leave it.
        backlog: Connections that may wait to be accepted.

    Raises:
        ConfigError: A bad address, mode or group.
        OSError: What the system says.
        TypeError: An argument of another type.
    """
    if not isinstance(desc, str):
        raise TypeError(f"an address is a text such as 'inet:8891@127.0.0.1', not {desc!r}")
    address = parse_address(desc)
    mode, gid = _mode(perms), _gid(group)
    if address.scheme == "unix":
        return _listen_unix(address, mode, gid, backlog)
    if mode is not None or gid is not None:
        raise ConfigError(f"mode and group are for UNIX sockets, {desc!r} is none", source=desc)
    if address.scheme == "fd":
        return adopt(_inherited(address))
    return _listen_inet(address, backlog)


def adopt(sock: socket.socket) -> ListeningSocket:
    """Take a socket that somebody else made; its path, if it has one, stays when it is closed.

    Raises:
        ConfigError: It does not listen.
        TypeError: It is no socket.
    """
    if not isinstance(sock, socket.socket):
        raise TypeError(f"a listening socket is needed, not {sock!r}")
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"a listening socket is needed, not {sock!r}") from error
    if not listens:
        raise ConfigError(f"the socket {sock!r} does not listen: call listen() on it first")
    return ListeningSocket(sock, bound_address(sock), handed_in=True)


def bound_address(sock: socket.socket) -> Address:
    """Return the address that a socket is bound to."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address.unix(os.fsdecode(name))
    return Address.inet("inet6" if sock.family == socket.AF_INET6 else "inet", name[1], name[0])


def _mode(perms: int | str | None) -> int | None:
    if perms is None:
        return None
    if isinstance(perms, bool) or not isinstance(perms, (int, str)):
        raise TypeError(f"mode must be a number or octal text, not {perms!r}")
    if isinstance(perms, str) and re.fullmatch("(0o?)?[0-7]{1,4}", perms):
        return int(perms.removeprefix("0o"), 8)
    if isinstance(perms, int) and 0 <= perms <= 0o777:
        return perms
    raise ConfigError(f"mode {perms!r} must be octal, such as 0o660 or '660'", source=str(perms))


def _gid(group: int | str | None) -> int | None:
    if group is None:
        return None
    if isinstance(group, bool) or not isinstance(group, (int, str)):
        raise TypeError(f"group must be a name or a number, not {group!r}")
    if isinstance(group, int):
        return group
    try:
        return int(group) if group.isascii() and group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {group!r} on this machine", source=group) from None


# --- internet ---


def _listen_inet(address: Address, backlog: int) -> ListeningSocket:
    host = address.host or _ANY_HOST[address.scheme]
    if not address.host:
        logger.warning(
            "%s listens on all interfaces: anyone who can reach the port can use the filter",
            address,
        )
    family, where = _resolve(address, host)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise _explained(error, address) from error
    return ListeningSocket(sock, bound_address(sock))


def _resolve(address: Address, host: str) -> tuple[int, tuple[object, ...]]:
    flags = (
        socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        if address.host == "localhost"
        else socket.AI_PASSIVE
    )
    try:
        found = socket.getaddrinfo(
            host, address.port, _FAMILY[address.scheme], socket.SOCK_STREAM, 0, flags
        )
    except socket.gaierror as error:
        raise ConfigError(
            f"address {str(address)!r}: host {host!r} or service {address.port!r} is unknown: {error.strerror}",
            source=str(address),
        ) from error
    family, _, _, _, where = found[0]
    return family, where


def _explained(error: OSError, address: Address) -> OSError:
    """Return the error with the address and, for the usual ones, the remedy in its text."""
    remedies = {
        errno.EADDRINUSE: "another program listens there: stop it or choose another address",
        errno.EACCES: "no permission: ports below 1024 need root, a directory needs write permission",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.ENOENT: "the directory does not exist: make it first",
    }
    remedy = remedies.get(error.errno or 0)
    text = f"{error.strerror} ({remedy})" if remedy else error.strerror
    return OSError(error.errno, text, str(address))


# --- UNIX ---


def _listen_unix(
    address: Address, mode: int | None, gid: int | None, backlog: int
) -> ListeningSocket:
    path = Path(address.path or "")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with locked(path.parent):
            _remove_stale(path)
            sock.bind(str(path))
            try:
                _set_rights(
                    path, mode, gid
                )  # before it listens nobody can connect, whatever they are
                sock.listen(backlog)
            except OSError:
                path.unlink()
                raise
    except OSError as error:
        sock.close()
        raise _explained(error, address) from error
    return ListeningSocket(sock, address, owns_path=True)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep others that start or end at this moment out of a directory, so that none removes what another has just made.

    Raises:
        OSError: Somebody has kept it locked for a second: whoever can read a directory can do that.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(fd, directory)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, directory: Path) -> None:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE)
        else:
            return
    what = "another program keeps a lock on this directory: find it with lslocks, or choose another one"
    raise OSError(errno.EAGAIN, what, str(directory))


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(
            errno.EEXIST, "exists and is no socket; it is not removed, choose another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003  # the standard library's own signature
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # somebody listens and has a full backlog
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _set_rights(path: Path, mode: int | None, gid: int | None) -> None:
    if mode is None:
        mode = path.lstat().st_mode & 0o660  # which the umask has had its say in
    if gid is not None:
        os.chown(path, -1, gid)
    path.chmod(mode)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# --- handed in by systemd ---


def _inherited(address: Address) -> socket.socket:
    """Return the socket that systemd passed under a name (sd_listen_fds(3)); names, since the order is nobody's promise."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not (
        count.isascii() and count.isdecimal()
    ):
        raise ConfigError(
            f"address {str(address)!r}: no sockets were handed in to this process; start it from a systemd socket unit",
            source=str(address),
        )
    given = names[: int(count)]
    if address.name not in given:
        raise ConfigError(
            f"address {str(address)!r}: the sockets handed in are named {', '.join(given) or 'not at all'}; "
            "set FileDescriptorName= in the socket unit",
            source=str(address),
        )
    fd = _SYSTEMD_FIRST_FD + given.index(address.name)
    os.set_inheritable(fd, False)  # noqa: FBT003  # the standard library's own signature
    return socket.socket(fileno=fd)
