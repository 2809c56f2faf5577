from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pmilter.address import parse_address
from pmilter.cli.bench_processes import Standing
from pmilter.cli.bench_progress import Progress
from pmilter.client.load import Plan


class Screen:
    """A progress on a terminal that is a text, with a clock that the test turns."""

    def __init__(self, *, terminal: bool = True, shown: bool = True, **changes: Any) -> None:
        self.now = 100.0
        self.out = io.StringIO()
        usual: dict[str, Any] = {"seconds": 10.0, "warm_up": 2.0}
        address = parse_address("/run/filter")
        self.progress = Progress(
            Plan(address=address, message=b"Subject: x\r\n\r\n", **(usual | changes)),
            shown=shown,
            console=Console(file=self.out, force_terminal=terminal, width=100),
            clock=lambda: self.now,
        )

    def update(self, after: float, messages: int, failures: int = 0) -> str:
        """Let some time pass, and return what is shown then."""
        self.now += after
        self.out.truncate(0)
        self.progress.update(Standing(messages, failures))
        return self.out.getvalue()


def test_messages_and_their_rate_are_shown() -> None:
    screen = Screen()
    with screen.progress:
        assert "0 messages, 0 a second" in screen.update(2, 0)
        assert "1,500 messages, 1,500 a second" in screen.update(1, 1500)
        assert "failures" not in screen.update(0.1, 1500)
        assert "2 failures" in screen.update(0.1, 1500, failures=2)


def test_rate_is_that_of_the_last_second() -> None:
    screen = Screen()
    with screen.progress:
        for _ in range(10):
            screen.update(0.5, 0)
        screen.update(0.5, 100)
        assert "200 messages, 200 a second" in screen.update(0.5, 200)


def test_rate_of_the_first_second_is_not_that_of_the_warm_up_too() -> None:
    screen = Screen()
    with screen.progress:
        for _ in range(19):
            screen.update(0.1, 0)
        screen.update(0.2, 0)
        assert "10 messages, 100 a second" in screen.update(0.1, 10)
        assert "20 messages, 100 a second" in screen.update(0.1, 20)


def test_warm_up_is_called_so() -> None:
    screen = Screen()
    with screen.progress:
        early = screen.update(1, 50)
        assert "warming up" in early
        assert "messages" not in early  # they do not count
        assert "measuring" in screen.update(1.5, 0)


@pytest.mark.parametrize(
    ("changes", "after", "messages", "done"),
    [
        ({}, 6, 1, 0.5),
        ({}, 60, 1, 1.0),
        ({"seconds": None, "total": 200}, 99, 50, 0.25),
        ({"total": 200}, 6, 150, 0.75),
    ],
)
def test_bar_goes_with_the_time_or_the_number_whichever_is_further(
    changes: dict[str, Any], after: float, messages: int, done: float
) -> None:
    screen = Screen(**changes)
    with screen.progress:
        screen.update(after, messages)
        assert screen.progress._bar.tasks[0].completed == pytest.approx(done)


@pytest.mark.parametrize("how", [{"terminal": False}, {"shown": False}])
def test_nothing_is_shown_without_a_terminal_or_a_wish(how: dict[str, bool]) -> None:
    screen = Screen(**how)
    with screen.progress:
        screen.update(3, 10)
    assert screen.out.getvalue().strip() == ""
