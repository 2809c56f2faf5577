from __future__ import annotations

import queue
import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pmilter.dispatchers.crew import Crew
from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator


class Workplace:
    """A crew whose jobs tell which thread does them, and wait for leave to end."""

    def __init__(self, most: int) -> None:
        self.crew = Crew(most)
        self.go = threading.Semaphore(0)
        self._begun: queue.SimpleQueue[tuple[str, threading.Thread]] = queue.SimpleQueue()
        self.threads: set[threading.Thread] = set()

    def submit(self, name: str) -> None:
        def job() -> None:
            self._begun.put((name, threading.current_thread()))
            self.go.acquire(timeout=DEADLINE)

        self.crew.submit(job)

    def next(self) -> str:
        """Return the job that has begun next."""
        name, thread = self._begun.get(timeout=DEADLINE)
        self.threads.add(thread)
        return name


@pytest.fixture
def pair() -> Iterator[Workplace]:
    """Return a crew of two."""
    workplace = Workplace(2)
    yield workplace
    workplace.go.release(100)
    workplace.crew.close()
    for thread in workplace.threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_jobs_are_done_at_the_same_time_up_to_the_number_of_threads(pair: Workplace) -> None:
    for name in ("one", "two", "three"):
        pair.submit(name)
    assert {pair.next(), pair.next()} == {"one", "two"}
    assert pair._begun.empty()  # both are at work
    pair.go.release()
    assert pair.next() == "three"
    assert len(pair.threads) == 2


def test_jobs_that_wait_are_begun_in_their_order() -> None:
    crew = Crew(1)
    go, done = threading.Event(), threading.Event()
    seen: list[int] = []
    crew.submit(lambda: go.wait(DEADLINE))
    for number in range(5):
        crew.submit(partial(seen.append, number))
    crew.submit(done.set)
    go.set()
    assert done.wait(DEADLINE)
    crew.close()
    assert seen == [0, 1, 2, 3, 4]


def test_job_that_waits_can_be_withdrawn_and_is_never_begun() -> None:
    crew = Crew(1)
    begun, go, done = threading.Event(), threading.Event(), threading.Event()
    seen: list[str] = []

    def first() -> None:
        begun.set()
        go.wait(DEADLINE)

    def second() -> None:
        seen.append("second")

    crew.submit(first)
    assert begun.wait(DEADLINE)
    crew.submit(second)
    assert not crew.withdraw(first)  # it has begun
    assert crew.withdraw(second)
    assert not crew.withdraw(second)
    crew.submit(done.set)
    go.set()
    assert done.wait(DEADLINE)
    crew.close()
    assert seen == []


def test_threads_end_when_it_is_closed_and_what_waits_is_not_begun() -> None:
    work = Workplace(1)
    work.submit("one")
    work.submit("two")
    assert work.next() == "one"
    work.crew.close()
    work.go.release()
    (thread,) = work.threads
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert work._begun.empty()


HANGING = """
import threading
from pmilter.dispatchers.crew import Crew
begun = threading.Event()
def hang():
    begun.set()
    threading.Event().wait()
crew = Crew(1)
crew.submit(hang)
begun.wait()
crew.close()
"""


def test_job_that_hangs_does_not_keep_the_process_from_ending() -> None:
    run = subprocess.run([sys.executable, "-c", HANGING], timeout=DEADLINE, check=False)
    assert run.returncode == 0


def test_where_no_thread_can_be_started_the_job_waits_for_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    crew = Crew(2)
    done = threading.Barrier(2)
    seen: list[str] = []

    def second() -> None:
        seen.append("second")
        done.wait(DEADLINE)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)  # the system's limit
        crew.submit(lambda: seen.append("first"))
    assert "can't start new thread" in caplog.text
    crew.submit(second)
    done.wait(DEADLINE)
    crew.close()
    assert seen == ["first", "second"]
