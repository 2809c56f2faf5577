"""What a daemon owes its system: a pid file if one is asked for, and a user of its own."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.listening import locked
from pmilter.errors import ConfigError
from pmilter.privileges import drop_privileges, find_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.cli.values import Account

UMASK: Final = 0o027
"""Rights that no file made by a filter has, whose mails are nobody else's business: to write for the group, any for others."""


def become(account: Account) -> None:
    """Become another user for good: ids, groups, capabilities, umask, and the environment that tells of it.

    Raises:
        ConfigError: There is no such user or group, or the process does not run as root.
        OSError: The rights could not be given up.
    """
    try:
        drop_privileges(account.user, account.group)
    except PermissionError as error:
        raise ConfigError(
            f"--user {account.user}: only root can become another user: start it as root, or leave --user out"
        ) from error
    os.umask(os.umask(UMASK) | UMASK)
    user = find_user(account.user)
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}


# --- the pid file


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Have the number of this process in a file while the body runs; one that a dead process has left behind is replaced.

    At the end it is removed, or at least emptied where this process has become a user who may not remove it.

    Args:
        path: The file, or None for none.

    Raises:
        ConfigError: The process that the file names lives, or the file cannot be written.
    """
    if path is None:
        yield
        return
    file, owner = Path(path).absolute(), os.getpid()
    try:
        fd = _write(file)
    except OSError as error:
        raise ConfigError(
            f"cannot write the pid file {path}: {_REMEDIES.get(error.errno or 0, error.strerror)}",
            source=path,
        ) from error
    try:
        yield
    finally:
        if os.getpid() == owner:
            _remove(file, fd)
        os.close(fd)


_NO_RIGHTS: Final = (
    "no permission; choose a directory that this user may write to, or start as root with --user"
)

_REMEDIES: Final = {
    errno.ENOENT: "the directory does not exist: make it first",
    errno.EEXIST: "it is a link that leads nowhere, and links are not followed: remove it, or choose another path",
    errno.EISDIR: "it is a directory: give the path of a file in it",
    errno.EACCES: _NO_RIGHTS,
    errno.EPERM: _NO_RIGHTS,
}
"""Why a file cannot be written -> what to do."""


def _write(file: Path) -> int:
    """Write the file, and return its descriptor, through which it can be changed whoever this process becomes."""
    with locked(file.parent):
        _remove_stale(file)
        # A directory that others may write to can have a link there, but O_EXCL follows none.
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, b"%d\n" % os.getpid())
    return fd


def _remove_stale(file: Path) -> None:
    try:
        text = file.read_text(errors="replace").strip()
    except FileNotFoundError:
        return
    if text and not text.isdecimal():
        raise ConfigError(
            f"{file} is no pid file: it is not replaced, choose another path", source=str(file)
        )
    if text and _lives(int(text)):
        raise ConfigError(
            f"pid file {file}: process {text} is alive; stop it first, or remove the file if that is another program",
            source=str(file),
        )
    file.unlink()


def _lives(pid: int) -> bool:
    if pid in {0, os.getpid()}:  # in a container the same numbers are given out after each start
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _remove(file: Path, fd: int) -> None:
    os.ftruncate(fd, 0)
    with contextlib.suppress(OSError):
        if os.path.samestat(file.lstat(), os.fstat(fd)):
            file.unlink()
