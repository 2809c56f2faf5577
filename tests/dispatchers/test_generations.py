from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import ConfigError, Milter
from pmilter.dispatchers.generations import serve_generations
from pmilter.dispatchers.listening import adopt, listen_on
from pmilter.dispatchers.prefork import prefork_dispatcher
from pmilter.testing.trial import try_out
from tests.support.playbook import filter_of, returns
from tests.support.processes import fork, in_child, wait
from tests.support.service import CONCURRENT, DISPATCHERS, Service, dispatcher_of, log_to
from tests.support.waiting import children_of, until
from tests.support.wire import Trace, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.dispatchers.registry import Dispatcher

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"
QUIT = ">> Q\n<< EOF"
MESSAGE = ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> E\n<< {verdict}\n"

HANDING_OVER = (*CONCURRENT, "prefork of asyncio", "prefork of selector")
"""Dispatchers of which an old and a new generation serve at the same time."""

PROGRAM = """
import os
from pmilter import Milter, Status
milter = Milter("app")

@milter.on("helo")
def helo(ctx, name):
    {helo}

@milter.on("eom")
def eom(ctx):
    return Status.{verdict}
"""


class Run(Service):
    """`serve_generations` at work on a program that a test can change."""

    def __init__(self, pid: int, address: str, log: Path, program: Path) -> None:
        super().__init__("generations", pid, address, log)
        self._program = program
        self._reloads = 0

    def write(self, verdict: str = "ACCEPT", helo: str = "pass") -> None:
        """Write a program that answers messages so."""
        self._program.write_text(PROGRAM.format(verdict=verdict, helo=helo))

    def write_text(self, text: str) -> None:
        """Write any text as the program."""
        self._program.write_text(text)

    def reload(self) -> None:
        """Have the program loaded anew; return when that has come to its end, good or bad."""
        before = self.ends()
        self.signal(signal.SIGHUP)
        until(lambda: self.ends() > before, self.log)

    def ends(self) -> int:
        """Return how many loads have come to an end."""
        return sum("serves on" in line or "not loaded anew" in line for line in self.log())

    def generations(self) -> set[int]:
        """Return the processes of the generations."""
        return children_of(self.pid)


def chosen(name: str) -> Dispatcher:
    """Return the dispatcher of a name, which may say what serves in the children."""
    _, of, worker = name.partition(" of ")
    return prefork_dispatcher(worker=dispatcher_of(worker)) if of else dispatcher_of(name)


@contextmanager
def running(
    directory: Path,
    dispatcher: str = "ithread",
    helo: str = "pass",
    *,
    handed_in: bool = False,
    **options: Any,
) -> Iterator[Run]:
    """Serve a program that accepts all, while the body runs."""
    program, log = directory / "app.py", directory / "service.log"
    trace = Trace()

    def load() -> Milter:
        space: dict[str, Any] = {}
        exec(compile(program.read_text(), program, "exec"), space)
        milter = space["milter"]
        assert isinstance(milter, Milter)
        milter.set_dispatcher(space.get("dispatcher") or chosen(dispatcher))
        return milter

    def work() -> None:
        log_to(log)
        bound = listen_on(f"unix:{directory}/socket", None, None, 128)
        trace.say(str(bound.address))
        serve_generations(load, adopt(bound.socket) if handed_in else bound, try_out, **options)

    program.write_text(PROGRAM.format(verdict="ACCEPT", helo=helo))
    pid = fork(work)
    run = Run(pid, trace.next(), log, program)
    trace.close()
    try:
        until(run.ends, run.log)
        yield run
        run.stop()
    finally:
        if not run._ended:
            run.signal(signal.SIGKILL)
            run.wait()


def play(run: Run, verdict: str) -> None:
    """Send a message on a connection of its own, and check the answer to it."""
    assert answer(run) == verdict


def answer(run: Run) -> str:
    """Send a message on a connection of its own, and return the answer to it."""
    (line,) = answers(run, 1)
    return line


