from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pmilter
from pmilter.cli.entry import perform
from pmilter.dispatchers.registry import MODULES
from tests.cli.programs import await_filter, started
from tests.support.processes import DEADLINE
from tests.support.waiting import children_of, until
from tests.support.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

# The runner's own threads do nothing that a child could wait for.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")

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

LOGGING = FILTER.replace(
    "    return", '    logging.getLogger("own").info("heard %s", name)\n    return'
).replace("from pmilter", "import logging\n\nfrom pmilter", 1)

SIDE_BY_SIDE = """
import asyncio, logging, threading

from pmilter import Milter

milter = Milter("side by side", keep=())
log = logging.getLogger("own")
waiting = []
both_wait = asyncio.Event()
both = threading.Barrier(2, timeout=10)


@milter.on("helo")
async def helo(ctx, name):
    if name == "x":
        log.info(ctx.connection_id)
        waiting.append(name)
        if len(waiting) == 2:
            both_wait.set()
        await both_wait.wait()
        log.info(ctx.connection_id)


@milter.on("envfrom")
def envfrom(ctx, address, *args):
    if address == "<x>":
        log.info(ctx.connection_id)
        both.wait()
        log.info(ctx.connection_id)
"""

TELLS_WHO_IT_IS = """

import logging, os

logging.getLogger("own").warning("%d %s", os.getuid(), oct(os.umask(0o27)))
"""

NOBODY = pwd.getpwnam("nobody").pw_uid

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(),
    reason="needs root's rights to give up, and a Python that any user may run",
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


@pytest.mark.parametrize("attempt", range(4))
@pytest.mark.parametrize("opens", [False, True], ids=["--listen", "setconn"])
def test_any_number_of_terms_is_a_clean_stop_too(
    tmp_path: Path,
    attempt: int,  # a late signal hits another place each time
    *,
    opens: bool,
) -> None:
    path = tmp_path / "served.py"
    path.write_text(FILTER + ('\nmilter.setconn("inet:0@127.0.0.1")\n' if opens else ""))
    with started(*run(path, *(() if opens else ANYWHERE))) as process:
        check_service(process.listening())

        assert process.stop_impatiently() == 0


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


# --- where settings come from


def test_settings_come_from_the_environment_and_a_file_too(program: Path, tmp_path: Path) -> None:
    program.write_text(LOGGING)
    config = tmp_path / "filter.toml"
    config.write_text("listen = 'inet:0@192.0.2.1'\nlog_format = 'json'\ndispatcher = 'ithread'\n")
    environ = {"PMILTER_LISTEN": f"unix:{tmp_path}/socket", "PMILTER_CONFIG": str(config)}
    with started(*run(program), **environ) as process:
        process.await_line("generation 1 serves")
        check_service(f"unix:{tmp_path}/socket")
        assert process.stop() == 0

    entries = [json.loads(line) for line in process.log.splitlines()]
    assert {entry["logger"] for entry in entries} == {"pmilter", "own"}


def test_misspelt_variable_is_a_warning(program: Path) -> None:
    with started(*run(program, *ANYWHERE), PMILTER_WORKER="3") as process:
        assert "WARNING pmilter: PMILTER_WORKER is not" in process.await_line("PMILTER_WORKER")
        check_service(process.listening())
        assert process.stop() == 0


