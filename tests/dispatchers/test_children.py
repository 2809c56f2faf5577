"""Forked children as the dispatcher that forks most has them: how they begin, what they leave, how they end."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Limits, Milter
from tests.support.playbook import filter_of, returns
from tests.support.service import Service, serving
from tests.support.wire import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"
QUIT = ">> Q\n<< EOF"


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


def saying(trace: Trace, **others: Callable[..., Any]) -> Milter:
    """Return a filter that says in which process it greets."""
    helo: Callable[..., Any] = lambda *_: trace.say(str(os.getpid()))  # noqa: E731  # one of several
    return filter_of({"helo": helo} | others, limits=Limits(grace=0.5))


def child_of(service: Service, trace: Trace) -> Path:
    """Have a child serve a connection to its end, and return its place in /proc."""
    service.play(SESSION + QUIT)
    return Path("/proc") / trace.next()


def await_end(child: Path, service: Service, *, idle: bool = False) -> None:
    """Return when a process has ended and was reaped, at the latest with the next connection but for an idle service."""
    with service.connect() as quiet:
        for _ in range(300):
            if not child.exists():
                return
            assert quiet.is_silent(0.01)
            if not idle:
                service.connect().close()
    raise AssertionError("the child was not reaped")


def test_ended_children_are_reaped_though_nothing_else_comes(trace: Trace, tmp_path: Path) -> None:
    with serving(saying(trace), tmp_path, "postfork") as service:
        await_end(child_of(service, trace), service, idle=True)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: os._exit(7), "status 7"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "signal SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3), "signal"),
    ],
)
def test_child_that_ends_badly_is_told_of_once(
    end: Callable[[], object], said: str, trace: Trace, tmp_path: Path
) -> None:
    def helo(*_: object) -> None:
        trace.say(str(os.getpid()))
        end()

    with serving(saying(trace, helo=helo), tmp_path, "postfork") as service:
        service.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< EOF")
        child = trace.next()
        await_end(Path("/proc") / child, service)
        lines = service.await_log(f"child {child} ")
    assert len(lines) == 1
    assert said in lines[0]


def test_child_that_ends_well_is_not_worth_a_word(trace: Trace, tmp_path: Path) -> None:
    with serving(saying(trace), tmp_path, "postfork") as service:
        child = child_of(service, trace)
        await_end(child, service)
        assert [line for line in service.log() if child.name in line] == []


def test_exit_handlers_of_the_parent_do_not_run_in_a_child(trace: Trace, tmp_path: Path) -> None:
    def before() -> None:
        atexit.register(trace.say, "exit handler")

    with serving(saying(trace), tmp_path, "postfork", before=before) as service:
        await_end(child_of(service, trace), service)
        assert trace.rest() == []


def test_what_a_child_has_printed_is_not_lost_nor_printed_twice(
    trace: Trace, tmp_path: Path
) -> None:
    output = tmp_path / "output"

    def before() -> None:
        sys.stdout = output.open("w")
        sys.stdout.write("parent ")

    def helo(*_: object) -> None:
        trace.say(str(os.getpid()))
        sys.stdout.write("child ")

    milter = saying(trace, helo=helo)
    with serving(milter, tmp_path, "postfork", before=before) as service:
        await_end(child_of(service, trace), service)
    assert output.read_text() == "parent child "


def broken_pipe() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def closed_file() -> Any:
    with Path(os.devnull).open("w") as file:
        return file


@pytest.mark.parametrize(
    "stdout", [lambda: None, closed_file, broken_pipe], ids=["none", "closed", "broken"]
)
def test_daemon_without_a_standard_output_serves_all_the_same(
    stdout: Callable[[], Any], trace: Trace, tmp_path: Path
) -> None:
    def before() -> None:
        sys.stdout = stdout()

    def helo(*_: object) -> None:
        trace.say(str(os.getpid()))
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.write("unread")

    def after() -> None:
        trace.say("main has ended")

    milter = saying(trace, helo=helo)
    with serving(milter, tmp_path, "postfork", before=before, after=after) as service:
        child_of(service, trace)
        await_end(child_of(service, trace), service)
        assert trace.rest() == []
    assert trace.rest() == ["main has ended"]


class Stubborn(logging.Handler):
    """A handler that fails when it is flushed, as one for a full disk or a remote server does."""

    def emit(self, record: logging.LogRecord) -> None: ...

    def flush(self) -> None:
        raise KeyError("no log")


def test_child_whose_log_cannot_be_flushed_ends_and_does_not_go_on_as_the_parent(
    trace: Trace, tmp_path: Path
) -> None:
    def before() -> None:
        logging.getLogger().addHandler(Stubborn())

    def after() -> None:
        trace.say("main has ended")

    with serving(saying(trace), tmp_path, "postfork", before=before, after=after) as service:
        await_end(child_of(service, trace), service)
        assert trace.rest() == []
    assert trace.rest() == ["main has ended"]


def test_program_that_ignores_the_end_of_children_serves_and_stops(
    trace: Trace, tmp_path: Path
) -> None:
    def before() -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    with serving(saying(trace), tmp_path, "postfork", before=before) as service:
        for _ in range(3):
            child_of(service, trace)
        with service.connect() as wire:
            wire.play(SESSION)
            service.signal()
            wire.until_goodbye("H x␀")
            assert service.wait(3) == 0


def test_system_that_does_not_tell_which_children_have_ended_is_asked_for_each(
    trace: Trace, tmp_path: Path
) -> None:
    def before() -> None:
        del os.waitid

    with serving(saying(trace), tmp_path, "postfork", before=before) as service:
        for _ in range(3):
            await_end(child_of(service, trace), service)


def test_children_that_others_started_are_left_alone(trace: Trace, tmp_path: Path) -> None:
    others: list[int] = []

    def before() -> None:
        others.append(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {}))

    def after() -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(others[0], 0)[1])
        trace.say(f"status {code}")

    milter = saying(trace)
    with serving(milter, tmp_path, "postfork", before=before, after=after) as service:
        await_end(child_of(service, trace), service)
    assert trace.rest() == ["status 5"]


def test_where_no_child_can_be_started_the_connection_is_closed_and_the_service_goes_on(
    tmp_path: Path,
) -> None:
    fork = os.fork
    failing = iter([True, False, False])

    def failing_fork() -> int:
        if next(failing):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    def before() -> None:
        os.fork = failing_fork

    milter = filter_of({"helo": returns(None)})
    with serving(milter, tmp_path, "postfork", before=before) as service:
        with service.connect() as wire:
            assert wire.answers() == []
        service.play(SESSION + QUIT)
    assert any("cannot fork" in line for line in service.log())


def test_subprocesses_of_callbacks_work_as_ever(trace: Trace, tmp_path: Path) -> None:
    import subprocess

    def helo(*_: object) -> None:
        result = subprocess.run(["sh", "-c", "exit 3"], check=False)  # any will do
        trace.say(str(result.returncode))

    with serving(saying(trace, helo=helo), tmp_path, "postfork") as service:
        service.play(SESSION + QUIT)
        assert trace.next() == "3"


# --- what the parent sees to


def stuck(*_: object) -> None:
    """Be stuck as code in C is: no thread of the process runs any more."""
    import ctypes

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).pause()


def test_child_in_which_nothing_runs_any_more_is_killed(trace: Trace, tmp_path: Path) -> None:
    def helo(*_: object) -> None:
        trace.say(str(os.getpid()))
        stuck()

    milter = filter_of({"helo": helo}, limits=Limits(command_time=0.2, grace=0.5))
    with serving(milter, tmp_path, "postfork") as service, service.connect() as wire:
        wire.sock.settimeout(4)
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< EOF")
        child = trace.next()
        await_end(Path("/proc") / child, service)
        assert any(f"child {child} is stuck" in line for line in service.log())


def test_child_that_is_stuck_does_not_hold_up_the_end(trace: Trace, tmp_path: Path) -> None:
    def helo(*_: object) -> None:
        trace.say("stuck")
        stuck()

    milter = filter_of({"helo": helo}, limits=Limits(command_time=None, grace=0.2))
    with serving(milter, tmp_path, "postfork") as service, service.connect() as wire:
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀")
        trace.next()
        service.signal()
        assert service.wait(4) == 0
        assert wire.answers() == []
    assert any("killing it" in line for line in service.log())


def test_signal_that_reaches_a_child_at_its_birth_does_not_stop_the_parent(
    trace: Trace, tmp_path: Path
) -> None:
    fork = os.fork

    def fork_and_signal() -> int:
        pid = fork()
        if pid:
            os.kill(pid, signal.SIGTERM)
        return pid

    def before() -> None:
        os.fork = fork_and_signal

    with serving(saying(trace), tmp_path, "postfork", before=before) as service:
        for _ in range(3):
            with service.connect() as wire:
                wire.play(">> O 6 1ff 77f\n<< O *")
                wire.until_goodbye("C x␀U")


def test_children_have_no_signal_handlers_but_their_own(trace: Trace, tmp_path: Path) -> None:
    def helo(*_: object) -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        trace.say("unharmed")

    with serving(saying(trace, helo=helo), tmp_path, "postfork") as service:
        service.play(SESSION + QUIT)
        assert trace.next() == "unharmed"
        assert not [line for line in service.log() if "status" in line or "HUP" in line]