def answers(run: Run, count: int) -> set[str]:
    """Send some messages on a connection of their own, and return the answers to them."""
    lines = set()
    with run.connect() as wire:
        wire.play(SESSION)
        for _ in range(count):
            wire.play(">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> E")
            lines.add(wire.answer())
        wire.play(QUIT)
    return lines


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_program_is_served_by_the_dispatcher_of_its_choice(dispatcher: str, tmp_path: Path) -> None:
    with running(tmp_path, dispatcher) as run:
        play(run, "a")
        run.signal()
        assert run.wait(1.5) == 0
    assert not (tmp_path / "socket").exists()


def test_stop_is_logged_once_when_it_begins(tmp_path: Path) -> None:
    with running(tmp_path, "prefork") as run, run.connect() as wire:
        wire.play(SESSION + ">> M <a@x>␀\n<< c")
        run.signal()
        (line,) = run.await_log("stopping")
        assert line == f"INFO stopping: no more connections are accepted on {run.address}"
        wire.play(">> R <b@x>␀\n<< c\n>> E\n<< a\n" + QUIT)  # what is open is finished
        assert run.wait() == 0
        assert run.log().count(line) == 1


def test_program_that_never_served_does_not_stop(tmp_path: Path) -> None:
    log = tmp_path / "service.log"

    def work() -> None:
        log_to(log)
        bound = listen_on(f"unix:{tmp_path}/socket", None, None, 128)
        with pytest.raises(ConfigError, match="no callbacks"):
            serve_generations(Milter, bound, try_out)

    in_child(work)
    assert "stopping" not in log.read_text()


def test_parent_loads_nothing_of_the_program(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        play(run, "a")
        run.write_text(
            f"open({str(tmp_path / 'loader')!r}, 'w').write(str(__import__('os').getpid()))"
        )
        run.reload()
        assert (tmp_path / "loader").read_text() != str(run.pid)


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_reload_serves_new_connections_with_the_new_program(
    dispatcher: str, tmp_path: Path
) -> None:
    with running(tmp_path, dispatcher) as run:
        play(run, "a")
        run.write("REJECT")
        run.reload()
        until(lambda: len(run.generations()) == 1, run.log)
        play(run, "r")


@pytest.mark.parametrize("dispatcher", HANDING_OVER)
def test_old_connections_are_served_by_the_old_program_to_their_end(
    dispatcher: str, tmp_path: Path
) -> None:
    with running(tmp_path, dispatcher) as run, run.connect() as old:
        old.play(SESSION + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        run.write("REJECT")
        run.reload()
        until(lambda: answer(run) == "r")  # both accept for a moment
        old.play(">> E\n<< a\n")
        old.play(MESSAGE.format(verdict="a") + MESSAGE.format(verdict="a"))
        assert len(run.generations()) == 2
        old.play(QUIT)
        until(lambda: len(run.generations()) == 1, run.log)


def test_old_connections_are_told_to_come_again_when_they_take_too_long(tmp_path: Path) -> None:
    with running(tmp_path, drain_time=0.3) as run, run.connect() as old:
        old.play(SESSION)
        run.write("REJECT")
        run.reload()
        old.until_goodbye("H x␀")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nonsense_of_this_test", "No module named 'nonsense_of_this_test'"),
        ("def (", "invalid syntax"),
        ("import os; os._exit(0)", "ended with status 0"),
        ("import os; os.kill(os.getpid(), 9)", "signal SIGKILL"),
        ("raise SystemExit('no configuration')", "no configuration"),
        ("from pmilter import Milter\nmilter = Milter('x')", "no callbacks"),
        (PROGRAM.format(verdict="ACCEPT", helo="1 / 0"), "division by zero"),
        ("raise RuntimeError('\\u20ac' * 100000)", "\u20ac" * 100),
    ],
    ids=["import", "syntax", "exit", "crash", "SystemExit", "empty", "trial", "much"],
)
def test_program_that_cannot_serve_leaves_the_old_one_serving_and_says_why(
    text: str, reason: str, tmp_path: Path
) -> None:
    with running(tmp_path) as run, run.connect() as old:
        old.play(SESSION)
        before = run.generations()
        run.write_text(text)
        run.reload()
        (line,) = [line for line in run.log() if "not loaded anew" in line]
        assert reason in line
        until(lambda: run.generations() == before, run.log)
        play(run, "a")
        old.play(MESSAGE.format(verdict="a") + QUIT)
        run.write("REJECT")
        run.reload()
        until(lambda: answer(run) == "r")


