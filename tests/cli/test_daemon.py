"""Pid files, and becoming another user; the latter in children, since it cannot be undone."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmilter import ConfigError, drop_privileges
from pmilter.cli.daemon import become, pid_file
from pmilter.cli.values import Account
from tests.support.processes import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights to give up")

NOBODY = Account("nobody", None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pid"


@pytest.fixture
def living() -> Iterator[int]:
    """Another process that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def dead() -> int:
    """The number of a process that was."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_file_holds_the_number_while_the_body_runs(path: Path) -> None:
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644
    assert not path.exists()


def test_no_file_is_made_unless_asked_for(tmp_path: Path) -> None:
    with pid_file(None):
        assert list(tmp_path.iterdir()) == []


def test_file_is_removed_after_an_error_too(path: Path) -> None:
    with pytest.raises(RuntimeError), pid_file(str(path)):
        raise RuntimeError
    assert not path.exists()


def test_file_of_a_living_process_is_left_and_told(path: Path, living: int) -> None:
    path.write_text(f"{living}\n")

    with pytest.raises(ConfigError, match=f"process {living} is alive"), pid_file(str(path)):
        pass
    assert path.read_text() == f"{living}\n"


def test_file_is_taken_by_one_service_only(path: Path) -> None:
    with pid_file(str(path)):

        def other() -> None:
            with pytest.raises(ConfigError, match="is alive"), pid_file(str(path)):
                pass

        in_child(other)
        assert path.exists()


@pytest.mark.parametrize("text", ["", "\n", "{dead}", "{dead}\n", "{own}\n", "0\n", "9" * 30])
def test_file_of_a_dead_predecessor_is_replaced(path: Path, text: str) -> None:
    path.write_text(text.format(dead=dead(), own=os.getpid()))

    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_file_that_is_no_pid_file_is_left(path: Path) -> None:
    path.write_text("precious\n")

    with pytest.raises(ConfigError, match="is no pid file"), pid_file(str(path)):
        pass
    assert path.read_text() == "precious\n"


def test_link_of_somebody_else_is_not_written_through(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    path.symlink_to(target)

    with pytest.raises(ConfigError, match=r"it is a link .*: remove it"), pid_file(str(path)):
        pass
    assert not target.exists()


def test_directory_in_its_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is a directory"), pid_file(str(tmp_path)):
        pass


def test_directory_that_may_not_be_written_to_is_told_with_the_remedy() -> None:
    def work() -> None:
        if os.geteuid() == 0:
            drop_privileges("nobody")
        with pytest.raises(ConfigError, match="choose a directory"), pid_file("/usr/pid"):
            pass

    in_child(work)


def test_file_of_a_successor_is_left(path: Path) -> None:
    with pid_file(str(path)):
        path.unlink()
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def test_directory_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError) as caught, pid_file("/nonexistent/pid"):
        pass
    assert (
        str(caught.value)
        == "cannot write the pid file /nonexistent/pid: the directory does not exist: make it first"
    )


@as_root
def test_file_that_the_user_cannot_remove_is_emptied(path: Path) -> None:
    def work() -> None:
        with pid_file(str(path)):
            become(NOBODY)

    in_child(work)

    assert path.read_text() == ""


@as_root
def test_user_has_its_own_ids_environment_and_umask_and_no_capabilities() -> None:
    user = pwd.getpwnam("nobody")

    def work() -> None:
        os.umask(0o022)
        become(NOBODY)
        assert os.getresuid() == (user.pw_uid,) * 3
        assert os.umask(0) == 0o027
        assert os.environ["HOME"] == user.pw_dir
        assert os.environ["USER"] == os.environ["LOGNAME"] == "nobody"
        status = Path("/proc/self/status").read_bytes().splitlines()
        sets = [line.split() for line in status if line.startswith(b"Cap")]
        held = {name: int(mask, 16) for name, mask in sets if name != b"CapBnd:"}
        assert held == {b"CapInh:": 0, b"CapPrm:": 0, b"CapEff:": 0, b"CapAmb:": 0}

    in_child(work)


@as_root
def test_stricter_umask_stays() -> None:
    def work() -> None:
        os.umask(0o077)
        become(NOBODY)
        assert os.umask(0) == 0o077

    in_child(work)


@as_root
def test_only_root_can_become_another_user() -> None:
    def work() -> None:
        become(NOBODY)
        with pytest.raises(ConfigError, match="--user daemon: only root"):
            become(Account("daemon", None))

    in_child(work)
