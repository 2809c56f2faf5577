"""Plays a script with the MTA's side: ``>>`` is what it must send next, ``<<`` what the filter answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmilter.client import Close
from pmilter.effects import Send
from tests.support.notation import EOF, mismatch, parse, show, split, steps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.client import Steps

CLOSE = "CLOSE"
"""In a script after ``>>``: the connection is closed."""

OFFER = ">> O 6 1ff 1fffff\n"
"""What both MTAs offer."""

ALL = OFFER + "<< O 6 1ff 400\n"
"""A negotiation with a filter that wants to see and answer everything."""


class Script:
    """A filter that does what a script says, and insists that the MTA does so too."""

    def __init__(self, script: str) -> None:
        self.waiting = steps(script)
        self.transcript: list[str] = []

    def run(self, mta: Steps[Any]) -> Any:
        """Perform one method of the MTA's side, and return its value."""
        outcome: bytes | None = None
        while True:
            try:
                effect = mta.send(outcome)
            except StopIteration as stop:
                return stop.value
            outcome = None
            if isinstance(effect, Send):
                for frame in self.whole(effect.data):
                    self.expect(show(frame), frame)
            elif isinstance(effect, Close):
                self.expect(CLOSE)
            else:
                outcome = b"".join(self.answers())

    def whole(self, data: bytes) -> list[bytes]:
        frames, rest = split(data)
        assert not rest, f"half a frame was sent: {rest!r}"
        return frames

    def expect(self, got: str, frame: bytes | None = None) -> None:
        """Check the next thing that the MTA does."""
        arrow, line = self.waiting.pop(0) if self.waiting else (">>", "nothing more")
        same = (
            line == got
            if frame is None or line in {CLOSE, "nothing more"}
            else parse(line) == frame
        )
        assert arrow == ">>", mismatch(self.transcript, f"{arrow} {line}", f">> {got}")
        assert same, mismatch(self.transcript, line, got)
        self.transcript.append(f">> {got}")

    def answers(self) -> Iterator[bytes]:
        """What the filter sends until it waits again."""
        assert self.waiting, mismatch(self.transcript, "nothing more", "waiting for an answer")
        arrow, line = self.waiting[0]
        assert arrow == "<<", mismatch(self.transcript, f"{arrow} {line}", "waiting for an answer")
        while self.waiting and self.waiting[0][0] == "<<":
            line = self.waiting.pop(0)[1]
            self.transcript.append(f"<< {line}")
            if line == EOF:
                return
            yield parse(line)

    def finish(self) -> None:
        """Check that nothing is left of the script."""
        assert not self.waiting, mismatch(self.transcript, " ".join(self.waiting[0]), "the end")