@pytest.mark.parametrize(
    "dispatcher",
    [
        "prefork_dispatcher(max_children=1, child_init=lambda _: 1 / 0)",
        "lambda _milter, _listener, _handler: 1 / 0",
    ],
    ids=["prefork", "own"],
)
def test_program_whose_dispatcher_fails_leaves_the_old_one_serving(
    dispatcher: str, tmp_path: Path
) -> None:
    with running(tmp_path, load_time=1.0) as run:
        run.write_text(
            PROGRAM.format(verdict="REJECT", helo="pass")
            + f"from pmilter import prefork_dispatcher\ndispatcher = {dispatcher}\n"
        )
        run.reload()
        assert any("not loaded anew" in line for line in run.log())
        play(run, "a")


FLUSHING = """
import logging, threading
class Slow(logging.Handler):
    def emit(self, record): pass
    def flush(self):
        threading.Event().wait(0.2)
        open({path!r}, "w").close()
slow = Slow()
logging.getLogger().addHandler(slow)
"""


def test_generation_that_ends_has_the_time_to_write_its_log(tmp_path: Path) -> None:
    flushed = tmp_path / "flushed"
    with running(tmp_path) as run:
        run.write_text(
            PROGRAM.format(verdict="REJECT", helo="pass") + FLUSHING.format(path=str(flushed))
        )
        run.reload()
        run.stop()
    assert flushed.exists()
    assert not any("SIGKILL" in line for line in run.log())


def test_program_that_takes_too_long_to_load_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, load_time=0.5) as run:
        run.write_text("import threading; threading.Event().wait()")
        run.reload()
        play(run, "a")
        assert any("was not ready within 0.5 seconds" in line for line in run.log())


def test_program_that_does_not_load_is_no_hindrance_to_a_stop(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.write_text("import threading; threading.Event().wait()")
        run.signal(signal.SIGHUP)
        until(lambda: len(run.generations()) == 2, run.log)
        run.signal()
        assert run.wait(1.5) == 0


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (lambda: 1 / 0, "division by zero"),
        (lambda: os._exit(3), "status 3"),
        (lambda: Milter("x"), "no callbacks"),
    ],
)
def test_first_program_that_fails_is_an_error_and_leaves_nothing_behind(
    load: Callable[[], Milter], reason: str, tmp_path: Path
) -> None:
    def work() -> None:
        log_to(tmp_path / "log")
        bound = listen_on(f"unix:{tmp_path}/socket", None, None, 128)
        with pytest.raises(ConfigError) as caught:
            serve_generations(load, bound, try_out)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "socket").exists()
        with pytest.raises(ChildProcessError):
            os.wait()

    in_child(work)


def test_generation_that_dies_is_replaced(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        (first,) = run.generations()
        os.kill(first, signal.SIGKILL)
        until(lambda: run.generations() not in ({first}, set()), run.log)
        play(run, "a")
        assert any(f"child {first} ended with signal SIGKILL" in line for line in run.log())


def test_stop_from_a_callback_ends_everything(tmp_path: Path) -> None:
    with running(tmp_path, "prefork", "name == 'end' and milter.stop()") as run:
        with run.connect() as wire:
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H end␀\n<< c")
            wire.until_goodbye("H x␀")
        assert run.wait(2) == 0


@pytest.mark.parametrize("dispatcher", CONCURRENT)
def test_status_line_counts_what_all_processes_have(dispatcher: str, tmp_path: Path) -> None:
    with running(tmp_path, dispatcher) as run, run.connect() as wire:
        play(run, "a")
        wire.play(SESSION)

        def told() -> bool:
            run.signal(signal.SIGUSR1)
            return any("1 connections" in line and "2 requests" in line for line in run.log())

        until(told, run.log)


def test_generations_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, "prefork") as run:
        (generation,) = run.generations()
        until(lambda: len(children_of(generation)) == 10, run.log)
        children = children_of(generation)
        run.signal(signal.SIGKILL)
        run.wait()
        for pid in (generation, *children):
            until(lambda: not Path(f"/proc/{pid}").exists())  # noqa: B023  # called at once
        with pytest.raises(ConnectionRefusedError):
            run.connect()


