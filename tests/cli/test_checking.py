from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pmilter.cli.entry import perform

if TYPE_CHECKING:
    from pathlib import Path

# The runner's own threads do nothing that a child could wait for.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

FILTER = """\
from pmilter import Action, Milter, Status

milter = Milter("checked", actions=Action.ADDHDRS, keep=("connect",), fallback={"helo": Status.ACCEPT})


@milter.on("helo")
def helo(ctx, name):
    pass


@milter.on("envrcpt", noreply=True)
def envrcpt(ctx, address, *args):
    pass
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "checked_program.py"
    path.write_text(FILTER)
    return path


@pytest.fixture
def socket(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/socket"


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a check that finds a fault; return its one line."""
    assert perform(["run", "--check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def test_check_tells_what_would_be_served_and_opens_nothing(
    program: Path, socket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--listen", socket, "--dispatcher", "selector", "--workers", "3"]
    before = set(tmp_path.iterdir())

    options += ["--allow", "user:0", "--headers", "7"]
    assert perform(["run", str(program), "--check", *options]) == 0

    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["filter"] == f"checked ({program})"
    assert rows["address"] == socket
    assert rows["peers"] == "user:0"
    assert rows["dispatcher"] == "selector, in 3 processes"
    assert rows["stages"] == "connect (no reply), helo, envrcpt (no reply), eom"
    assert rows["actions"] == "ADDHDRS"
    assert rows["fallback"] == "tempfail, helo=accept"
    assert "connections_per_peer none" in rows["limits"]
    assert "headers 7," in rows["limits"]
    assert rows["trial"] == "passed"
    assert {path for path in tmp_path.iterdir() if path.name != "__pycache__"} == before


def test_check_tells_the_same_to_machines(
    program: Path, socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(["run", str(program), "--check", "--json", "--listen", socket]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["listen"] == socket
    assert found["dispatcher"] == "postfork"
    assert found["reload"] is True
    assert found["peers"] is None
    assert found["version"] == 6
    assert found["stages"] == ["connect", "helo", "envrcpt", "eom"]
    assert found["without_reply"] == ["connect", "envrcpt"]
    assert found["fallback"]["helo"] == "accept"
    assert found["limits"]["eom_time"] == 270


def test_check_opens_no_socket_of_the_programs_either(
    program: Path, socket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text(FILTER + f"\nmilter.setconn({socket!r})\n")

    assert perform(["run", str(program), "--check"]) == 0

    assert f"{socket}, opened by the program itself" in capsys.readouterr().out
    assert not (tmp_path / "socket").exists()


def test_check_works_while_the_socket_is_in_use(program: Path, tmp_path: Path) -> None:
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX) as taken:
        taken.bind(f"{tmp_path}/taken")
        taken.listen()

        assert perform(["run", str(program), "--check", "--listen", f"{tmp_path}/taken"]) == 0


def test_check_finds_what_fails_in_the_trial(
    program: Path, socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text(FILTER.replace("    pass\n", "    1 / 0\n", 1))

    line = failure(capsys, str(program), "--listen", socket)
    assert "checked fails in a trial session: ZeroDivisionError: division by zero" in line
    assert f"({program}, line 8)" in line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_like_it\n", "there is no module 'nothing_like_it'"),
        ("milter = 7\n", "is no Milter but of type int"),
        ("from pmilter import Milter\nmilter = Milter()\n", "has no callbacks"),
        (FILTER.replace("def helo", "async def helo"), "helo callback is a coroutine function"),
        (FILTER + "milter.setconn('inet:0@127.0.0.1')\n", "itself calls setconn"),
        ("import os; os._exit(0)\n", "has ended its process with status 0"),
    ],
)
def test_check_finds_what_does_not_load(
    program: Path, socket: str, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text(text)

    options = ("--listen", socket, "--dispatcher", "sequential")
    assert told in failure(capsys, str(program), *options)


def test_check_finds_what_takes_too_long(
    program: Path, socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text("import threading; threading.Event().wait()\n")

    options = ("--listen", socket, "--load-time", "0.5")
    line = failure(capsys, str(program), *options)
    assert f"{program} has not come to an end within 0.5 seconds" in line


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "has nothing to listen on"),
        (("--listen", "8891"), "it has no scheme"),
        (("--listen", "inet:0@127.0.0.1", "--allow", "user:0"), "nobody may connect"),
        (("--listen", "inet:0@127.0.0.1", "--user", "no-such-user"), "no user 'no-such-user'"),
        (("--config", "/nonexistent.toml"), "/nonexistent.toml: No such file"),
    ],
)
def test_check_finds_wrong_settings(
    program: Path, options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in failure(capsys, str(program), *options)
