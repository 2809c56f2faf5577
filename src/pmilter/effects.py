"""What a conversation yields: the three things that it cannot do by itself. A dispatcher performs them."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

from pmilter.outcomes import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Receive:
    """Send what there is to send, then wait for bytes from the MTA. Resume with them, ``b""`` at end of file.

    Attributes:
        timeout: Seconds to wait, or None. When they are over, throw `MilterTimeout`.
        answer: Bytes to send before, all of them; often there are none.
    """

    __slots__ = ("answer", "timeout")

    def __init__(self, timeout: float | None = None, answer: bytes = b"") -> None:
        self.timeout = timeout
        self.answer = answer


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

    Where it raises something, throw `CallFailed`. Where it does not return in time, throw `CallTimedOut` and go on; a dispatcher
    that cannot may ignore `timeout`.

    Attributes:
        function: The callback.
        arguments: Its arguments, the `Context` first.
        stage: Name of its stage.
        timeout: Seconds that it has, or None.
        deadline: Time (`time.monotonic`) when they are over; set by a dispatcher that heeds `timeout`, else None.
    """

    __slots__ = ("arguments", "deadline", "function", "stage", "timeout")

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    timeout: float | None

    def __init__(self) -> None:
        self.stage = ""
        self.deadline: float | None = None


class Late:
    """A callback that has passed its deadline and not returned yet. Thread-safe."""

    __slots__ = ("_lock", "_then", "done")

    def __init__(self) -> None:
        self._lock = Lock()
        self._then: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.done = False
        """True once it has returned."""

    def then(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
        """Have a callback called after it has returned; return False where it has returned already."""
        with self._lock:
            if not self.done:
                self._then.append((function, arguments))
            return not self.done

    def finish(self) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
        """Note that it has returned; return what is to be called now, on the thread where it ran."""
        with self._lock:
            self.done = True
            return self._then


Effect = Receive | Send | Call
"""One conversation uses the same effect objects again and again: do not keep them."""

if TYPE_CHECKING:
    Talk = Generator[Effect, Any, None]
    """A conversation under way: yields effects, takes their outcomes."""


def call_at_once(call: Call) -> Any:
    """Call a callback and return what it returns; it may take as long as it will.

    Raises:
        CallFailed: It has raised something.
    """
    try:
        return call.function(*call.arguments)
    except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
        raise CallFailed(error) from None
