from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import ConfigError, Context, Limits, Milter, Status
from pmilter.dispatchers import (
    asyncio_dispatcher,
    ithread_dispatcher,
    prefork_dispatcher,
    selector_dispatcher,
    sequential_dispatcher,
)
from tests.support.playbook import filter_of, returns
from tests.support.processes import in_child, resident
from tests.support.service import serving
from tests.support.waiting import children_of, until
from tests.support.wire import Trace, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.service import Service

named = partial(pytest.mark.parametrize, "worker", ids=lambda worker: worker.__name__)
many_at_a_time = named([ithread_dispatcher, asyncio_dispatcher, selector_dispatcher])

OPEN = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n"
HELO = ">> H x␀\n<< c\n"
QUIT = ">> Q\n<< EOF"
SESSION = OPEN + HELO
MESSAGE = """
>> M <a@x>␀
<< c
>> R <b@x>␀
<< c
>> E
<< c
"""


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


def telling(trace: Trace, **options: Any) -> Milter:
    """Return a filter that says in which process it greets."""
    return filter_of({"helo": lambda *_: trace.say(str(os.getpid()))}, **options)


def pids(service: Service) -> set[int]:
    """Return the children of a service."""
    return children_of(service.pid)


def logs(service: Service, words: str) -> bool:
    """Return whether a service has logged some words."""
    return any(words in line for line in service.log())


def refuses(service: Service) -> bool:
    """Return whether nobody listens any more."""
    try:
        service.connect().close()
    except ConnectionRefusedError:
        return True
    return False


# --- parameters


def test_ten_children_and_a_hundred_requests_where_nothing_else_is_said(
    trace: Trace, tmp_path: Path
) -> None:
    dispatcher = prefork_dispatcher(
        child_exit=lambda _milter, requests, most: trace.say(f"{requests} {most}")
    )
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        until(lambda: len(pids(service)) == 10, service.log)
        service.play(SESSION + QUIT)
    said = Counter(trace.rest())
    assert said == {"0 100": 9, "1 100": 1}


def test_number_of_children_is_as_given(tmp_path: Path) -> None:
    dispatcher = prefork_dispatcher(max_children=3)
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        until(lambda: len(pids(service)) == 3, service.log)


def test_number_given_to_main_wins(tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)})
    with serving(milter, tmp_path, prefork_dispatcher(max_children=5), max_children=2) as service:
        until(lambda: len(pids(service)) == 2, service.log)


