"""What a conversation may know of the service that it belongs to."""

from __future__ import annotations


class Service:
    """The service of a conversation.

    Attributes:
        stopping: True once no new message is to be begun. May be set from any thread.
        refusing: True where that is so because there is no room: the answer then is a plain temporary failure.
    """

    __slots__ = ("refusing", "stopping")

    def __init__(self) -> None:
        self.stopping = False
        self.refusing = False

    def note_failure(self, error: BaseException) -> None:
        """Take note of what a callback has raised, or of what it returned instead of a verdict. Thread-safe."""

    def note_probe(self) -> None:
        """Take note that a connection has ended which had nothing for the filter, as those of health probes. Thread-safe."""