@pytest.mark.parametrize("dispatcher", HANDING_OVER)
def test_reloads_under_load_cost_not_one_message(dispatcher: str, tmp_path: Path) -> None:
    with running(tmp_path, dispatcher) as run:
        over = threading.Event()
        given: list[str] = []
        failures: list[BaseException] = []

        def send() -> None:
            try:
                while not over.is_set():
                    (verdict,) = answers(run, 3)  # a connection stays with its generation
                    given.append(verdict)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for verdict in ("REJECT", "ACCEPT", "REJECT", "TEMPFAIL"):
                run.write(verdict)
                run.reload()
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert {"a", "r"} <= set(given) <= {"a", "r", "t"}


# --- systemd


def test_restart_through_a_socket_that_was_handed_in_refuses_nobody(tmp_path: Path) -> None:
    """The socket stays while the filter does not: a connection in between waits for the next one."""
    with socket.socket(socket.AF_UNIX) as handed_in:
        handed_in.bind(str(tmp_path / "socket"))
        handed_in.listen(16)

        def work() -> None:
            os.dup2(handed_in.fileno(), 3)
            os.environ |= {
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": "milter",
                "LISTEN_PID": str(os.getpid()),
            }
            bound = listen_on("fd:milter", None, None, 1)
            serve_generations(lambda: filter_of({"helo": returns(None)}), bound, try_out)

        for _ in range(2):
            with Wire(f"unix:{tmp_path}/socket") as early:
                early.play(">> O 6 1ff 77f")
                pid = fork(work)
                early.play("<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n" + QUIT)
            os.kill(pid, signal.SIGTERM)
            assert wait(pid, 2) == 0
        assert (tmp_path / "socket").exists()


def stop_listening(run: Run) -> None:
    """Have a service stop, and return when nothing accepts any more."""
    run.signal(signal.SIGTERM)
    until(lambda: not accepts(run), run.log)


def accepts(run: Run) -> bool:
    try:
        run.connect().close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("dispatcher", HANDING_OVER)
def test_sessions_open_at_a_restart_may_begin_messages_where_the_socket_was_handed_in(
    dispatcher: str, tmp_path: Path
) -> None:
    with running(tmp_path, dispatcher, handed_in=True) as run, run.connect() as wire:
        wire.play(">> O 6 1ff 77f\n<< O *")
        stop_listening(run)
        wire.play(SESSION.partition("<< O *\n")[2] + 2 * MESSAGE.format(verdict="a") + QUIT)
        assert run.wait() == 0


def test_sessions_that_outlast_a_restart_are_told_to_come_again(tmp_path: Path) -> None:
    with running(tmp_path, handed_in=True, linger=0.3) as run, run.connect() as wire:
        wire.play(SESSION)
        stop_listening(run)
        wire.until_goodbye("H x␀")
        assert run.wait() == 0


def test_second_signal_ends_at_once_what_a_restart_waits_for(tmp_path: Path) -> None:
    with running(tmp_path, handed_in=True) as run, run.connect() as wire:
        wire.play(SESSION)
        stop_listening(run)
        run.signal(signal.SIGTERM)
        wire.play("<< EOF")
        assert run.wait() == 0


def test_socket_of_its_own_is_no_reason_to_wait(tmp_path: Path) -> None:
    with running(tmp_path) as run, run.connect() as wire:
        wire.play(SESSION)
        stop_listening(run)
        wire.until_goodbye("H x␀")
        assert run.wait() == 0


def test_service_manager_is_told_what_becomes_of_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def next_message() -> dict[str, str]:
            lines = manager.recv(4096).decode().splitlines()
            return dict(line.split("=", 1) for line in lines)

        with running(tmp_path) as run:
            first = next_message()
            assert first["READY"] == "1"
            assert "serves on" in first["STATUS"]
            run.write("REJECT")
            run.reload()
            begin = next_message()
            assert begin["RELOADING"] == "1"
            assert int(begin["MONOTONIC_USEC"]) > 0
            assert next_message()["READY"] == "1"
            run.write_text("1 / 0")
            run.reload()
            assert next_message()["RELOADING"] == "1"
            failed = next_message()
            assert failed["READY"] == "1"
            assert "division by zero" in failed["STATUS"]
            run.signal()
            assert next_message()["STOPPING"] == "1"
            assert run.wait(2) == 0
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)  # and nothing else, from generations that think they speak for all
