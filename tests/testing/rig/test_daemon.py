from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from pmilter.errors import MilterError
from pmilter.testing.rig.daemon import reserved_port, running, wait_for

LISTENER = """
import socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen()
"""
STUBBORN_CHILD = """
import os, signal
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[2], "w").write(str(os.getpid()))
    signal.pause()
"""
SERVE = "print('up', flush=True)\nserver.accept()\n"


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_server_listens_in_the_block_and_not_after_it(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with reserved_port() as port:
        with running(python(LISTENER + SERVE, port), {}, output=output, port=port):
            pass  # that it began is the proof: it listened
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)


def test_no_connection_is_made_to_see_that_it_listens(tmp_path: Path) -> None:
    tell = (
        LISTENER
        + "import select\nprint(select.select([server], [], [], 0.2)[0], flush=True)\nserver.accept()\n"
    )
    output = tmp_path / "output"
    with reserved_port() as port, running(python(tell, port), {}, output=output, port=port):
        assert wait_for(lambda: output.read_text() != "", 10)
    assert output.read_text() == "[]\n"


def test_what_it_prints_goes_to_the_output(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with (
        reserved_port() as port,
        running(python(LISTENER + SERVE, port), {}, output=output, port=port),
    ):
        assert wait_for(lambda: output.read_text() == "up\n", 10)


def test_environment_is_exactly_the_given_one(tmp_path: Path) -> None:
    output = tmp_path / "output"
    show = (
        LISTENER
        + "import os\nprint(os.environ.get('A'), os.environ.get('HOME'), flush=True)\nserver.accept()\n"
    )
    with reserved_port() as port, running(python(show, port), {"A": "1"}, output=output, port=port):
        assert wait_for(lambda: output.read_text() != "", 10)
    assert output.read_text() == "1 None\n"


def test_child_that_ignores_the_signal_ends_too(tmp_path: Path) -> None:
    note = tmp_path / "child"
    program = LISTENER + STUBBORN_CHILD + SERVE
    with reserved_port() as port:
        command = python(program, port, note)
        with running(command, {}, output=tmp_path / "output", port=port):
            assert wait_for(lambda: note.exists() and note.read_text() != "", 10)
            child = int(note.read_text())
            assert is_running(child)
        assert not is_running(child)


def test_child_ends_with_a_server_that_ended_by_itself(tmp_path: Path) -> None:
    note = tmp_path / "child"
    program = LISTENER + STUBBORN_CHILD + "signal.sigtimedwait([], 0.1)\n"
    with reserved_port() as port:
        with running(python(program, port, note), {}, output=tmp_path / "output", port=port):
            assert wait_for(lambda: note.exists() and note.read_text() != "", 10)
            child = int(note.read_text())
        assert not is_running(child)


def test_server_that_ends_at_once_is_an_error(tmp_path: Path) -> None:
    with (
        reserved_port() as port,
        pytest.raises(MilterError, match="ended with status 3 instead of listening"),
        running(python("raise SystemExit(3)"), {}, output=tmp_path / "output", port=port),
    ):
        pass


def test_error_in_the_block_ends_the_server(tmp_path: Path) -> None:
    program = LISTENER + "import os\nprint(os.getpid(), flush=True)\nserver.accept()\n"
    output = tmp_path / "output"

    def fail(port: int) -> None:
        with running(python(program, port), {}, output=output, port=port):
            wait_for(lambda: output.read_text() != "", 10)
            raise ZeroDivisionError

    with reserved_port() as port, pytest.raises(ZeroDivisionError):
        fail(port)
    assert not is_running(int(output.read_text()))


def test_reserved_port_is_free_and_not_given_twice() -> None:
    with (
        reserved_port() as one,
        reserved_port() as two,
        socket.create_server(("127.0.0.1", 0)) as third,
    ):
        assert len({one, two, third.getsockname()[1]}) == 3
        with socket.create_server(("127.0.0.1", one)) as server:  # sets SO_REUSEADDR, as MTAs do
            assert server.getsockname()[1] == one


def test_wait_for_gives_up_in_time() -> None:
    assert wait_for(lambda: False, 0) is False


def test_wait_for_looks_again_until_it_holds() -> None:
    answers = iter([False, False, True])
    assert wait_for(lambda: next(answers), 10) is True
