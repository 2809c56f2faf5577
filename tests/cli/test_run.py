from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pmilter.cli.entry import perform
from pmilter.dispatchers.registry import MODULES
from tests.cli.programs import await_filter, started
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pathlib import Path

FILTER = """\
from pmilter import Milter, Reply

milter = Milter("test", keep=())


@milter.on("helo")
def helo(ctx, name):
    return Reply(550, "5.7.1", "go away") if name == "bad" else None
"""
GUARDED = (
    '\n\nif __name__ == "__main__":\n    milter.setconn("inet:0@127.0.0.1")\n    milter.main()\n'
)

ANYWHERE = ("--listen", "inet:0@127.0.0.1")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "served.py"
    path.write_text(FILTER + GUARDED)
    return path


def run(*arguments: object) -> tuple[str, ...]:
    return ("-m", "pmilter", "run", *map(str, arguments))


def failed(*arguments: object) -> tuple[int, str]:
    """Run it to its end in a process of its own; return the status and the one line on stderr."""
    done = subprocess.run(
        [sys.executable, *run(*arguments)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def check_service(address: str) -> None:
    """Have the filter answer at HELO, which is all that it wants to see."""
    with Wire(address) as wire:
        wire.play("""
            >> O 6 1ff 1fffff
            << O *
            >> H good␀
            << c
            >> H bad␀
            << y 550 5.7.1 go away␀
            >> Q
            << EOF
        """)


@pytest.mark.parametrize("dispatcher", MODULES)
def test_filter_is_served_by_the_dispatcher_asked_for_until_term(
    program: Path, dispatcher: str
) -> None:
    with started(*run(program, *ANYWHERE, "--dispatcher", dispatcher)) as process:
        check_service(process.listening())

        assert process.stop() == 0
    assert process.output == ""
    assert "Traceback" not in process.log


def test_interrupt_is_a_clean_stop_too(program: Path) -> None:
    with started(*run(program, *ANYWHERE)) as process:
        check_service(process.listening())

        assert process.stop(signal.SIGINT) == 0


def test_unix_socket_has_mode_and_group_and_is_removed_at_the_end(
    program: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    gid = os.getegid()
    options = ("--listen", f"unix:{path}", "--mode", "640", "--group", gid)
    with started(*run(program, *options)) as process:
        check_service(process.listening())
        status = path.stat()

        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, gid)
        assert process.stop() == 0
    assert not path.exists()


def test_program_may_open_its_socket_itself(tmp_path: Path) -> None:
    path = tmp_path / "opens.py"
    path.write_text(FILTER + '\nmilter.setconn("inet:0@127.0.0.1")\n')
    with started(*run(path)) as process:
        check_service(process.listening())

        assert process.stop() == 0


def test_log_level_leaves_the_rest_out(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with started(*run(program, "--listen", path, "--log-level", "error")) as process:
        await_filter(f"unix:{path}")
        check_service(f"unix:{path}")
        process.stop()

    assert process.log == ""


# --- what can be wrong


def test_socket_asked_for_twice_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "opens.py"
    path.write_text(FILTER + f'\nmilter.setconn("unix:{tmp_path}/own")\n')

    status, line = failed(path, *ANYWHERE, "--log-level", "warning")

    assert status == 2
    assert f"itself calls setconn('unix:{tmp_path}/own') while it is loaded" in line
    assert "leave --listen out" in line


def test_socket_asked_for_nowhere_is_explained(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(["run", str(program)]) == 2
    assert "has nothing to listen on: give --listen" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--mode", "660"), ("--group", "0")])
def test_mode_and_group_without_listen_are_explained(
    tmp_path: Path, option: tuple[str, str]
) -> None:
    path = tmp_path / "opens.py"
    path.write_text(FILTER + '\nmilter.setconn("inet:0@127.0.0.1")\n')

    status, line = failed(path, *option, "--log-level", "warning")

    assert status == 2
    assert "--mode and --group belong to --listen" in line


def test_address_in_use_is_told_with_the_remedy(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"inet:{taken.getsockname()[1]}@127.0.0.1"

        status, line = failed(program, "--listen", address)

    assert status == 3
    assert line.startswith(f"pmilter: {address}: Address already in use (another program")


def test_missing_directory_is_told_with_the_remedy(
    program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{tmp_path}/missing/socket"

    assert perform(["run", str(program), "--listen", address]) == 3
    assert capsys.readouterr().err.startswith(f"pmilter: {address}: ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--listen", "8891"), "address '8891': it has no scheme"),
        (("--listen", "/tmp/x", "--mode", "rw"), "mode 'rw' must be octal"),
        (("--listen", "/tmp/x", "--group", "no-such-group"), "no group 'no-such-group'"),
        (("--listen", "inet:0@127.0.0.1", "--mode", "660"), "for UNIX sockets"),
        (("--dispatcher", "fork"), "'fork' is not one of"),
        (("--log-level", "loud"), "'loud' is not one of"),
        (("--lisden", "x"), "No such option"),
    ],
)
def test_wrong_option_is_told_with_the_right_one(
    program: Path, options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(["run", str(program), *options]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


def test_program_that_does_not_load_ends_with_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "broken_program.py"
    path.write_text("import nothing_like_it\n")

    assert perform(["run", str(path), *ANYWHERE]) == 2
    assert capsys.readouterr().err.startswith(f"pmilter: cannot load {path}, line 1: ")


def test_coroutine_under_a_dispatcher_without_a_loop_is_refused(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text(FILTER.replace("def helo", "async def helo"))

    assert perform(["run", str(program), *ANYWHERE, "--dispatcher", "sequential"]) == 2
    assert "helo callback is a coroutine function" in capsys.readouterr().err
