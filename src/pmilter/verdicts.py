"""What becomes of a verdict: given, kept for later where no reply is due, or repeated for what follows it.

Rules: docs/protocol.md, "Verdicts".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pmilter.program import VERDICTS
from pmilter.protocol.constants import Answer, Command, Status
from pmilter.protocol.rules import OPEN, Move, State
from pmilter.reply import Reply

if TYPE_CHECKING:
    from pmilter.context import Context
    from pmilter.effects import Late
    from pmilter.facts import Facts
    from pmilter.program import Stage
    from pmilter.protocol.filter_session import FilterSession
    from pmilter.protocol.messages import Message

CONTINUE: Final = VERDICTS[Status.CONTINUE]
STOPPING: Final = Reply(421, "4.3.2", "Service shutting down, try again later").encode()
"""The answer outside a message once the service is stopping."""

NO_ROOM: Final = VERDICTS[Status.TEMPFAIL]
"""The answer where the service has no room for the connection."""

# Looked up once: an enum's member costs a Python call on 3.11.
_UNKNOWN: Final = Command.UNKNOWN
_SKIP: Final = int(Answer.SKIP)
_DECIDED: Final = State.DECIDED

_POSITIVE: Final = frozenset({Answer.CONTINUE, Answer.SKIP})
_ON_MESSAGES: Final = frozenset({Answer.ACCEPT, Answer.DISCARD})
_CONNECTION: Final = frozenset({Command.CONNECT, Command.HELO})
_NARROW: Final = frozenset({Command.RCPT, Command.UNKNOWN})
"""Commands whose answer hits a recipient or a line, not the message: no place for a verdict on the message."""


class Verdicts:
    """The verdicts of one connection.

    Args:
        session: Takes the replies.
        facts: Loses the message's facts when a verdict ends it.

    Attributes:
        special: True where `shows` must be asked: some verdict stands, is kept, or body is skipped.
        final: True once a verdict has been given that ends the connection.
    """

    __slots__ = (
        "_facts",
        "_farewell",
        "_held",
        "_held_connection",
        "_late",
        "_once",
        "_session",
        "_skip_body",
        "_standing",
        "final",
        "special",
    )

    def __init__(self, session: FilterSession, facts: Facts) -> None:
        self._session = session
        self._facts = facts
        self._held: Message | None = None
        self._held_connection: Message | None = None
        self._once = False
        self._late: Late | None = None
        self._farewell: Message | None = None
        self._standing: Message | None = None
        self._skip_body = False
        self.special = False
        self.final = False

    def begin_message(self) -> None:
        """Forget the verdicts on the message before; those on the connection stay."""
        self._held = self._held_connection
        self._standing = None
        self._skip_body = False
        self.special = self._held is not None or self._late is not None

    def wait_for(self, late: Late) -> None:
        """Show the filter nothing more until a late callback has returned."""
        self._late = late
        self.special = True

    @property
    def late(self) -> Late | None:
        """The callback that has passed its deadline and not returned yet, or None."""
        if self._late is not None and self._late.done:
            self._late = None
        return self._late

    def shows(self, command: int, move: Move) -> bool:
        """Return whether the filter is to see a command at all."""
        if self._held is not None or move is Move.REPEAT or self.late is not None:
            return False
        return not (self._skip_body and command == Command.BODY)

    def stop(self, farewell: Message) -> None:
        """Have the next command that has a reply answered with this, and the connection ended."""
        self._held = self._farewell = farewell
        self.special = True

    def hold_first(self, verdict: Message) -> None:
        """Keep a verdict for the first command that has a reply, once."""
        if verdict is not CONTINUE:
            self._held_connection = self._held = verdict
            self._once = self.special = True

    def settle(self, stage: Stage, verdict: Message, context: Context) -> Message:
        """Give a callback's verdict, or keep it where it cannot be given at its stage; return what it comes to for now."""
        session = self._session
        if stage.command is _UNKNOWN and verdict.code in _ON_MESSAGES and session.state not in OPEN:
            verdict = (
                CONTINUE  # both MTAs would apply it to the next message, and Postfix dies of it
            )
        if verdict.code == _SKIP:
            self._skip_body = self.special = True
            if Answer.SKIP not in session.due:
                verdict = CONTINUE
        if verdict.code not in _POSITIVE and (stage.noreply or not session.due):
            self._hold(stage, verdict, context)
            verdict = CONTINUE
        if session.due:
            self._give(verdict)
        return verdict

    def answer_unasked(self, stage: Stage, move: Move, context: Context) -> None:
        """Answer a command that is not shown to the filter."""
        if self._held is None and self._late is not None and move is not Move.REPEAT:
            self.settle(stage, stage.fallback.message, context)
        if not self._session.due:
            return
        if move is Move.REPEAT:
            self._session.reply(self._standing or CONTINUE)
        elif self._held is not None and self._held is self._farewell:
            self._give(self._held)
            self._facts.end_message()
            self.final = True
        elif self._held is None or stage.command in _NARROW:
            self._session.reply(CONTINUE)
        else:
            self._give(self._held)
            if self._once:
                self._once = False
                self._held = self._held_connection = None
                self.special = self._standing is not None or self._late is not None

    def _give(self, verdict: Message) -> None:
        before = self._session.state
        self._session.reply(verdict)
        state = self._session.state
        if state is _DECIDED and before is not _DECIDED:  # an unknown command changes no verdict
            self._standing = verdict
            self.special = True
        if state not in OPEN:
            self._facts.end_message()

    def _hold(self, stage: Stage, verdict: Message, context: Context) -> None:
        self.special = True
        if stage.command in _CONNECTION:
            self._held_connection = self._held = verdict
        elif self._session.state in OPEN:
            self._held = verdict
        else:
            context.log.warning(
                "no message is open, so the verdict of the %s callback is dropped", stage.name
            )
