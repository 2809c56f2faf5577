"""What the callbacks ask for and leave for the conversation to take: replies, changes, macro lists, progress."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Final

from pmilter.errors import LocalProtocolError
from pmilter.plan import complete_symlists
from pmilter.protocol.constants import CHUNK_SIZE
from pmilter.protocol.messages import Message, Progress, ReplBody
from pmilter.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.effects import Call
    from pmilter.protocol.constants import MacroStage

SHUTDOWN: Final = Reply(421, "4.7.0", "Service not available, closing transmission channel")
"""What `Context.shutdown` has the MTA say."""

_PROGRESS: Final = Progress().encode()


class Requests:
    """What the callbacks of one connection have asked for. All but `progress` belongs to the running callback's thread.

    Args:
        call: The effect that tells the deadline of the running callback.
        write: Sends bytes to the MTA at once, from any thread; None where there is no way to.

    Attributes:
        reply: The reply that was set.
        changes: The changes, checked, in the order of the calls.
        symlists: Macro lists set in negotiate.
        negotiating: Whether the negotiate callback runs.
    """

    __slots__ = (
        "_body",
        "_call",
        "_in_eom",
        "_lock",
        "_write",
        "changes",
        "negotiating",
        "reply",
        "symlists",
    )

    def __init__(self, call: Call, write: Callable[[bytes], object] | None) -> None:
        self._call = call
        self._write = write
        self._lock = Lock()
        self._in_eom = False
        self._body: list[bytes] | None = None
        self.reply: Reply | None = None
        self.changes: list[Message] = []
        self.symlists: dict[MacroStage, bytes] = {}
        self.negotiating = False

    def take_reply(self) -> Reply | None:
        """Return the reply for the callback that has just ended, and forget it."""
        reply, self.reply = self.reply, None
        return reply

    def set_reply(self, reply: Reply) -> None:
        """Set the reply for a REJECT or TEMPFAIL; nothing overrides `shutdown`."""
        if self.reply is not SHUTDOWN:
            self.reply = reply

    def shutdown(self) -> None:
        """Have the callback answered with 421, whatever it returns and whatever else is set."""
        self.reply = SHUTDOWN

    def time_left(self, now: float) -> float | None:
        """Return the seconds until the running callback's deadline, or None where it has none."""
        deadline = self._call.deadline
        return None if deadline is None else deadline - now

    def take_symlists(self) -> dict[MacroStage, bytes]:
        """Return the macro lists that were set, EOM and EOH together."""
        return complete_symlists(self.symlists)

    def begin_eom(self) -> None:
        """Allow `progress`."""
        self._in_eom = True

    def end_eom(self) -> None:
        """Forbid `progress`: after this no thread can send one beside or after the verdict."""
        with self._lock:
            self._in_eom = False

    def progress(self) -> None:
        """Send a progress frame now; thread-safe.

        Raises:
            LocalProtocolError: The eom callback is not running.
        """
        with self._lock:
            if not self._in_eom or self._write is None:
                raise LocalProtocolError(
                    "progress is possible while the eom callback runs only", command="progress"
                )
            self._write(_PROGRESS)

    @property
    def changing(self) -> bool:
        """True where there are changes to send or to forget."""
        return bool(self.changes) or self._body is not None

    def add_body(self, data: bytes) -> None:
        """Append to the new body."""
        if self._body is None:
            self._body = []
        self._body.append(data)

    def drop_changes(self) -> None:
        """Forget all changes."""
        if self.changes:
            self.changes = []
        self._body = None

    def take_changes(self) -> Iterator[Message]:
        """Yield the changes as they are to be sent: as called, then the body in one run of full chunks; and forget them."""
        changes, body = self.changes, self._body
        self.drop_changes()
        yield from changes
        if body is not None:
            yield from _chunks(body)


def _chunks(parts: list[bytes]) -> Iterator[ReplBody]:
    """Cut a body into full chunks; an empty one is one empty chunk."""
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    for start in range(0, max(len(data), 1), CHUNK_SIZE):
        yield ReplBody(data[start : start + CHUNK_SIZE])
