"""One SMTP session as an MTA plays it to one filter, stage by stage, without I/O.

Each method is a generator: it yields what it wants done (`effects`) and returns the filter's verdict. What differs between
MTAs is read from a `Dialect`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pmilter.client.dialect import Parting
from pmilter.client.effects import Close
from pmilter.client.exchange import Exchange, Verdict
from pmilter.client.macros import address_macros, refused_macros
from pmilter.protocol.constants import CHUNK_SIZE, Command, Status, Step
from pmilter.protocol.messages import (
    Abort,
    Body,
    Connect,
    Data,
    Eoh,
    Eom,
    Header,
    Helo,
    Mail,
    Message,
    Options,
    Quit,
    Rcpt,
    Unknown,
)
from pmilter.protocol.rules import RULES
from pmilter.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pmilter.client.content import Field
    from pmilter.client.dialect import Dialect
    from pmilter.client.effects import Steps

_GOES_ON: Final = frozenset({Status.CONTINUE, Status.SKIP})
_SESSION: Final = frozenset({Command.CONNECT, Command.HELO})
_CONTENT: Final = frozenset({Command.HEADER, Command.EOH, Command.BODY, Command.BODYEOB})

_ONE_ONLY: Final = frozenset({Command.RCPT, Command.UNKNOWN})
"""Commands at which a refusal concerns that recipient or that command alone."""


def bare_address(address: bytes) -> bytes:
    """Return an envelope address without angle brackets."""
    return address[1:-1] if address[:1] == b"<" and address[-1:] == b">" else address


class Dialogue(Exchange):
    """One SMTP session with one filter. Run one method at a time, each to its end.

    All raise `RemoteProtocolError`, `NegotiationError`, `LimitExceeded` or `ConnectionClosed` where the filter fails; nothing
    but `close` is left then. Commands out of order raise `LocalProtocolError`.

    Args:
        dialect: The MTA to play.
        offer: What to offer; by default all that this MTA offers.
        timeouts: Stage -> seconds to wait for an answer; a stage that is not in it is waited for without a limit.

    Attributes:
        standing: The verdict from connect or helo that holds for the whole SMTP session; None without one.
        closed: Whether the connection to the filter was closed.
    """

    __slots__ = ("_abortable", "_decided", "_greeted", "_refused", "_silent", "closed", "standing")

    def __init__(
        self,
        dialect: Dialect,
        offer: Options | None = None,
        timeouts: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(dialect, offer, timeouts)
        self.standing: Verdict | None = None
        self.closed = False
        self._silent = False
        self._greeted = False
        self._decided = False
        self._refused = False
        self._abortable = False

    # --- the session

    def connect(self, command: Connect) -> Steps[Verdict]:
        """Tell of the SMTP client."""
        verdict = yield from self._exchange(command)
        yield from self._stand(verdict)
        return verdict

    def helo(self, name: bytes) -> Steps[Verdict]:
        """Tell of HELO or EHLO; it may come again."""
        repeated, self._greeted = self._greeted, True
        if not self.dialect.aborts_finished:
            yield from self.reset()
        self._decided = False
        verdict = yield from self._exchange(Helo(name))
        yield from self._stand(verdict)
        if self.dialect.aborts_finished:
            if repeated:
                yield from self._abort()
            yield from self.reset()
        return verdict

    def unknown(self, line: bytes) -> Steps[Verdict]:
        """Tell of a command that the MTA does not know."""
        text = line.partition(b" ")[0] if self.dialect.verb_only else line
        decided = self._decided
        self._decided = (
            decided and not self._refused
        )  # after a refused MAIL no message is open: it is shown again
        verdict = yield from self._exchange(Unknown(text))
        self._decided = self._decided or decided
        return verdict

    def reset(self) -> Steps[None]:
        """End the message, as RSET and the end of each message do; without an open one it does nothing."""
        if self._abortable:
            self._abortable = False
            yield from self._abort()
            self._decided, self._refused = True, False
        if self.dialect.aborts_finished:
            self._decided = False

    def quit(self) -> Steps[None]:
        """End the SMTP session in this MTA's way, and close."""
        if self.closed:
            return
        if self.dialect.aborts_finished:
            if self._greeted:
                yield from self._abort()
            yield from self.reset()
        yield from self._leave()

    def close(self) -> Steps[None]:
        """Close without a word."""
        if not self.closed:
            self.closed = True
            yield Close()

    # --- a message

    def mail(self, address: bytes, args: Iterable[bytes] = ()) -> Steps[Verdict]:
        """Begin a message."""
        if self.standing is not None and self.standing.refuses:
            return self.standing
        yield from self.reset()
        self._decided = False
        self.changes = []
        self.macros.begin_message(decode(bare_address(address)))
        self._abortable = self.dialect.aborts_finished
        verdict = yield from self._exchange(Mail(address, args))
        if verdict.status is Status.CONTINUE and not self.steps & (Step.NOMAIL | Step.NR_MAIL):
            self._abortable = True
        return verdict

    def rcpt(
        self, address: bytes, args: Iterable[bytes] = (), refusal: str | None = None
    ) -> Steps[Verdict]:
        """Tell of a recipient.

        Args:
            address: As the client gave it.
            args: Its ESMTP parameters.
            refusal: The reply with which the MTA itself refuses it, or None. The filter learns of it if it asked for
                `Step.RCPT_REJ`, and cannot save it.
        """
        macros = self.macros
        macros.know(address_macros("rcpt", decode(bare_address(address)), self.dialect))
        if refusal is not None:
            return (yield from self._refused_rcpt(Rcpt(address, args), refusal))
        verdict = yield from self._exchange(Rcpt(address, args))
        if not verdict.refuses:
            macros.queue_id_known = True
        return verdict

    def _refused_rcpt(self, command: Rcpt, refusal: str) -> Steps[Verdict]:
        verdict = Verdict(Status.CONTINUE, "envrcpt")
        self.macros.refused = refused_macros(refusal, self.dialect)
        if self.steps & Step.RCPT_REJ:
            verdict = yield from self._exchange(command)
        elif self.dialect.refused_macros_alone and not self._decided and self._listens:
            yield from self.tell_macros(Command.RCPT)
        self.macros.refused = {}
        return verdict

    def data(self) -> Steps[Verdict]:
        """Tell of DATA."""
        return (yield from self._exchange(Data()))

    def header(self, field: Field) -> Steps[Verdict]:
        """Show a header field."""
        if field.name.lower() == b"message-id":
            self.macros.know({"msg_id": decode(field.value.strip())})
        value = field.value if self.steps & Step.HDR_LEADSPC else field.shown
        return (yield from self._exchange(Header(field.name, value)))

    def eoh(self) -> Steps[Verdict]:
        """Tell of the end of the header."""
        return (yield from self._exchange(Eoh()))

    def body(self, data: bytes) -> Steps[Verdict]:
        """Show a body in chunks, until it ends or the filter wants no more."""
        verdict = Verdict(Status.CONTINUE, "body")
        for start in range(0, len(data), CHUNK_SIZE):
            verdict = yield from self._exchange(Body(data[start : start + CHUNK_SIZE]))
            if verdict.status is not Status.CONTINUE:
                break
        return verdict

    def eom(self) -> Steps[Verdict]:
        """Tell of the end of the message, and take its changes."""
        return (yield from self._exchange(Eom()))

    # --- what an answer means

    def _exchange(self, command: Message) -> Steps[Verdict]:
        """Send a command, unless the filter is to hear no more of this message, and heed the answer."""
        code = command.code
        if self._decided or not self._listens or not self.knows(code):
            return Verdict(Status.CONTINUE, RULES[code].name)
        if code in _CONTENT:
            self._abortable = True
        verdict = yield from self.ask(command)
        self._note(code, verdict)
        if verdict.hangs_up and code not in _SESSION:
            yield from self.quit()
        return verdict

    @property
    def _listens(self) -> bool:
        """Whether the filter is still spoken to."""
        return self.session.agreement is not None and not self.closed and not self._silent

    def _note(self, command: int, verdict: Verdict) -> None:
        """Keep what an answer means for the rest of the message."""
        if command in _SESSION:
            return
        if verdict.status in _GOES_ON and command != Command.BODYEOB:
            return
        if command in _ONE_ONLY and verdict.refuses:
            return
        self._decided = True
        self._refused = command == Command.MAIL and verdict.refuses
        if not self.dialect.aborts_finished and (
            command in _CONTENT or verdict.status is Status.ACCEPT
        ):
            self._abortable = False

    def _stand(self, verdict: Verdict) -> Steps[None]:
        """Make a verdict hold for the whole session."""
        parting = self.dialect.parting.get((verdict.stage, verdict.status))
        if parting is None:
            return
        self.standing = verdict
        if verdict.hangs_up and parting is Parting.LATER:
            parting = Parting.QUIT
        if parting is Parting.LATER:
            self._silent = True
        elif parting is Parting.QUIT:
            yield from self._leave()
        else:
            yield from self.close()

    def _abort(self) -> Steps[None]:
        if self._listens:
            yield from self.tell(Abort())

    def _leave(self) -> Steps[None]:
        yield from self.tell(Quit())
        yield from self.close()
