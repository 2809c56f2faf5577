from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import ConfigError, Context, Limits
from pmilter.dispatchers import postfork_dispatcher
from pmilter.dispatchers.overflow import REFUSALS
from tests.support.playbook import filter_of, returns
from tests.support.processes import resident
from tests.support.service import serving
from tests.support.waiting import children_of, until
from tests.support.wire import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"
QUIT = ">> Q\n<< EOF"


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


def test_each_connection_has_a_process_of_its_own(trace: Trace, tmp_path: Path) -> None:
    milter = filter_of({"helo": lambda *_: trace.say(f"{os.getpid()} {os.getppid()}")})
    with serving(milter, tmp_path, "postfork") as service:
        for _ in range(3):
            service.play(SESSION + QUIT)
        pids, parents = zip(*(line.split() for line in trace.take(3)), strict=True)
    assert len(set(pids)) == 3
    assert set(parents) == {str(service.pid)}


def test_what_one_connection_does_to_the_filter_another_does_not_see(
    trace: Trace, tmp_path: Path
) -> None:
    seen: list[str] = []

    def helo(ctx: Context, name: str) -> None:
        seen.append(name)
        trace.say(str(len(seen)))

    with serving(filter_of({"helo": helo}), tmp_path, "postfork") as service:
        for _ in range(3):
            service.play(SESSION + QUIT)
        assert trace.take(3) == ["1", "1", "1"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGVTALRM])
def test_process_that_dies_closes_its_connection_at_once_and_no_other(
    number: int, tmp_path: Path
) -> None:
    def helo(ctx: Context, name: str) -> None:
        if name == "die":
            os.kill(os.getpid(), number)

    milter = filter_of({"helo": helo})
    with serving(milter, tmp_path, "postfork") as service, service.connect() as other:
        other.play(SESSION)
        with service.connect() as wire:
            wire.sock.settimeout(1)
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H die␀\n<< EOF")
        other.play(f">> H x␀\n<< c\n{QUIT}")
        service.play(SESSION + QUIT)
        service.await_log(signal.Signals(number).name)


def test_children_do_not_hold_the_listening_socket_nor_each_others_connections(
    tmp_path: Path,
) -> None:
    milter = filter_of({"helo": returns(None)}, limits=Limits(grace=0.2))
    with (
        serving(milter, tmp_path, "postfork") as service,
        service.connect() as one,
        service.connect() as two,
    ):
        one.play(SESSION)
        two.play(SESSION)
        one.play(QUIT)  # sees the end though two's process began when one was open
        service.signal(signal.SIGKILL)
        service.wait()
        with pytest.raises(ConnectionRefusedError):
            service.connect()
        two.play(f">> H x␀\n<< c\n{QUIT}")


def test_several_processes_of_one_terminal_group_stop_together(
    trace: Trace, tmp_path: Path
) -> None:
    """Ctrl-C reaches parent and children alike: messages are finished all the same."""
    milter = filter_of({"helo": lambda *_: trace.say(str(os.getpid()))})
    with serving(milter, tmp_path, "postfork") as service, service.connect() as wire:
        wire.play(SESSION + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        child = int(trace.next())
        service.signal(signal.SIGINT)
        os.kill(child, signal.SIGINT)
        assert wire.is_silent(0.05)
        wire.play(">> E\n<< c")
        wire.until_goodbye("M <a@x>␀", undo="A")
        assert service.wait() == 0


def test_children_that_are_ending_count_so_that_no_connection_is_closed_for_want_of_room(
    trace: Trace, tmp_path: Path
) -> None:
    waits, gate = os.pipe()

    class Slow(logging.Handler):
        """A log that takes its time at the end of a child."""

        main = 0

        def emit(self, record: logging.LogRecord) -> None: ...

        def flush(self) -> None:
            if os.getpid() != self.main:
                trace.say("ending")
                os.read(waits, 1)

    def before() -> None:
        os.close(gate)  # so that its end in the test is the last
        Slow.main = os.getpid()
        logging.getLogger().addHandler(Slow())

    milter = filter_of({"helo": returns(None)})
    dispatcher = postfork_dispatcher(overflow="wait")
    with serving(milter, tmp_path, dispatcher, max_children=1, before=before) as service:
        try:
            for _ in range(1 + REFUSALS):
                service.play(SESSION + QUIT)
                assert trace.next() == "ending"
            with service.connect() as wire:
                wire.play(">> O 6 1ff 77f")
                assert wire.is_silent(0.1)
                os.close(gate)
                gate = -1
                wire.play("<< O *\n" + QUIT)
        finally:
            os.close(waits)
            if gate >= 0:
                os.close(gate)


# --- what the parent sees to


def test_child_that_eats_memory_begins_no_new_message(tmp_path: Path) -> None:
    eaten: list[bytes] = []

    def envrcpt(*_: object) -> None:
        eaten.append(b"x" * 200_000_000)

    milter = filter_of({"envrcpt": envrcpt, "eom": returns(None)})
    limit = resident() + 100_000_000
    with (
        serving(milter, tmp_path, postfork_dispatcher(max_memory=limit)) as service,
        service.connect() as wire,
    ):
        wire.play(SESSION + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        service.await_log("bytes of memory")
        wire.play(">> E\n<< c")
        wire.until_goodbye("M <a@x>␀", undo="A")


def test_child_that_eats_far_too_much_is_killed(tmp_path: Path) -> None:
    def helo(*_: object) -> None:
        eaten = b"x" * 400_000_000
        threading.Event().wait(len(eaten))

    milter = filter_of({"helo": helo})
    with (
        serving(milter, tmp_path, postfork_dispatcher(max_memory=100_000_000)) as service,
        service.connect() as wire,
    ):
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< EOF")


@pytest.mark.parametrize(
    ("max_memory", "error"),
    [(0, ConfigError), (-1, ConfigError), (True, TypeError), (1.5, TypeError), ("1G", TypeError)],
)
def test_memory_limit_that_is_none(max_memory: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_memory"):
        postfork_dispatcher(max_memory=max_memory)


def test_callback_that_is_stuck_is_answered_for_and_its_process_ends(
    trace: Trace, tmp_path: Path
) -> None:
    def helo(*_: object) -> None:
        trace.say(str(os.getpid()))
        threading.Event().wait()

    milter = filter_of({"helo": helo}, limits=Limits(command_time=0.2, grace=0.2))
    with serving(milter, tmp_path, "postfork") as service:
        service.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< t\n" + QUIT)
        child = Path("/proc") / trace.next()
        until(lambda: not child.exists(), service.log)


def test_status_line_tells_of_children(tmp_path: Path) -> None:
    with (
        serving(filter_of({"helo": returns(None)}), tmp_path, "postfork") as service,
        service.connect() as wire,
    ):
        service.play(SESSION + QUIT)
        wire.play(SESSION)
        until(lambda: len(children_of(service.pid)) == 1, service.log)
        service.signal(signal.SIGUSR1)
        assert service.await_log("status") == [
            "WARNING status: 1 connections, 1 children, 2 requests, 0 probes, 0 denied"
        ]
