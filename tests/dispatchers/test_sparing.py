from __future__ import annotations

from typing import TYPE_CHECKING

from pmilter.dispatchers.sparing import PAUSE, SparingLog
from tests.support.processes import in_child

if TYPE_CHECKING:
    import pytest


def test_one_line_a_minute_that_counts_those_left_out(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    log = SparingLog(lambda: now)
    for number in range(5):
        log.warning("refused %d", number)
    now += PAUSE
    log.warning("refused %d", 5)
    log.warning("refused %d", 6)
    now += PAUSE
    log.warning("refused %d", 7)
    now += 2 * PAUSE
    log.warning("refused %d", 8)
    assert caplog.messages == [
        "refused 0",
        "refused 5 (4 such lines were left out before this one)",
        "refused 7 (1 such lines were left out before this one)",
        "refused 8",
    ]


def test_children_log_no_more_than_one_process(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    log = SparingLog(lambda: now)

    def child() -> None:
        log.warning("refused")
        log.warning("refused")

    for _ in range(3):
        in_child(child)
    now += PAUSE
    log.warning("refused")
    assert caplog.messages == ["refused (5 such lines were left out before this one)"]
