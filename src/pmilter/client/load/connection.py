"""One connection of a load: where it stands, and what an answer makes of it. Sends and receives nothing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pmilter.client.load.answers import AnswerReader
from pmilter.client.load.script import Script, Turn
from pmilter.errors import ConnectionClosed, RemoteProtocolError
from pmilter.protocol.constants import Answer
from pmilter.protocol.frames import encode_frame
from pmilter.protocol.rules import NAMED

if TYPE_CHECKING:
    import socket

    from pmilter.client.load.figures import Figures
    from pmilter.client.load.plan import Plan
    from pmilter.client.load.script import Ending

_NEGOTIATE: Final = NAMED["negotiate"].replies

_MAX_SCRIPTS: Final = 64
"""Different answers to the offer that are remembered; only a filter that answers at random gives more."""


class Scripts:
    """The scripts of a load, one for each answer to the offer.

    Args:
        plan: The load.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._content = plan.content
        self._known: dict[bytes, Script] = {}

    def find(self, answer: bytes) -> Script:
        """Return the script for the frame that has answered the offer; errors as those of `Script`."""
        script = self._known.get(answer)
        if script is None:
            script = Script(self._plan, self._content, answer)
            if len(self._known) < _MAX_SCRIPTS:
                self._known[answer] = script
        return script


class Connection:
    """One connection.

    Args:
        sock: Its socket.
        plan: The load.
        scripts: What to say.
        figures: Where answers are counted.
        now: The time, in nanoseconds of the load's clock.

    Attributes:
        turn: What is to be answered; None before the offer is, and between messages.
        fast: What follows where the answer is CONTINUE and nothing else; None where that needs thought.
        opened: When it was opened.
        asked: When the current command was sent.
        heard: When the filter was last heard or asked.
        due: When the next message should begin that was given to it; None where there is none.
        begun: When the current message began; None between messages.
        left: Messages that may still be sent on it.
        parting: What to send before it is closed.
        connecting: Whether it is not made yet.
        unsent: What the socket had no room for.
    """

    __slots__ = (
        "_figures", "_reader", "_scripts", "asked", "begun", "connecting", "due", "fast", "fd", "heard", "left", "opened",
        "parting", "recv", "script", "send", "sock", "turn", "unsent",
    )  # fmt: skip

    def __init__(
        self, sock: socket.socket, plan: Plan, scripts: Scripts, figures: Figures, now: int
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv = sock.recv
        self.send = sock.send
        self.opened = self.asked = self.heard = now
        self.due: int | None = None
        self.begun: int | None = None
        self.left = plan.messages
        self.parting = b""
        self.connecting = False
        self.unsent: memoryview | None = None
        self.turn: Turn | None = None
        self.fast: Turn | None = None
        self.script: Script | None = None
        self._scripts = scripts
        self._figures = figures
        self._reader = AnswerReader(figures, strict=plan.dialect.strict)

    @property
    def stage(self) -> str:
        """The stage that is waited at, for people."""
        if self.turn is not None:
            return self.turn.stage
        return "negotiate" if self.script is None else "the end of a message"

    @property
    def resting(self) -> bool:
        """Whether it waits for its next message."""
        return self.script is not None and self.turn is None

    def answered(self, data: bytes, now: int) -> Turn | Ending | None:
        """Take what the filter has sent, and return what to do next; None where the answer has not ended.

        Raises:
            ConnectionClosed: It has closed the connection: there were no bytes.
            RemoteProtocolError: It breaks the protocol.
            NegotiationError: Its answer breaks the offer.
            LimitExceeded: It sends too much.
        """
        self.heard = now
        self.fast = None
        if not data:
            raise ConnectionClosed(f"the filter closed the connection at {self.stage}")
        if self.unsent is not None or self.resting:
            raise RemoteProtocolError(f"the filter sent something unasked at {self.stage}")
        turn = self.turn
        frame = self._reader.take(data, self.stage, turn.replies if turn else _NEGOTIATE)
        if frame is None:
            return None
        if turn is None:
            return self._greet(encode_frame(*frame), now)
        code, payload = frame
        self._figures.latency[turn.stage].record(now - self.asked)
        if code != Answer.CONTINUE:
            self._figures.note_answer(turn.stage, code, payload)
        return self._go_on(turn.after(code, payload))

    def _greet(self, answer: bytes, now: int) -> Turn | Ending:
        script = self.script = self._scripts.find(answer)
        self._reader.agreement = script.agreement
        self._figures.connections += 1
        self._figures.agreed = self._figures.agreed or script.agreed
        self._figures.latency["negotiate"].record(now - self.opened)
        return self._go_on(script.greeting.first)

    def begin(self, at: int) -> Turn:
        """Begin a message, and return its first turn.

        Args:
            at: The time from which it counts.
        """
        assert self.script is not None  # a message follows the greeting
        first = self.script.message.first
        assert isinstance(first, Turn)  # no agreement spares a filter the answer at end of message
        self.begun = at
        self.left -= 1
        self._go_on(first)
        return first

    def _go_on(self, following: Turn | Ending) -> Turn | Ending:
        if isinstance(following, Turn):
            self.turn, self.fast = following, following.next
        else:
            self.turn = self.fast = None
            self.parting = following.parting
        return following