def test_children_are_replaced_after_their_requests(trace: Trace, tmp_path: Path) -> None:
    dispatcher = prefork_dispatcher(
        max_children=1,
        max_requests_per_child=2,
        child_exit=lambda _milter, requests, most: trace.say(f"exit {requests} {most}"),
    )
    with serving(telling(trace), tmp_path, dispatcher) as service:
        for _ in range(4):
            service.play(SESSION + QUIT)
        said = trace.take(6)
    first, same, end, second, _, _ = said
    assert first == same
    assert end == said[5] == "exit 2 2"
    assert second == said[4] != first


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_children": -1}, ConfigError),
        ({"max_children": True}, TypeError),
        ({"max_requests_per_child": 1.5}, TypeError),
        ({"child_init": "init"}, TypeError),
        ({"child_init": lambda: None}, ConfigError),
        ({"child_exit": lambda: None}, ConfigError),
        ({"milter_exit": lambda _one, _two: None}, ConfigError),
        ({"max_memory": 0}, ConfigError),
        ({"max_memory": "1G"}, TypeError),
    ],
)
def test_parameters_that_cannot_be(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        prefork_dispatcher(**options)
    assert next(iter(options)) in str(caught.value)


def test_parameters_have_names_only() -> None:
    with pytest.raises(TypeError):
        prefork_dispatcher(3)  # type: ignore[call-arg, arg-type]  # what is tested


# --- hooks


def test_hooks_run_where_they_belong(trace: Trace, tmp_path: Path) -> None:
    def hook(name: str) -> Callable[..., None]:
        return lambda milter, *_: trace.say(f"{name} {milter.name} {os.getpid()} {os.getppid()}")

    dispatcher = prefork_dispatcher(
        max_children=1,
        child_init=hook("init"),
        child_exit=hook("exit"),
        milter_exit=hook("over"),
    )
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        service.play(SESSION + QUIT)
    init, end, over = (line.split() for line in trace.rest())
    assert init == ["init", "test", init[2], str(service.pid)]
    assert end == ["exit", *init[1:]]
    assert over[:3] == ["over", "test", str(service.pid)]


def test_hook_may_take_the_milter_alone(trace: Trace, tmp_path: Path) -> None:
    dispatcher = prefork_dispatcher(
        max_children=1, child_exit=lambda milter: trace.say(milter.name), milter_exit=print
    )
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        service.play(SESSION + QUIT)
    assert trace.rest() == ["test"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_child_that_is_ended_by_a_signal_runs_its_exit_hook(
    number: int, trace: Trace, tmp_path: Path
) -> None:
    dispatcher = prefork_dispatcher(
        max_children=1, child_exit=lambda _, requests, __: trace.say(f"exit {requests}")
    )
    with serving(telling(trace), tmp_path, dispatcher) as service:
        service.play(SESSION + QUIT)
        os.kill(int(trace.next()), number)
        assert trace.next() == "exit 1"
        service.play(SESSION + QUIT)


@pytest.mark.parametrize("hook", ["child_exit", "milter_exit"])
def test_hook_that_fails_at_the_end_prevents_nothing(hook: str, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise SystemExit(3)

    dispatcher: Any = prefork_dispatcher(max_children=1, **{hook: fail})  # type: ignore[arg-type]  # one of them
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        service.play(SESSION + QUIT)
    assert logs(service, f"{hook} failed")


def test_child_whose_init_fails_is_replaced_ever_more_slowly(trace: Trace, tmp_path: Path) -> None:
    def fail(_milter: Milter) -> None:
        trace.say("init")
        raise RuntimeError("no database")

    dispatcher = prefork_dispatcher(max_children=4, child_init=fail)
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        began = time.monotonic()
        # Four at once, then one after 0.1, 0.2, 0.4 and 0.8 seconds.
        trace.take(8)
        assert time.monotonic() - began > 1.4
    assert len(trace.rest()) <= 1
    assert logs(service, "no database")


@pytest.mark.parametrize("end", [lambda: os._exit(0), lambda: os.kill(os.getpid(), 9), sys.exit])
def test_init_that_ends_the_child_is_a_failure_too(
    end: Callable[[], object], trace: Trace, tmp_path: Path
) -> None:
    def init(_milter: Milter) -> None:
        trace.say("init")
        end()

    dispatcher = prefork_dispatcher(max_children=1, child_init=init)
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        began = time.monotonic()
        trace.take(4)
        assert time.monotonic() - began > 0.6
        until(lambda: logs(service, "in a row"), service.log)


# --- serving


def test_connections_that_no_child_is_free_for_wait(trace: Trace, tmp_path: Path) -> None:
    dispatcher = prefork_dispatcher(max_children=1)
    with (
        serving(telling(trace), tmp_path, dispatcher) as service,
        service.connect() as one,
        service.connect() as two,
    ):
        one.play(SESSION)
        two.play(">> O 6 1ff 77f")
        assert two.is_silent(0.1)
        one.play(QUIT)
        two.play("<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n" + QUIT)


@named([sequential_dispatcher, ithread_dispatcher, asyncio_dispatcher, selector_dispatcher])
def test_any_dispatcher_may_work_in_the_children(
    worker: Callable[[], Any], trace: Trace, tmp_path: Path
) -> None:
    dispatcher = prefork_dispatcher(max_children=2, worker=worker())
    with serving(telling(trace), tmp_path, dispatcher) as service:
        for _ in range(5):
            service.play(SESSION + MESSAGE + QUIT)
        assert {int(pid) for pid in trace.take(5)} <= pids(service)


def test_max_children_is_no_limit_on_the_connections_of_a_worker(
    trace: Trace, tmp_path: Path
) -> None:
    dispatcher = prefork_dispatcher(worker=ithread_dispatcher())
    with serving(telling(trace), tmp_path, dispatcher, max_children=1) as service:
        wires = [service.connect() for _ in range(5)]
        for wire in wires:
            wire.play(SESSION)
        assert len(set(trace.take(5))) == 1
        for wire in wires:
            wire.play(QUIT)
            wire.close()


@many_at_a_time
def test_worker_that_has_had_its_share_finishes_what_it_has(
    worker: Callable[[], Any], trace: Trace, tmp_path: Path
) -> None:
    dispatcher = prefork_dispatcher(max_children=1, max_requests_per_child=2, worker=worker())
    milter = telling(trace, limits=Limits(grace=0.1))
    with serving(milter, tmp_path, dispatcher) as service:
        old = [service.connect(), service.connect()]
        for wire in old:
            wire.play(SESSION)
        service.play(SESSION + QUIT)  # its successor is at work
        first, same, other = trace.take(3)
        assert first == same != other
        assert old[0].is_silent(0.3)  # longer than the grace period of a stop
        for wire in old:
            wire.play(MESSAGE + MESSAGE + QUIT)
            wire.close()
        until(lambda: int(first) not in pids(service), service.log)


@many_at_a_time
def test_stop_is_heeded_while_a_worker_finishes_what_it_has(
    worker: Callable[[], Any], trace: Trace, tmp_path: Path
) -> None:
    dispatcher = prefork_dispatcher(max_children=1, max_requests_per_child=2, worker=worker())
    milter = telling(trace, limits=Limits(grace=0.5))
    with (
        serving(milter, tmp_path, dispatcher) as service,
        service.connect() as idle,
        service.connect() as busy,
    ):
        for wire in (idle, busy):
            wire.play(SESSION)
        assert idle.is_silent(0.2)
        busy.play(">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        began = time.monotonic()
        service.signal()
        idle.until_goodbye("H x␀")
        busy.play(">> E\n<< c\n")
        assert busy.is_silent(0.1)
        until_cut(busy)
        assert time.monotonic() - began > 0.4  # the grace period
        assert service.wait(2) == 0


@named([sequential_dispatcher, ithread_dispatcher, asyncio_dispatcher, selector_dispatcher])
def test_connection_does_not_wait_for_a_child_that_stands_still(
    worker: Callable[[], Any], trace: Trace, tmp_path: Path
) -> None:
    dispatcher = prefork_dispatcher(max_children=2, worker=worker())
    with serving(telling(trace), tmp_path, dispatcher) as service:
        until(lambda: len(pids(service)) == 2, service.log)
        for still in pids(service):
            (other,) = pids(service) - {still}
            os.kill(still, signal.SIGSTOP)
            for _ in range(3):
                service.play(SESSION + QUIT)
            os.kill(still, signal.SIGCONT)
            assert {int(pid) for pid in trace.take(3)} == {other}


def test_coroutine_needs_a_worker_that_can_run_it(tmp_path: Path) -> None:
    async def helo(_ctx: Context, _name: str) -> None: ...

    milter = filter_of({"helo": helo})
    milter.setconn(f"unix:{tmp_path}/s")
    milter.set_dispatcher(prefork_dispatcher())
    with pytest.raises(ConfigError, match="coroutine"):
        milter.main()


# --- children that come to harm


def until_cut(wire: Wire) -> float:
    """Return the seconds until the filter closes."""
    began = time.monotonic()
    wire.answers()
    return time.monotonic() - began


def test_callback_that_is_stuck_costs_its_child_but_no_other_connection(
    trace: Trace, tmp_path: Path
) -> None:
    def helo(_ctx: Context, name: str) -> None:
        trace.say(str(os.getpid()))
        if name == "stuck":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGQUIT])
            threading.Event().wait()

    milter = filter_of({"helo": helo}, limits=Limits(command_time=0.3))
    with (
        serving(milter, tmp_path, prefork_dispatcher(max_children=2)) as service,
        service.connect() as other,
        service.connect() as wire,
    ):
        other.play(SESSION)
        wire.play(OPEN + ">> H stuck␀")
        _, stuck = trace.take(2)
        assert until_cut(wire) < 3.0
        other.play(MESSAGE + HELO)
        until(lambda: int(stuck) not in pids(service) and len(pids(service)) == 2, service.log)
        assert logs(service, f"child {stuck} is stuck")
        other.play(QUIT)


def test_one_stuck_callback_of_a_worker_on_threads_does_not_cost_the_others(
    tmp_path: Path,
) -> None:
    def helo(_ctx: Context, name: str) -> None:
        if name == "stuck":
            threading.Event().wait()

    dispatcher = prefork_dispatcher(max_children=1, worker=ithread_dispatcher())
    milter = filter_of({"helo": helo}, limits=Limits(command_time=0.2, grace=0.2))
    with (
        serving(milter, tmp_path, dispatcher) as service,
        service.connect() as other,
        service.connect() as wire,
    ):
        other.play(SESSION)
        wire.play(OPEN + ">> H stuck␀\n<< t")
        assert other.is_silent(1.5)
        other.play(MESSAGE + QUIT)


def test_child_that_eats_memory_is_replaced(trace: Trace, tmp_path: Path) -> None:
    eaten: list[bytes] = []

    def helo(_ctx: Context, name: str) -> None:
        trace.say(str(os.getpid()))
        if name == "eat":
            eaten.append(b"x" * 200_000_000)

    milter = filter_of({"helo": helo})
    dispatcher = prefork_dispatcher(max_children=1, max_memory=resident() + 100_000_000)
    with serving(milter, tmp_path, dispatcher) as service, service.connect() as wire:
        wire.play(OPEN + HELO + ">> H eat␀\n<< c\n")
        hungry = int(trace.take(2)[0])
        wire.until_goodbye("H x␀")
        until(lambda: hungry not in pids(service), service.log)
        assert logs(service, "bytes of memory")
        service.play(SESSION + QUIT)


def clients(service: Service, count: int, until_set: threading.Event) -> list[Counter[str]]:
    """Have some clients send messages until told to end; return what became of each one's connections."""

    def run(outcomes: Counter[str]) -> None:
        while not until_set.is_set():
            outcomes[one_message(service)] += 1

    found = [Counter[str]() for _ in range(count)]
    threads = [threading.Thread(target=partial(run, outcomes)) for outcomes in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def one_message(service: Service) -> str:
    """Send one message on a connection of its own; return whether that was served, cut off, or left without an answer."""
    with service.connect() as wire:
        for command, answer in (
            (b"\0\0\0\rO\0\0\0\6\0\0\1\xff\0\0\7\x7f", "O"),
            (b"\0\0\0\4Cx\0U", "c"),
            (b"\0\0\0\3Hx\0", "c"),
            (b"\0\0\0\5M<a>\0", "c"),
            (b"\0\0\0\5R<b>\0", "c"),
            (b"\0\0\0\1E", "a"),
        ):
            try:
                wire.send(command)
                got = wire.answer()
            except (BrokenPipeError, ConnectionResetError):
                return "cut"
            except TimeoutError:
                return "left without an answer"
            if got == "EOF":
                return "cut"
            if got[0] != answer:
                return f"answered {got}"
        wire.send(b"\0\0\0\1Q")
        return "served" if wire.answer() == "EOF" else "not closed"


@named([sequential_dispatcher, asyncio_dispatcher, selector_dispatcher])
def test_children_killed_under_load_cost_their_own_connections_only(
    worker: Callable[[], Any], trace: Trace, tmp_path: Path
) -> None:
    milter = filter_of({"eom": returns(Status.ACCEPT)})
    dispatcher = prefork_dispatcher(
        worker=worker(),
        max_children=4,
        max_requests_per_child=1_000_000,
        child_init=lambda _: trace.say("born"),
    )
    with serving(milter, tmp_path, dispatcher) as service:
        until(lambda: len(pids(service)) == 4, service.log)
        over = threading.Event()
        killed = 0

        def kill() -> None:
            nonlocal killed
            while killed < 40:
                children = sorted(pids(service))
                if len(children) == 4:
                    os.kill(children[killed % 4], signal.SIGKILL)
                    killed += 1
                over.wait(0.05)
            over.set()

        killer = threading.Thread(target=kill)
        killer.start()
        outcomes = sum(clients(service, 4, over), Counter())
        killer.join()
        until(lambda: len(pids(service)) == 4, service.log)
        service.play(SESSION + QUIT)
    born = len(trace.rest())
    assert set(outcomes) <= {"served", "cut"}
    at_a_time = 1 if worker is sequential_dispatcher else 4
    assert 0 < outcomes["cut"] <= killed * at_a_time
    assert outcomes["served"] > killed
    assert born <= 4 + killed


# --- the end


def test_idle_pool_stops_within_a_second_and_leaves_nothing_behind(tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)})
    with serving(milter, tmp_path, prefork_dispatcher(), desc=f"unix:{tmp_path}/socket") as service:
        until(lambda: len(pids(service)) == 10, service.log)
        children = pids(service)
        service.signal()
        assert service.wait(1) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert not (tmp_path / "socket").exists()


def test_open_message_is_finished_while_the_pool_stops(tmp_path: Path) -> None:
    with (
        serving(
            filter_of({"helo": returns(None)}), tmp_path, prefork_dispatcher(max_children=2)
        ) as service,
        service.connect() as wire,
    ):
        wire.play(SESSION + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        service.signal()
        until(lambda: len(pids(service)) == 1, service.log)
        wire.play(">> E\n<< c")
        wire.until_goodbye("M <a@x>␀", undo="A")
        assert service.wait(1) == 0


@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGTERM]])
def test_pool_that_is_in_a_hurry_cuts_off_at_once(signals: list[int], tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)})
    with (
        serving(milter, tmp_path, prefork_dispatcher(max_children=2)) as service,
        service.connect() as wire,
    ):
        wire.play(SESSION + ">> M <a@x>␀\n<< c")
        *first, last = signals
        for number in first:
            service.signal(number)
            assert wire.is_silent(0.05)
        service.signal(last)
        assert until_cut(wire) < 0.5
        assert service.wait(1) == 0


