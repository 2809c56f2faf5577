"""Gives up root's rights for good."""

from __future__ import annotations

import grp
import os
import pwd
import sys
from pathlib import Path
from typing import Final

from pmilter.errors import ConfigError

_STATUS: Final = Path("/proc/self/status")
_CAPABILITIES: Final = (b"CapInh:", b"CapPrm:", b"CapEff:", b"CapAmb:")
"""The sets that let a process do more than its user may. CapBnd is none of them: it bounds what could be gained."""

_CAPABILITY_VERSION: Final = 0x20080522
"""capset(2): two words a set."""


def drop_privileges(user: str | int, group: str | int | None = None) -> None:
    """Become another user for good, with that user's groups alone and, on Linux, without capabilities.

    Call it after `setconn`, before `main`.

    Args:
        user: Name or number.
        group: Name or number of the primary group; by default the user's own.

    Raises:
        ConfigError: There is no such user or group.
        PermissionError: The process does not run as root, nor as that user already.
        OSError: The rights could not be given up; the process must not go on then.
    """
    account = find_user(user)
    gid = account.pw_gid if group is None else find_group(group)
    if (
        set(os.getresuid()) != {account.pw_uid}
        or set(os.getresgid()) != {gid}
        or not account.pw_uid
    ):
        _become(account, gid)
    if account.pw_uid != 0:
        _drop_capabilities()


def _become(account: pwd.struct_passwd, gid: int) -> None:
    if os.getuid() == 0 != os.geteuid():
        os.seteuid(0)  # root's rights were only laid aside
    os.initgroups(account.pw_name, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if account.pw_uid != 0 and 0 in os.getresuid():
        raise OSError("root's rights could not be given up")


def find_user(user: str | int) -> pwd.struct_passwd:
    """Return the account of a user, by name or number.

    Raises:
        ConfigError: There is none.
    """
    try:
        return (
            pwd.getpwuid(int(user))
            if isinstance(user, int) or (user.isascii() and user.isdecimal())
            else pwd.getpwnam(user)
        )
    except (KeyError, OverflowError):
        raise ConfigError(f"there is no user {user!r} on this machine", source=str(user)) from None


def find_group(group: str | int) -> int:
    """Return the number of a group, by name or number; a number need not have a name.

    Raises:
        ConfigError: There is none.
    """
    try:
        return (
            int(group)
            if isinstance(group, int) or (group.isascii() and group.isdecimal())
            else grp.getgrnam(group).gr_gid
        )
    except KeyError:
        raise ConfigError(
            f"there is no group {group!r} on this machine", source=str(group)
        ) from None


# --- capabilities. Becoming another user clears them, unless whoever started the process has arranged otherwise.


def _drop_capabilities() -> None:
    if not _held():
        return
    _clear()
    if left := _held():
        raise OSError(f"capabilities could not be given up: {', '.join(left)}")


def _held() -> list[str]:
    """Return the sets in which this process has capabilities, as the kernel shows them; none where it shows nothing."""
    if sys.platform != "linux":
        return []
    lines = (
        _STATUS.read_bytes().splitlines()
    )  # bytes: no codec to be loaded, which the new user may not read
    sets = [line for line in lines if line.startswith(_CAPABILITIES)]
    return [line.decode() for line in sets if int(line.split()[1], 16)]


def _clear() -> None:
    """Empty all sets of this thread's; the ambient one empties itself with the others."""
    import ctypes  # for those few who need it

    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capset(header, sets)
