from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from pmilter import Limits, Milter
from pmilter.dispatchers.serving import Serving
from pmilter.dispatchers.signals import (
    SIGNALS,
    inherit_signals,
    release_signals,
    signals_held,
    signals_to,
)
from tests.support.playbook import filter_of, returns
from tests.support.processes import DEADLINE, in_child
from tests.support.service import DISPATCHERS, Service, serving
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"
QUIT = ">> Q\n<< EOF"

every = pytest.mark.parametrize("dispatcher", DISPATCHERS)


def plain() -> Milter:
    return filter_of({"helo": returns(None)}, limits=Limits(grace=5.0))


def told(service: Service, words: str) -> bool:
    return any(words in line for line in service.log())


@every
def test_quit_cuts_off_at_once(dispatcher: str, tmp_path: Path) -> None:
    with serving(plain(), tmp_path, dispatcher) as service, service.connect() as wire:
        wire.play(SESSION + ">> M <a@x>␀\n<< c")
        service.signal(signal.SIGQUIT)
        wire.sock.settimeout(1)
        assert wire.answers() == []
        assert service.wait(1.5) == 0


@every
def test_only_signals_make_a_second_signal(dispatcher: str, tmp_path: Path) -> None:
    milter = plain()
    milter.on("envfrom")(lambda *_: milter.stop())
    milter.on("eom")(returns(None))
    with serving(milter, tmp_path, dispatcher) as service, service.connect() as wire:
        wire.play(SESSION + ">> M <a@x>␀\n<< c")
        service.signal(signal.SIGTERM)
        assert wire.is_silent(0.1)
        wire.play(">> R <b@x>␀\n<< c\n>> E\n<< c")
        wire.until_goodbye("M <late@x>␀", undo="A")
        assert service.wait() == 0


@every
def test_usr1_logs_the_numbers(dispatcher: str, tmp_path: Path) -> None:
    with serving(plain(), tmp_path, dispatcher) as service:
        service.play(SESSION + QUIT)
        service.signal(signal.SIGUSR1)
        until(lambda: told(service, "1 requests"), service.log)
        (line,) = [line for line in service.log() if "requests" in line]
        assert line.startswith("WARNING status: ")


@every
def test_hup_is_told_of_and_ignored(dispatcher: str, tmp_path: Path) -> None:
    with serving(plain(), tmp_path, dispatcher) as service, service.connect() as wire:
        wire.play(SESSION)
        service.signal(signal.SIGHUP)
        until(lambda: told(service, "SIGHUP is ignored"), service.log)
        wire.play(">> H x␀\n<< c\n" + QUIT)
        service.play(SESSION + QUIT)


def test_signals_do_not_disturb_who_waits_for_a_connection(tmp_path: Path) -> None:
    with serving(plain(), tmp_path, "ithread") as service:
        for count in range(1, 6):
            service.signal(signal.SIGUSR1)
            until(lambda: sum("status" in line for line in service.log()) == count, service.log)  # noqa: B023  # called at once
        service.play(SESSION + QUIT)


def test_several_threads_may_do_what_signals_ask_for() -> None:
    serving = Serving(1.0)
    done: list[int] = []
    failures: list[BaseException] = []
    serving.errands.on_hup = lambda: done.append(1)

    def ask() -> None:
        try:
            for _ in range(2000):
                serving.errands.signalled(signal.SIGHUP)
        except BaseException as error:
            failures.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
        serving.close()
    assert failures == []
    assert len(done) == 8000


# --- who gets them, and when


def test_handlers_are_put_back() -> None:
    def work() -> None:
        def mine(*_: object) -> None: ...

        signal.signal(signal.SIGHUP, mine)
        before = [signal.getsignal(number) for number in SIGNALS]
        with signals_to(Serving(1.0)):
            assert all(signal.getsignal(number) not in before for number in SIGNALS)
        assert [signal.getsignal(number) for number in SIGNALS] == before

    in_child(work)


@pytest.mark.parametrize("handled", [True, False])
def test_child_has_the_signals_of_the_service_whether_its_parent_has_or_not(
    *, handled: bool
) -> None:
    serving = Serving(1.0)

    def child() -> None:
        inherit_signals(serving)
        os.kill(os.getpid(), signal.SIGTERM)
        assert serving.stopping

    def parent() -> None:
        with signals_to(serving) if handled else contextlib.nullcontext():
            in_child(child)
            assert not serving.stopping

    in_child(parent)
    serving.close()


def test_other_threads_leave_handlers_alone() -> None:
    def work() -> None:
        before = [signal.getsignal(number) for number in SIGNALS]
        seen: list[object] = []

        def run() -> None:
            with signals_to(Serving(1.0)):
                seen.extend(signal.getsignal(number) for number in SIGNALS)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert seen == before

    in_child(work)


def test_signal_waits_while_it_is_held() -> None:
    def work() -> None:
        got: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
        with signals_held() as before:
            os.kill(os.getpid(), signal.SIGTERM)
            assert got == []
            assert signal.SIGTERM not in before
        assert got == [signal.SIGTERM]

    in_child(work)


def test_held_signal_comes_when_it_is_released() -> None:
    def work() -> None:
        got: list[int] = []
        signal.signal(signal.SIGQUIT, lambda number, _: got.append(number))
        with signals_held() as before:
            os.kill(os.getpid(), signal.SIGQUIT)
            release_signals(before)
            assert got == [signal.SIGQUIT]

    in_child(work)


@pytest.mark.parametrize("dispatcher", ["ithread", "postfork", "prefork", "sequential"])
def test_process_that_a_callback_forks_can_be_ended_without_harm(
    dispatcher: str, tmp_path: Path
) -> None:
    def helo(*_: object) -> None:
        born, bearing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(bearing, b"!")
            threading.Event().wait(DEADLINE)
            os._exit(0)
        os.read(born, 1)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM

    with serving(filter_of({"helo": helo}), tmp_path, dispatcher) as service:
        with service.connect() as wire:
            wire.play(SESSION + SESSION.split("c\n", 1)[1] + ">> M <a@x>␀\n<< c\n" + QUIT)
        service.play(SESSION + QUIT)