def test_stuck_child_does_not_hold_up_a_stop_in_a_hurry(tmp_path: Path) -> None:
    def helo(_ctx: Context, _name: str) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGQUIT])
        threading.Event().wait()

    with (
        serving(filter_of({"helo": helo}), tmp_path, prefork_dispatcher(max_children=1)) as service,
        service.connect() as wire,
    ):
        wire.play(OPEN + ">> H x␀")
        assert wire.is_silent(0.2)
        service.signal(signal.SIGQUIT)
        assert service.wait(2) == 0
        assert wire.answers() == []


def test_stop_that_a_service_manager_sends_to_all_processes_is_graceful(
    trace: Trace, tmp_path: Path
) -> None:
    with (
        serving(telling(trace), tmp_path, prefork_dispatcher(max_children=1)) as service,
        service.connect() as wire,
    ):
        wire.play(SESSION + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        child = int(trace.next())
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(child, number)
        service.signal()
        os.kill(child, signal.SIGTERM)
        assert wire.is_silent(0.1)
        wire.play(">> E\n<< c")
        wire.until_goodbye("M <a@x>␀", undo="A")
        assert service.wait(1) == 0


def test_stop_from_a_callback_ends_the_whole_service(tmp_path: Path) -> None:
    milter = filter_of({"helo": lambda *_: milter.stop()})
    with serving(milter, tmp_path, prefork_dispatcher(max_children=3)) as service:
        with service.connect() as wire:
            wire.play(SESSION)
            wire.until_goodbye("H x␀")
        assert service.wait(1) == 0


def test_children_end_when_their_parent_is_killed(trace: Trace, tmp_path: Path) -> None:
    dispatcher = prefork_dispatcher(max_children=3, child_exit=lambda _: trace.say("exit"))
    with serving(telling(trace), tmp_path, dispatcher) as service, service.connect() as wire:
        until(lambda: len(pids(service)) == 3, service.log)
        wire.play(SESSION + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        trace.next()
        service.signal(signal.SIGKILL)
        service.wait()
        assert trace.take(2) == ["exit", "exit"]
        until(lambda: refuses(service))  # the busy one does not accept either
        wire.play(">> E\n<< c")
        wire.until_goodbye("M <a@x>␀", undo="A")
        assert trace.next() == "exit"


def test_status_line_tells_of_all_children(trace: Trace, tmp_path: Path) -> None:
    with (
        serving(telling(trace), tmp_path, prefork_dispatcher(max_children=3)) as service,
        service.connect() as wire,
    ):
        until(lambda: len(pids(service)) == 3, service.log)
        service.play(SESSION + QUIT)
        wire.play(SESSION)
        service.signal(signal.SIGUSR1)
        until(lambda: logs(service, "status"), service.log)
        assert logs(service, "1 connections, 3 children, 2 requests")
        wire.play(QUIT)


def test_pool_in_a_program_that_has_other_things_to_do(trace: Trace, tmp_path: Path) -> None:
    """Its main runs in a thread, and the main thread stops it."""

    def work() -> None:
        milter = telling(trace, limits=Limits(grace=0.5))
        milter.setconn(f"unix:{tmp_path}/socket")
        milter.set_dispatcher(prefork_dispatcher(max_children=2))
        thread = threading.Thread(target=milter.main)
        thread.start()
        with Wire(f"unix:{tmp_path}/socket") as wire:
            wire.play(SESSION + MESSAGE + QUIT)
        child = int(trace.next())
        os.kill(child, signal.SIGTERM)  # a child handles its signals all the same
        until(lambda: not Path(f"/proc/{child}").exists())
        milter.stop()
        thread.join(5)
        assert not thread.is_alive()

    in_child(work)


def test_pool_grows_again_when_the_system_has_room_again(tmp_path: Path) -> None:
    fork = os.fork
    failures = iter([True] * 3)

    def failing_fork() -> int:
        if next(failures, False):
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork()

    def before() -> None:
        os.fork = failing_fork

    milter = filter_of({"helo": returns(None)})
    with serving(milter, tmp_path, prefork_dispatcher(max_children=3), before=before) as service:
        until(lambda: len(pids(service)) == 3, service.log)
        assert logs(service, "cannot fork")
        service.play(SESSION + QUIT)
