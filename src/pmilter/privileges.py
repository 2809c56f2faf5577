"""Gives up root's rights for good."""

from __future__ import annotations

import grp
import os
import pwd

from pmilter.errors import ConfigError


def drop_privileges(user: str | int, group: str | int | None = None) -> None:
    """Become another user for good, with that user's groups alone. Call it after `setconn`, before `main`.

    Args:
        user: Name or number.
        group: Name or number of the primary group; by default the user's own.

    Raises:
        ConfigError: There is no such user or group.
        PermissionError: The process does not run as root, nor as that user already.
        OSError: The rights could not be given up; the process must not go on then.
    """
    account = _user(user)
    gid = account.pw_gid if group is None else _group(group)
    if set(os.getresuid()) == {account.pw_uid} != {0} and set(os.getresgid()) == {gid}:
        return
    if os.getuid() == 0 != os.geteuid():
        os.seteuid(0)  # root's rights were only laid aside
    os.initgroups(account.pw_name, gid)
    os.setresgid(gid, gid, gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    if account.pw_uid != 0 and 0 in os.getresuid():
        raise OSError("root's rights could not be given up")


def _user(user: str | int) -> pwd.struct_passwd:
    try:
        return (
            pwd.getpwuid(int(user))
            if isinstance(user, int) or user.isdigit()
            else pwd.getpwnam(user)
        )
    except KeyError:
        raise ConfigError(f"there is no user {user!r} on this machine", source=str(user)) from None


def _group(group: str | int) -> int:
    try:
        return (
            int(group) if isinstance(group, int) or group.isdigit() else grp.getgrnam(group).gr_gid
        )
    except KeyError:
        raise ConfigError(
            f"there is no group {group!r} on this machine", source=str(group)
        ) from None
