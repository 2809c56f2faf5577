"""A filter's end of a connection in memory: its conversation, driven in the calling thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pmilter.conversation import Conversation
from pmilter.effects import Call, Receive
from pmilter.errors import MilterTimeout
from pmilter.outcomes import CallFailed
from pmilter.program import Program
from pmilter.service import Service

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from pmilter.effects import Effect
    from pmilter.milter import Milter


class _Notes(Service):
    """Keeps what goes wrong in callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def note_failure(self, error: BaseException) -> None:
        """Keep it."""
        self.errors.append(error)


class FilterEnd:
    """One connection to a filter, without a socket. Its callbacks run in the thread that calls `feed` and `end`.

    Args:
        milter: The filter.

    Attributes:
        errors: What callbacks raised, and what they returned instead of a verdict, in order.
        overdue: The callbacks that took longer than they would have had in service, as text.
    """

    def __init__(self, milter: Milter) -> None:
        notes = _Notes()
        self.errors = notes.errors
        self.overdue: list[str] = []
        self._out = bytearray()
        program = Program(milter.plan())
        conversation = Conversation(program, "Mta", write=self._out.extend, service=notes)
        self._talk = conversation.run()
        self._runner: asyncio.Runner | None = None
        self._waiting = True
        self._perform(next(self._talk))

    def feed(self, data: bytes) -> None:
        """Let the filter have bytes, and run it until it wants more. Without effect once it has ended."""
        if self._waiting:
            self._perform(self._resume(self._talk.send, data))

    def read(self) -> bytes:
        """Return what the filter has sent since; ``b""`` once it has ended.

        Raises:
            MilterTimeout: It has sent nothing, and waits for more itself.
        """
        data = bytes(self._out)
        self._out.clear()
        if not data and self._waiting:
            raise MilterTimeout("the filter does not answer: it waits for more itself")
        return data

    def end(self) -> None:
        """Let the filter see the end of the connection."""
        self.feed(b"")
        if self._runner is not None:
            _apart(self._runner.close)
            self._runner = None

    def _perform(self, effect: Effect | None) -> None:
        while effect is not None and not isinstance(effect, Receive):
            if isinstance(effect, Call):
                effect = self._call(effect)
            else:
                self._out += effect.data
                effect = self._resume(self._talk.send, None)
        self._waiting = effect is not None
        if effect is not None:
            self._out += effect.answer

    def _call(self, call: Call) -> Effect | None:
        began = time.monotonic()
        try:
            outcome = call.function(*call.arguments)
            if hasattr(outcome, "__await__"):
                outcome = self._await(outcome)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
            return self._resume(self._talk.throw, CallFailed(error))
        self._time(call, time.monotonic() - began)
        return self._resume(self._talk.send, outcome)

    def _time(self, call: Call, seconds: float) -> None:
        if call.timeout is not None and seconds > call.timeout:
            self.overdue.append(
                f"the {call.stage} callback took {seconds:.1f} seconds, it has {call.timeout:g}"
            )

    def _resume(self, how: Callable[[Any], Effect], value: object) -> Effect | None:
        try:
            return how(value)
        except StopIteration:
            return None

    def _await(self, outcome: Awaitable[Any]) -> Any:
        """Run a coroutine callback on this connection's own event loop."""
        import asyncio  # plain filters are tested without it

        if self._runner is None:
            self._runner = asyncio.Runner()
        return _apart(self._runner.run, _awaited(outcome))


async def _awaited(outcome: Awaitable[Any]) -> Any:
    return await outcome


def _apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Call what runs an event loop: here, or where a loop runs here already, on a thread, since one has room for one only."""
    import asyncio  # as above
    from concurrent.futures import ThreadPoolExecutor  # as above

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function(*arguments)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()
