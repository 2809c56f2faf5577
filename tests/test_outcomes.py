from __future__ import annotations

import traceback

import pytest

from pmilter import MilterTimeout
from pmilter.effects import Late
from pmilter.outcomes import CallFailed, CallTimedOut


def test_what_was_raised_keeps_its_traceback_on_its_way() -> None:
    def callback() -> None:
        raise ValueError("no such host")

    with pytest.raises(ValueError, match="host") as caught:
        callback()
    frames = traceback.extract_tb(CallFailed(caught.value).error.__traceback__)
    assert frames[-1].name == "callback"


def test_late_callback_is_told_with_its_stage_and_time() -> None:
    late = Late()
    error = CallTimedOut("envrcpt", 25.0, late, "the stack")
    assert isinstance(error, MilterTimeout)
    assert str(error) == "the envrcpt callback did not return within 25 seconds"
    assert (error.stage, error.seconds, error.late, error.stack) == (
        "envrcpt",
        25.0,
        late,
        "the stack",
    )
