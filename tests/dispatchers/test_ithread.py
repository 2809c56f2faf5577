from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from pmilter import Context, Limits, Milter, ithread_dispatcher
from tests.support.playbook import filter_of, returns
from tests.support.processes import DEADLINE
from tests.support.service import serving
from tests.support.waiting import until
from tests.support.wire import Trace, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.serving import Serving

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"
QUIT = ">> Q\n<< EOF"


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


def start(milter: Milter) -> tuple[str, threading.Thread]:
    """Serve a filter on a thread of the test's; return its address and the thread."""
    milter.set_dispatcher(ithread_dispatcher())
    milter.setconn("inet:0@127.0.0.1")
    address = str(milter.address)
    thread = threading.Thread(target=milter.main)
    thread.start()
    return address, thread


def test_callbacks_of_several_connections_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3)

    def helo(*_: object) -> None:
        meeting.wait(DEADLINE)

    milter = filter_of({"helo": helo})
    address, thread = start(milter)
    wires = [Wire(address) for _ in range(3)]
    for wire in wires:
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀")
    for wire in wires:
        wire.play(f"<< c\n{QUIT}")
        wire.close()
    milter.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_all_callbacks_of_a_connection_run_on_one_thread_of_their_own() -> None:
    threads: list[int] = []

    def note(*_: object) -> None:
        threads.append(threading.get_ident())
        if len(threads) == 4:
            ended.set()

    stages = ("connect", "helo", "envfrom", "close")
    ended = threading.Event()
    milter = filter_of(dict.fromkeys(stages, note))
    address, thread = start(milter)
    with Wire(address) as wire:
        wire.play(SESSION + ">> M <a@x>␀\n<< c\n" + QUIT)
    assert ended.wait(DEADLINE)
    milter.stop()
    thread.join(DEADLINE)
    assert len(threads) == 4
    assert len(set(threads)) == 1
    assert threads[0] not in {thread.ident, threading.get_ident()}


def test_threads_end_with_their_connections_and_with_main() -> None:
    before = set(threading.enumerate())
    milter = filter_of({"helo": returns(None)})
    address, thread = start(milter)
    for _ in range(20):
        with Wire(address) as wire:
            wire.play(SESSION + QUIT)
    milter.stop()
    thread.join(DEADLINE)
    for left in set(threading.enumerate()) - before:
        left.join(2.0)
    assert [left.name for left in set(threading.enumerate()) - before] == []


def test_callback_that_outlives_main_disturbs_nobody() -> None:
    """Its connection is cut off when the grace period is over; when it returns, main's descriptors are other people's."""
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def helo(*_: object) -> None:
        reached.set()
        assert go_on.wait(DEADLINE)

    callbacks = {"helo": helo, "close": lambda *_: ended.set()}
    milter = filter_of(callbacks, limits=Limits(grace=0.05))
    address, thread = start(milter)
    with Wire(address) as wire:
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀")
        assert reached.wait(DEADLINE)
        milter.stop()
        assert wire.answers() == []
        thread.join(DEADLINE)
        assert not thread.is_alive()
        pipes = [os.pipe() for _ in range(8)]
        try:
            go_on.set()
            assert ended.wait(DEADLINE)
            for left in threading.enumerate():
                if left.name == "pmilter":
                    left.join(DEADLINE)
            for reader, _ in pipes:
                os.set_blocking(reader, False)
                with pytest.raises(BlockingIOError):
                    os.read(reader, 1)
        finally:
            for pair in pipes:
                for fd in pair:
                    os.close(fd)


def test_where_no_thread_can_be_started_the_connection_is_closed_and_the_service_goes_on(
    trace: Trace, tmp_path: Path
) -> None:
    failing = iter([True, False, False])

    def before() -> None:
        original = threading.Thread.start

        def start(self: threading.Thread) -> None:
            if self.name == "pmilter" and next(failing):
                raise RuntimeError("can't start new thread")
            original(self)

        threading.Thread.start = start  # type: ignore[method-assign]  # the system's limit, in a child of its own

    milter = filter_of({"helo": returns(None)})
    with serving(milter, tmp_path, "ithread", before=before) as service:
        with service.connect() as wire:
            assert wire.answers() == []
        service.play(SESSION + QUIT)
    assert [line for line in service.log() if "cannot start a thread" in line]


def test_full_service_heeds_signals_all_the_same(tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)})
    dispatcher = ithread_dispatcher(overflow="wait")
    with (
        serving(milter, tmp_path, dispatcher, max_children=1) as service,
        service.connect() as wire,
    ):
        wire.play(SESSION)
        service.signal(signal.SIGUSR1)
        assert service.await_log("status") == [
            "WARNING status: 1 connections, 0 children, 1 requests, 0 probes, 0 denied"
        ]


def test_full_service_that_is_to_drain_stops_to_listen_at_once() -> None:
    services: list[Serving] = []

    def dispatcher(m: Milter, listener: Listener, handler: Handler) -> None:
        services.append(handler.serving)
        ithread_dispatcher(overflow="wait")(m, listener, handler)

    def refuses() -> bool:
        try:
            Wire(address).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it was in the backlog just then
            return False
        return False

    milter = filter_of({"helo": returns(None)})
    milter.set_dispatcher(dispatcher)
    milter.setconn("inet:0@127.0.0.1")
    address = str(milter.address)
    thread = threading.Thread(target=milter.main, args=(1,))
    thread.start()
    with Wire(address) as wire:
        wire.play(SESSION)
        services[0].drain_here()
        until(refuses)
        wire.play(QUIT)
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_idle_connection_costs_little(trace: Trace, tmp_path: Path) -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:  # noqa: PTH123  # a file of the system's, read in the service
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    milter = filter_of({"helo": lambda ctx, _name: trace.say(str(resident()))})
    with serving(milter, tmp_path, "ithread") as service:
        wires = []
        for _ in range(60):
            wires.append(service.connect())
            wires[-1].play(SESSION)
        sizes = [int(line) for line in trace.take(60)]
        for wire in wires:
            wire.play(QUIT)
            wire.close()
    assert (sizes[59] - sizes[9]) / 50 < 100_000


def test_context_says_where_it_is(trace: Trace, tmp_path: Path) -> None:
    def helo(ctx: Context, _name: str) -> None:
        trace.say(threading.current_thread().name)

    with serving(filter_of({"helo": helo}), tmp_path, "ithread") as service:
        service.play(SESSION + QUIT)
        assert trace.next().startswith("pmilter")
