"""What a conversation yields: the three things that it cannot do by itself. A dispatcher performs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Receive:
    """Wait for bytes from the MTA. Resume with them, ``b""`` at end of file.

    Attributes:
        timeout: Seconds to wait, or None. When they are over, throw `MilterTimeout`.
    """

    __slots__ = ("timeout",)

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout


class Send:
    """Send bytes to the MTA, all of them. Resume with anything.

    Attributes:
        data: The bytes.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes = b"") -> None:
        self.data = data


class Call:
    """Call one of the filter's callbacks. Resume with what it returned, awaited where that is a coroutine.

    What it raised, of whatever type, is thrown into the conversation.

    Attributes:
        function: The callback.
        arguments: Its arguments, the `Context` first.
        stage: Name of its stage.
    """

    __slots__ = ("arguments", "function", "stage")

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    stage: str


Effect = Receive | Send | Call
"""One conversation uses the same effect objects again and again: do not keep them."""

if TYPE_CHECKING:
    Talk = Generator[Effect, Any, None]
    """A conversation under way: yields effects, takes their outcomes."""


class Service:
    """What a conversation may know of the service that it belongs to.

    Attributes:
        stopping: True once no new message is to be begun. May be set from any thread.
    """

    __slots__ = ("stopping",)

    def __init__(self) -> None:
        self.stopping = False
