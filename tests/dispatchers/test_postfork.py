from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from pmilter import Context, Limits
from tests.support.playbook import filter_of, returns
from tests.support.service import serving
from tests.support.wire import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
