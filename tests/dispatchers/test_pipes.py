from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pmilter.dispatchers.pipes import Pipe, await_readable, await_writable, line
from tests.support.processes import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def readable(fd: int) -> bool:
    return bool(await_readable((fd,), 0))


def test_wait_for_a_socket_that_is_full_ends_when_the_other_end_reads() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await_writable(theirs.fileno())  # at once
        theirs.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += theirs.send(b"x" * 65536)
        waited = threading.Event()

        def wait() -> None:
            await_writable(theirs.fileno())
            waited.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not waited.wait(0.05)
        ours.recv(sent, socket.MSG_WAITALL)
        assert waited.wait(5)
        thread.join()


# --- pipes


def test_pipe_is_readable_once_written_until_drained(pipe: Pipe) -> None:
    assert not readable(pipe.reader)
    pipe.write()
    pipe.write()
    assert readable(pipe.reader)
    pipe.drain()
    assert not readable(pipe.reader)


def test_pipe_that_nobody_reads_can_be_written_for_ever(pipe: Pipe) -> None:
    for _ in range(100_000):
        pipe.write()
    assert readable(pipe.reader)


def test_empty_pipe_can_be_drained(pipe: Pipe) -> None:
    pipe.drain()
    assert not readable(pipe.reader)


def test_what_was_written_before_anybody_polls_is_not_lost(pipe: Pipe) -> None:
    pipe.write()
    assert readable(pipe.reader)


def test_what_was_drained_before_anybody_polls_is_gone(pipe: Pipe) -> None:
    pipe.write()
    pipe.drain()
    assert not readable(pipe.reader)


def test_pipe_that_is_open_before_a_fork_is_shared() -> None:
    pipe = Pipe()
    pipe.open()
    in_child(pipe.write)
    assert readable(pipe.reader)
    pipe.close()


def test_threads_that_begin_to_poll_at_once_poll_the_same() -> None:
    for _ in range(50):
        pipe = Pipe()
        readers: list[int] = []
        threads = [
            threading.Thread(target=lambda: readers.append(pipe.reader))  # noqa: B023  # joined below
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(readers)) == 1
        pipe.close()


def test_write_wakes_who_waits(pipe: Pipe) -> None:
    thread = threading.Thread(target=pipe.write)
    thread.start()
    assert await_readable((pipe.reader,), 10)
    thread.join()


def test_wait_ends_after_its_time(pipe: Pipe) -> None:
    began = time.monotonic()
    assert not await_readable((pipe.reader,), 0.05)
    assert time.monotonic() - began >= 0.05


def test_write_after_the_end_does_nothing() -> None:
    pipe = Pipe()
    pipe.close()
    pipe.write()
    pipe.drain()


def test_descriptors_that_are_ready_are_told(pipe: Pipe) -> None:
    other = Pipe()
    other.write()
    assert await_readable({pipe.reader, other.reader}, 5) == {other.reader}
    other.close()


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_to_wait(seconds: float, pipe: Pipe) -> None:
    assert await_readable((pipe.reader,), seconds) == set()


def test_endless_wait_is_within_what_the_system_can(pipe: Pipe) -> None:
    pipe.write()
    assert await_readable((pipe.reader,), float("inf")) == {pipe.reader}


def test_timeout_that_the_program_has_made_the_default_counts_for_nothing() -> None:
    socket.setdefaulttimeout(30.0)
    try:
        pipe = Pipe()
        parent, worker = line()
    finally:
        socket.setdefaulttimeout(None)
    began = time.monotonic()
    pipe.drain()
    assert not worker.asks_to_drain()
    parent.read()
    assert time.monotonic() - began < 5
    for end in (pipe, parent, worker):
        end.close()


# --- lines


def test_worker_sees_that_its_parent_is_gone() -> None:
    parent, worker = line()
    assert not readable(worker.reader)
    parent.close()
    assert readable(worker.reader)
    assert not worker.asks_to_drain()
    worker.close()


def test_parent_sees_that_its_worker_is_gone() -> None:
    parent, worker = line()
    assert not readable(parent.fileno())
    worker.close()
    assert readable(parent.fileno())
    parent.read()
    assert parent.ended
    parent.close()


def test_order_to_drain_is_seen_as_often_as_it_is_looked_for() -> None:
    parent, worker = line()
    parent.order_drain()
    for _ in range(2):
        assert readable(worker.reader)
        assert worker.asks_to_drain()
    worker.close()
    parent.close()


def test_worker_can_wake_itself_for_good_and_its_parent_does_not_notice() -> None:
    parent, worker = line()
    worker.write()
    worker.write()
    assert readable(worker.reader)
    assert not worker.asks_to_drain()
    assert not readable(parent.fileno())
    parent.order_drain()
    worker.close()
    parent.close()


def test_worker_tells_its_parent_something() -> None:
    parent, worker = line()
    worker.wake_parent()
    assert readable(parent.fileno())
    parent.read()
    assert not parent.ended
    assert parent.text == ""
    worker.wake_parent("no module named \u00fc")
    worker.close()
    parent.read()
    assert parent.text == "no module named \u00fc"
    parent.close()


def test_worker_that_has_woken_itself_can_still_tell() -> None:
    parent, worker = line()
    worker.write()
    worker.wake_parent("text")
    parent.read()
    assert parent.text == "text"
    worker.close()
    parent.close()


def test_parent_keeps_a_limited_amount_of_what_it_is_told() -> None:
    parent, worker = line()
    for _ in range(100):
        worker.wake_parent("x" * 100_000)
        parent.read()
    assert len(parent.text) < 20_000
    worker.close()
    parent.close()


def test_parent_that_reads_too_often_is_told_nothing() -> None:
    parent, worker = line()
    parent.read()
    assert not parent.ended
    worker.close()
    parent.close()


def test_ends_that_are_left_alone_do_not_raise() -> None:
    parent, worker = line()
    parent.close()
    worker.wake_parent("nobody hears")
    worker.write()
    worker.close()
    parent, worker = line()
    worker.close()
    parent.order_drain()
    parent.close()
