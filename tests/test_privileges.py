"""What giving up root's rights does, tried in children since it cannot be undone."""

from __future__ import annotations

import ctypes
import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmilter import ConfigError, drop_privileges
from tests.support.processes import in_child

if TYPE_CHECKING:
    from collections.abc import Callable

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights to give up")

NOBODY = pwd.getpwnam("nobody")


def ids() -> tuple[object, ...]:
    return os.getresuid(), os.getresgid(), sorted(os.getgroups())


@as_root
def test_all_ids_and_groups_are_those_of_the_user() -> None:
    def child() -> None:
        drop_privileges("nobody")
        expected = sorted(os.getgrouplist("nobody", NOBODY.pw_gid))
        assert ids() == ((NOBODY.pw_uid,) * 3, (NOBODY.pw_gid,) * 3, expected)

    in_child(child)


@as_root
@pytest.mark.parametrize("user", [NOBODY.pw_uid, str(NOBODY.pw_uid)])
def test_user_may_be_a_number(user: int | str) -> None:
    def child() -> None:
        drop_privileges(user)
        assert os.getresuid() == (NOBODY.pw_uid,) * 3

    in_child(child)


@as_root
@pytest.mark.parametrize("group", ["daemon", "1", 1])
def test_group_may_be_another(group: int | str) -> None:
    def child() -> None:
        drop_privileges("nobody", group)
        assert os.getresgid() == (1, 1, 1)

    in_child(child)


def regain() -> None:
    with pytest.raises(PermissionError):
        os.seteuid(0)
    with pytest.raises(PermissionError):
        os.setuid(0)
    with pytest.raises(PermissionError):
        os.setegid(0)


@as_root
def test_rights_cannot_be_had_back() -> None:
    def child() -> None:
        drop_privileges("nobody")
        regain()

    in_child(child)


@as_root
def test_rights_that_were_only_laid_aside_are_given_up_too() -> None:
    def child() -> None:
        os.setegid(NOBODY.pw_gid)
        os.seteuid(NOBODY.pw_uid)
        try:
            drop_privileges("nobody")
        except OSError:
            return  # saying so is as good
        regain()

    in_child(child)


PR_SET_SECUREBITS, NO_SETUID_FIXUP = 28, 4


def capabilities() -> dict[str, int]:
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    sets = {line[0]: int(line[1], 16) for line in lines if line and line[0].startswith("Cap")}
    del sets["CapBnd:"]
    return sets


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize("securebits", [0, NO_SETUID_FIXUP])
def test_no_capability_is_left_even_where_the_kernel_was_told_to_leave_them(
    securebits: int,
) -> None:
    def child() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(PR_SET_SECUREBITS, securebits, 0, 0, 0) == 0
        assert capabilities()["CapPrm:"]
        drop_privileges("nobody")
        assert set(capabilities().values()) == {0}

    in_child(child)


@as_root
def test_second_time_does_nothing() -> None:
    def child() -> None:
        drop_privileges("nobody")
        before = ids()
        drop_privileges("nobody")
        assert ids() == before

    in_child(child)


@as_root
def test_another_user_than_oneself_is_refused_without_root() -> None:
    def child() -> None:
        drop_privileges("nobody")
        with pytest.raises(PermissionError):
            drop_privileges("daemon")

    in_child(child)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: drop_privileges("no-such-user"), "user 'no-such-user'"),
        (lambda: drop_privileges("nobody", "no-such-group"), "group 'no-such-group'"),
        (lambda: drop_privileges("\N{SUPERSCRIPT TWO}"), "user '\N{SUPERSCRIPT TWO}'"),
        (lambda: drop_privileges("nobody", "\N{SUPERSCRIPT TWO}"), "group '\N{SUPERSCRIPT TWO}'"),
        (lambda: drop_privileges(4_000_000), "user 4000000"),
    ],
)
def test_unknown_user_or_group_is_named_and_nothing_is_given_up(
    call: Callable[[], None], name: str
) -> None:
    before = ids()
    with pytest.raises(ConfigError, match=name):
        call()
    assert ids() == before
