"""What is thrown into a conversation where a callback has given no result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmilter.errors import MilterTimeout

if TYPE_CHECKING:
    from pmilter.effects import Late


class CallFailed(Exception):  # it tells of an error, which is somebody else's
    """A callback has raised something: of whatever type, it arrives whole, with its traceback, and ends no generator.

    Attributes:
        error: What it raised.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class CallTimedOut(MilterTimeout):
    """A callback did not return in time.

    Attributes:
        stage: Its stage.
        late: Tells when it returns after all.
        stack: Where it was, as text for the log; may be empty.
    """

    def __init__(self, stage: str, seconds: float, late: Late, stack: str = "") -> None:
        super().__init__(
            f"the {stage} callback did not return within {seconds:g} seconds", seconds=seconds
        )
        self.stage = stage
        self.late = late
        self.stack = stack
