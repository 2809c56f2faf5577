"""Commands out, answers in: what an MTA says to one filter at a time, and what comes back. Holds no policy, and no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.client.macros import MacroSource
from pmilter.effects import Receive, Send
from pmilter.errors import ConnectionClosed
from pmilter.protocol.constants import Answer, Command, Status, Step
from pmilter.protocol.messages import CHANGES, Message, Options, ReplyCode
from pmilter.protocol.mta_session import MtaSession
from pmilter.protocol.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pmilter.client.dialect import Dialect
    from pmilter.client.effects import Steps


class Verdict(NamedTuple):
    """A filter's answer to one command; CONTINUE also where it was not asked."""

    status: Status
    stage: str
    reply: str | None = None
    """The reply in the filter's own words, as the SMTP client reads it, lines joined by LF; None where it set none."""

    @property
    def refuses(self) -> bool:
        """Whether it is a rejection or a temporary failure."""
        return self.status in _REFUSALS

    @property
    def hangs_up(self) -> bool:
        """Whether it makes the MTA close the SMTP session."""
        return self.reply is not None and self.reply.startswith("421")


_REFUSALS: Final = frozenset({Status.REJECT, Status.TEMPFAIL})
_STATUSES: Final[dict[int, Status]] = {
    Answer.CONTINUE: Status.CONTINUE,
    Answer.ACCEPT: Status.ACCEPT,
    Answer.REJECT: Status.REJECT,
    Answer.TEMPFAIL: Status.TEMPFAIL,
    Answer.DISCARD: Status.DISCARD,
    Answer.SKIP: Status.SKIP,
}

_MACROS_THOUGH_OFF: Final = frozenset(
    {Command.CONNECT, Command.HELO, Command.MAIL, Command.RCPT, Command.DATA, Command.UNKNOWN}
)
"""Commands whose macros are sent even where the command itself is switched off."""


class Exchange:
    """The connection to one filter, as seen from an MTA.

    Args:
        dialect: The MTA to play.
        offer: What to offer; by default all that this MTA offers.
        timeouts: Stage -> seconds to wait for an answer; a stage that is not in it is waited for without a limit.

    Attributes:
        dialect: The MTA.
        session: The state of the protocol.
        macros: Where macros come from.
        changes: The changes that the filter asked for, of the latest message.
        stage: Name of the latest stage.
    """

    __slots__ = ("_timeouts", "changes", "dialect", "macros", "session", "stage")

    def __init__(
        self,
        dialect: Dialect,
        offer: Options | None = None,
        timeouts: Mapping[str, float] | None = None,
    ) -> None:
        self._timeouts = dict(timeouts or {})
        self.dialect = dialect
        self.session = MtaSession(offer or dialect.offer(), strict=dialect.strict)
        self.macros = MacroSource(dialect)
        self.changes: list[Message] = []
        self.stage = "negotiate"

    @property
    def steps(self) -> Step:
        """The steps that were agreed; none before."""
        agreement = self.session.agreement
        return Step(0) if agreement is None else agreement.steps

    def knows(self, command: int) -> bool:
        """Return whether the protocol version that was agreed has a command."""
        agreement = self.session.agreement
        return agreement is not None and agreement.version >= RULES[command].since

    def open(self) -> Steps[Options]:
        """Negotiate, and return the agreement."""
        session = self.session
        session.open()
        yield Send(session.take())
        while session.agreement is None:
            yield from self._next_answer()
        self.macros.agree(session.agreement.symlists)
        return session.agreement

    def ask(self, command: Message) -> Steps[Verdict]:
        """Send a command with its macros, as far as the filter wants them, and return the answer; changes are kept."""
        code, session = command.code, self.session
        self.stage = RULES[code].name
        verdict = Verdict(Status.CONTINUE, self.stage)
        if session.wants(code):
            self._queue_macros(code)
            session.send(command)
        elif code in _MACROS_THOUGH_OFF and self.knows(code):
            self._queue_macros(code)
        yield from self._flush()
        while session.reply_due:
            answer = yield from self._next_answer()
            if answer.code in CHANGES:
                self.changes.append(answer)
            else:
                verdict = _verdict(answer, self.stage)
        return verdict

    def tell(self, command: Message) -> Steps[None]:
        """Send a command that has no answer and no macros."""
        self.session.send(command)
        yield from self._flush()

    def tell_macros(self, command: int) -> Steps[None]:
        """Send the macros of a command alone."""
        self._queue_macros(command)
        yield from self._flush()

    def _flush(self) -> Steps[None]:
        if frames := self.session.take():
            yield Send(frames)

    def _queue_macros(self, command: int) -> None:
        packet = self.macros.packet(command)
        if packet is not None:
            self.session.send(packet)

    def _next_answer(self) -> Steps[Message]:
        while (answer := self.session.next_answer()) is None:
            data = yield Receive(self._timeouts.get(self.stage))
            if not data:
                raise ConnectionClosed(f"the filter closed the connection at {self.stage}")
            self.session.receive(data)
        return answer


def _verdict(answer: Message, stage: str) -> Verdict:
    if isinstance(answer, ReplyCode):
        reply = answer.text.replace(b"%%", b"%").replace(b"\r\n", b"\n").decode("latin-1")
        status = Status.REJECT if reply.startswith("5") else Status.TEMPFAIL
        return Verdict(status, stage, reply)
    return Verdict(_STATUSES.get(answer.code, Status.CONTINUE), stage)
