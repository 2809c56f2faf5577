from __future__ import annotations

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


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


@pytest.mark.parametrize("max_children", [0, 1, 5])
def test_one_connection_after_the_other_whatever_the_limit(
    max_children: int, tmp_path: Path
) -> None:
    milter = filter_of({"helo": returns(None)})
    with (
        serving(milter, tmp_path, "sequential", max_children=max_children) as service,
        service.connect() as one,
        service.connect() as two,
    ):
        one.play(SESSION)
        two.play(">> O 6 1ff 77f")
        assert two.is_silent(0.1)
        one.play(">> Q\n<< EOF")
        two.play("<< O *\n>> C x␀U\n<< c\n>> Q\n<< EOF")


def test_callbacks_run_on_the_thread_of_main(trace: Trace, tmp_path: Path) -> None:
    import threading

    def helo(ctx: Context, _name: str) -> None:
        trace.say(str(threading.current_thread() is threading.main_thread()))

    with serving(filter_of({"helo": helo}), tmp_path, "sequential") as service:
        service.play(SESSION + ">> Q\n<< EOF")
        assert trace.next() == "True"


def test_state_of_the_filter_is_kept_between_connections(trace: Trace, tmp_path: Path) -> None:
    count: list[int] = []

    def helo(ctx: Context, _name: str) -> None:
        count.append(1)
        trace.say(str(len(count)))

    with serving(filter_of({"helo": helo}), tmp_path, "sequential") as service:
        for _ in range(3):
            service.play(SESSION + ">> Q\n<< EOF")
        assert trace.take(3) == ["1", "2", "3"]


def test_connection_that_waited_is_not_served_after_a_stop(tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)}, limits=Limits(grace=5))
    with (
        serving(milter, tmp_path, "sequential") as service,
        service.connect() as one,
        service.connect() as two,
    ):
        one.play(SESSION)
        two.play(">> O 6 1ff 77f")
        service.signal()
        one.until_goodbye("H x␀")
        assert service.wait() == 0
        assert two.answers() == []