def test_check_tells_of_misspelt_variables_beside_its_findings(
    program: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMILTER_CHECK", "1")

    assert perform(["run", str(program), *ANYWHERE, "--check", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["name"] == "test"
    assert "warning: PMILTER_CHECK is not the variable of any option: --check belongs" in err


@pytest.mark.parametrize("dispatcher", MODULES)
def test_lines_of_a_callback_have_the_connections_id(program: Path, dispatcher: str) -> None:
    program.write_text(LOGGING)
    with started(*run(program, *ANYWHERE, "-d", dispatcher)) as process:
        check_service(process.listening())
        assert process.stop() == 0

    heard = re.findall(r"INFO own: \[(\d+\.\d+)\] heard (good|bad)", process.log)
    assert [name for _, name in heard] == ["good", "bad"]
    assert len({connection for connection, _ in heard}) == 1


def test_lines_of_callbacks_that_go_on_side_by_side_have_their_own_ids(program: Path) -> None:
    program.write_text(SIDE_BY_SIDE)
    with started(*run(program, *ANYWHERE, "-d", "asyncio")) as process:
        address = process.listening()
        with Wire(address) as first, Wire(address) as second:
            for wire in (first, second):
                wire.play(">> O 6 1ff 1fffff\n<< O *\n>> H x␀")
            for wire in (first, second):
                wire.play("<< c\n>> M <x>␀")
            for wire in (first, second):
                wire.play("<< c\n>> Q\n<< EOF")
        assert process.stop() == 0

    logged = re.findall(r"INFO own: \[(\S+)\] (\S+)", process.log)
    assert len(logged) == 8
    assert all(tag == own for tag, own in logged)


@pytest.mark.parametrize("dispatcher", ["selector", "prefork"])
def test_workers_are_so_many_processes_that_all_serve(program: Path, dispatcher: str) -> None:
    options = ("--workers", "3", "--dispatcher", dispatcher)
    with started(*run(program, *ANYWHERE, *options)) as process:
        address = process.listening()
        check_service(address)
        (generation,) = children_of(process.pid)
        until(lambda: len(children_of(generation)) == 3)
        for _ in range(8):
            check_service(address)
        (generation,) = children_of(process.pid)
        assert all(not children_of(worker) for worker in children_of(generation))
        assert process.stop() == 0


def test_programs_fallback_can_be_overridden(program: Path) -> None:
    program.write_text(FILTER.replace('if name == "bad"', 'if name == "bad" and 1 / 0'))
    options = ("--fallback", "reject", "--fallback", "helo=shutdown")
    with started(*run(program, *ANYWHERE, *options)) as process:
        with Wire(process.listening()) as wire:
            wire.play(">> O 6 1ff 1fffff\n<< O *\n>> H bad␀")
            assert wire.answer().startswith("y 421 4.7.0")
        assert process.stop() == 0


def test_peers_that_are_not_allowed_are_not_served(program: Path) -> None:
    with started(*run(program, *ANYWHERE, "--allow", "192.0.2.0/24")) as process:
        with Wire(process.listening()) as wire:
            wire.play("<< EOF")
        assert process.stop() == 0


# --- reload


def answer(address: str) -> str:
    """Return the answer to HELO good."""
    with Wire(address) as wire:
        wire.play(">> O 6 1ff 1fffff\n<< O *\n>> H good␀")
        return wire.answer()


def test_hup_loads_the_program_anew_and_refuses_one_that_fails(program: Path) -> None:
    with started(*run(program, *ANYWHERE)) as process:
        address = process.listening()
        process.await_line("generation 1 serves")
        assert answer(address) == "c"

        program.write_text(FILTER.replace('"bad"', '"good"'))
        assert "generation 2 serves" in process.reload()
        until(lambda: answer(address) == "y 550 5.7.1 go away␀")

        program.write_text("1 / 0")
        assert f"cannot load {program}, line 1: ZeroDivisionError" in process.reload()
        assert answer(address) == "y 550 5.7.1 go away␀"
        assert process.stop() == 0


def test_hup_reads_the_file_anew_and_tells_what_takes_a_restart(
    program: Path, tmp_path: Path
) -> None:
    program.write_text(FILTER.replace('if name == "bad"', 'if name == "good" and 1 / 0'))
    config = tmp_path / "filter.toml"
    config.write_text("fallback = 'accept'\nlisten = 'inet:0@127.0.0.1'\n")
    with started(*run(program, "--config", config)) as process:
        address = process.listening()
        process.await_line("generation 1 serves")
        assert answer(address) == "a"

        config.write_text("fallback = 'reject'\nlisten = 'inet:1@127.0.0.1'\n")
        assert "generation 2 serves" in process.reload()
        assert "listen has changed: that takes a restart" in process.log
        until(lambda: answer(address) == "r")

        config.write_text("fallback = 'discard'\n")
        assert f"{config}, line 1: fallback: 'discard' is not one of" in process.reload()
        assert answer(address) == "r"
        assert process.stop() == 0


def test_hup_without_listen_is_ignored_with_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "opens.py"
    path.write_text(FILTER + '\nmilter.setconn("inet:0@127.0.0.1")\n')
    with started(*run(path, "-d", "ithread")) as process:
        check_service(process.listening())
        os.kill(process.pid, signal.SIGHUP)
        assert "--listen" in process.await_line("SIGHUP is ignored")
        assert process.stop() == 0


# --- as a daemon


def test_pid_file_is_there_while_it_serves(program: Path, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with started(*run(program, *ANYWHERE, "--pid-file", path)) as process:
        process.listening()
        assert path.read_text() == f"{process.pid}\n"
        assert process.stop() == 0
    assert not path.exists()


def test_pid_file_of_a_living_process_is_left_and_nothing_is_left_behind(
    program: Path, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    path.write_text(f"{os.getpid()}\n")

    status, line = failed(program, "--listen", f"{tmp_path}/s", "--pid-file", path)

    assert status == 2
    assert f"pid file {path}: process {os.getpid()} is alive" in line
    assert path.read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "s").exists()


def readable_python() -> tuple[str, str]:
    """Return an interpreter that any user may run, and its path for modules."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    folders = [str(Path(pmilter.__file__).parents[1]), *packages]
    return "/usr/bin/python3", os.pathsep.join(folders)


@needs_root
def test_user_is_become_after_the_socket_is_open_and_before_the_program_is_loaded() -> None:
    python, path = readable_python()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        program = directory / "served.py"
        program.write_text(FILTER + TELLS_WHO_IT_IS)
        config = directory / "filter.toml"
        config.write_text(f"listen = 'unix:{name}/s'\nmode = '666'\nuser = 'nobody'\n")
        config.chmod(0o600)
        arguments = run(program, "--config", config, "--pid-file", f"{name}/pid")
        with started(*arguments, PYTHON=python, PYTHONPATH=path) as process:
            line = process.await_line("own: ")
            process.await_line("generation 1 serves")
            check_service(f"unix:{name}/s")
            for pid in (process.pid, *children_of(process.pid)):
                assert identity(pid) == {
                    "Uid": {NOBODY},
                    "CapPrm": {0},
                    "CapEff": {0},
                    "CapAmb": {0},
                }
            assert (directory / "s").stat().st_uid == 0
            assert process.stop() == 0

        assert line.endswith(f"own: {NOBODY} 0o27\n")
        assert "runs as root" not in process.log
        assert f"{config} may not be read by the user that serves" in process.log
        assert (
            directory / "pid"
        ).read_text() == ""  # root's directory: nobody may remove nothing from it


def identity(pid: int) -> dict[str, set[int]]:
    """Return whom a process belongs to, and its capabilities."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    found = {line[0][:-1]: line[1:] for line in lines if line}
    return {
        name: {int(number, base) for number in found[name]}
        for name, base in (("Uid", 10), ("CapPrm", 16), ("CapEff", 16), ("CapAmb", 16))
    }


def test_start_with_closed_descriptors_keeps_sockets_away_from_them(
    program: Path, tmp_path: Path
) -> None:
    pid_file, path = tmp_path / "pid", tmp_path / "s"
    program.write_text(FILTER + "\nprint('to nobody')\n")
    arguments = run(program, "--listen", path, "--pid-file", pid_file)
    with subprocess.Popen(
        ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, *arguments]
    ) as process:
        try:
            await_filter(f"unix:{path}")
            check_service(f"unix:{path}")
            for pid in (process.pid, *children_of(process.pid)):
                held = {Path(f"/proc/{pid}/fd/{number}").readlink() for number in (0, 1, 2)}
                assert held == {Path(os.devnull)}
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert not path.exists()


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


@pytest.mark.parametrize(
    "option",
    [("--mode", "660"), ("--group", "0"), ("--user", "nobody"), ("--max-memory", "1G")],
)
def test_what_needs_listen_is_explained(tmp_path: Path, option: tuple[str, str]) -> None:
    path = tmp_path / "opens.py"
    path.write_text(FILTER + '\nmilter.setconn("inet:0@127.0.0.1")\n')

    status, line = failed(path, *option)

    assert status == 2
    assert line.startswith(f"pmilter: {option[0]} needs --listen: ")


def test_address_in_use_is_told_with_the_remedy(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"inet:{taken.getsockname()[1]}@127.0.0.1"

        status, line = failed(program, "--listen", address)

    assert status == 3
    assert line.startswith(f"pmilter: {address}: Address already in use (another program")


@pytest.mark.parametrize("place", ["{tmp_path}/missing/socket", "/proc/socket"])
def test_directory_that_takes_no_socket_is_told(
    program: Path, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix:{place.format(tmp_path=tmp_path)}"

    assert perform(["run", str(program), "--listen", address]) == 3
    assert capsys.readouterr().err.startswith(f"pmilter: {address}: ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--listen", "8891"), "address '8891': it has no scheme"),
        (("--listen", "inet:nosuchport@127.0.0.1"), "pmilter: --listen: address 'inet:nosuchport@"),
        (("--max-memory", "1K"), "--max-memory: '1K' must be 16M or more"),
        (("--listen", "/tmp/x", "--mode", "rw"), "mode 'rw' must be octal"),
        (("--listen", "/tmp/x", "--group", "no-such-group"), "no group 'no-such-group'"),
        (("--listen", "inet:0@127.0.0.1", "--mode", "660"), "for UNIX sockets"),
        (("--dispatcher", "fork"), "--dispatcher: 'fork' is not one of asyncio, postfork"),
        (("--listen", "unix:/" + "x" * 107), "the path has 108 bytes"),
        (("--user", "no-such-user"), "--user: there is no user 'no-such-user' on this machine"),
        (("--uvloop", "--dispatcher", "ithread"), "--uvloop is for the dispatcher asyncio"),
        (("--workers", "2", "--max-children", "3"), "--max-children does not go with --workers"),
        (("--fallback", "eon=reject"), "unknown stage 'eon'"),
        (("--config", "/nonexistent/x.toml"), "/nonexistent/x.toml: No such file or directory"),
        (("--pid-file", "/nonexistent/pid"), "cannot write the pid file /nonexistent/pid"),
        (("--json",), "--json is for --check"),
        (("--log-level", "loud"), "'loud' is not one of"),
        (("--lisden", "x"), "No such option"),
    ],
)
def test_wrong_option_is_told_with_the_right_one(
    program: Path, options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ANYWHERE if "--listen" not in options else ()
    assert perform(["run", str(program), *given, *options]) == 2

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


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import time\ntime.sleep(60)\n", "not ready within 0.3 seconds; give it more time with --load-time"),
        ("import os\nos._exit(5)\n", "ended with status 5 before it served"),
    ],
)  # fmt: skip
def test_program_that_does_not_come_to_serve_is_named_in_the_last_line(
    program: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "never_serves.py"
    path.write_text(program)
    time = "0.3" if "sleep" in program else "30"

    assert perform(["run", str(path), *ANYWHERE, "--load-time", time]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"pmilter: {path}: ")
    assert told in last


def test_check_that_takes_too_long_is_told_with_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "never_serves.py"
    path.write_text("import time\ntime.sleep(60)\n")

    assert perform(["run", str(path), *ANYWHERE, "--check", "--load-time", "0.3"]) == 2
    assert "within 0.3 seconds; give it more time with --load-time" in capsys.readouterr().err


@pytest.fixture
def private() -> Iterator[Path]:
    """A program that only root may read, in a directory that all may write to."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        path = Path(name) / "served.py"
        path.write_text(FILTER)
        path.chmod(0o600)
        yield path


def refused(*arguments: str, user: int | None) -> tuple[int, str]:
    """Run it to its end as a user that is in no group of the system's; return the status and what is on stderr."""
    python, path = readable_python()
    done = subprocess.run(
        [python, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return done.returncode, done.stderr


@needs_root
def test_group_that_the_user_is_not_in_is_told_with_the_option(private: Path) -> None:
    socket_ = private.with_name("s")
    arguments = run(private, "--listen", socket_, "--group", "0")

    assert refused(*arguments, user=NOBODY) == (
        3,
        f"pmilter: unix:{socket_}: --group 0: only root, or a member of that group, can give it a socket\n",
    )
    assert not socket_.exists()


@needs_root
def test_program_that_the_user_may_not_read_is_told_with_the_user(private: Path) -> None:
    assert refused(*run(private, *ANYWHERE, "--user", "nobody"), user=None) == (
        2,
        f"pmilter: {private}: user nobody may not read it; mind the directories above it too\n",
    )


def test_coroutine_under_a_dispatcher_without_a_loop_is_refused(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text(FILTER.replace("def helo", "async def helo"))

    assert perform(["run", str(program), *ANYWHERE, "--dispatcher", "sequential"]) == 2
    assert "helo callback is a coroutine function" in capsys.readouterr().err
