"""The MTA's end of a connection, without I/O: commands in, bytes out; bytes in, answers out.

It holds no policy: which command to send when, and what to do with a verdict, is decided above.
"""

from __future__ import annotations

from typing import Final

from pmilter.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from pmilter.protocol.constants import MAX_DATA_SIZE, Answer, Command
from pmilter.protocol.frames import DEFAULT_LIMIT, HEADER_SIZE, FrameReader
from pmilter.protocol.messages import CHANGES, COMMANDS, Message, Options, decode_answer
from pmilter.protocol.negotiation import check_answer
from pmilter.protocol.negotiation import offer as full_offer
from pmilter.protocol.rules import GRANTS, RULES, Move, State, state_after_reply
from pmilter.protocol.terms import UNNEGOTIATED, terms

_NONE: Final[frozenset[Answer]] = frozenset()

MAX_CHANGES: Final = 10_000
"""Most changes accepted for one message by default, replacement bodies not counted."""

MAX_CHANGE_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of changes accepted for one message by default, replacement bodies included."""


class MtaSession:
    """The MTA's end of one connection.

    Send commands with `send` and what `take` returns; while `reply_due`, give `receive` what the socket gave and take
    answers with `next_answer`.

    Args:
        offer: What to offer; by default all of version 6.
        strict: Refuse what Sendmail refuses and Postfix lets pass: step bits that were not offered, and progress before
            end of message.
        frame_limit: Largest payload accepted, in bytes.
        max_changes: Most changes accepted for one message.
        max_change_bytes: Most bytes of changes accepted for one message.

    Attributes:
        state: Where the connection is.
        offer: What is offered.
        agreement: What was agreed, or None before.
    """

    __slots__ = (
        "_budget",
        "_bytes_left",
        "_changes_left",
        "_command",
        "_due",
        "_move",
        "_out",
        "_reader",
        "_strict",
        "_terms",
        "agreement",
        "offer",
        "state",
    )

    def __init__(
        self,
        offer: Options | None = None,
        *,
        strict: bool = True,
        frame_limit: int = DEFAULT_LIMIT,
        max_changes: int = MAX_CHANGES,
        max_change_bytes: int = MAX_CHANGE_BYTES,
    ) -> None:
        self._reader = FrameReader(frame_limit)
        self._terms = UNNEGOTIATED
        self._due = _NONE
        self._out = bytearray()
        self._command = 0
        self._move = Move.NEXT
        self._strict = strict
        self._budget = (max_changes, max_change_bytes)
        self._changes_left, self._bytes_left = self._budget
        self.state = State.START
        self.offer = offer or full_offer()
        self.agreement: Options | None = None

    @property
    def reply_due(self) -> bool:
        """True where the filter has to answer the latest command."""
        return bool(self._due)

    def wants(self, command: int) -> bool:
        """Return whether the filter is to be sent this command at all: not switched off, and known to the version."""
        rule = RULES[command]
        agreement = self.agreement
        return agreement is None or not (
            agreement.steps & rule.off or agreement.version < rule.since
        )

    def open(self) -> None:
        """Send the offer; the first thing on every connection."""
        self.send(self.offer)

    def send(self, command: Message) -> None:
        """Send a command.

        Raises:
            LocalProtocolError: It is out of order, or the reply to the one before is still due.
            LimitExceeded: It is larger than what may be sent.
        """
        code = command.code
        name = type(command).__name__
        entry = self._terms.entries.get(code)
        if entry is None:
            raise LocalProtocolError(f"{name} is no command", command=name, state=self.state.name)
        if self._due:
            raise LocalProtocolError(
                "the reply to the command before is still due", state=self.state.name
            )
        move = entry.moves[self.state]
        if not move:
            raise LocalProtocolError(
                f"{name} out of order in state {self.state.name}",
                command=name,
                state=self.state.name,
            )
        if not self.wants(code):
            raise LocalProtocolError(
                f"{name} was negotiated away", command=name, state=self.state.name
            )
        if self._reader.pending:  # it would be taken for the answer to this command
            raise RemoteProtocolError(
                "the filter has sent more than it was asked for",
                command=name,
                state=self.state.name,
            )
        frame = command.encode()
        limit = self._terms.max_payload if self.agreement else MAX_DATA_SIZE
        if len(frame) - HEADER_SIZE > limit:
            raise LimitExceeded(
                f"{name} of {len(frame) - HEADER_SIZE} bytes, the limit is {limit}",
                limit=limit,
                size=len(frame) - HEADER_SIZE,
            )
        self._out += frame
        self._advance(code, move)

    def _advance(self, code: int, move: Move) -> None:
        if code == Command.MACRO:
            return
        self._command = code
        self._move = move
        if move is not Move.REPEAT:
            following = self._terms.entries[code].state
            if following is not None:
                self.state = following
            elif code == Command.ABORT and self.state >= State.IDLE:
                self.state = State.IDLE
        if code == Command.BODYEOB:
            self._changes_left, self._bytes_left = self._budget
        self._due = self._terms.entries[code].replies

    def receive(self, data: bytes) -> None:
        """Take bytes from the filter; interprets nothing. All answers received before must have been taken."""
        if self.state is not State.CLOSED:
            self._reader.feed(data)

    def next_answer(self) -> Message | None:
        """Return the next answer, or None where more bytes are needed. After QUIT nothing counts any more.

        A change or `Progress` leaves the reply due; any other answer ends it.

        Raises:
            RemoteProtocolError: The bytes are no frame, or the answer is malformed, not due, or without a grant.
            NegotiationError: The answer to the offer breaks it.
            LimitExceeded: Too many or too large changes.
        """
        if self.state is State.CLOSED or (frame := self._reader.next_frame()) is None:
            return None
        code, payload = frame
        answer = decode_answer(code, payload)
        if not self._due:
            raise self._illegal(answer, "came unasked")
        if code in CHANGES:
            self._check_change(answer, len(payload))
        elif code == Answer.PROGRESS:
            if self.agreement is None or (self._strict and self.state is not State.EOM):
                raise self._illegal(answer, "came before end of message")
        else:
            self._finish(answer)
        return answer

    def _check_change(self, change: Message, size: int) -> None:
        grant = GRANTS[change.code]
        if self.state is not State.EOM:
            raise self._illegal(change, "came before end of message")
        if self.agreement is None or not self.agreement.actions & grant.needs:
            raise self._illegal(change, f"needs {grant.needs!r}, which was not agreed")
        if change.code != Answer.REPLBODY:
            self._changes_left -= 1
        self._bytes_left -= size + HEADER_SIZE
        for left, limit, unit in zip(
            (self._changes_left, self._bytes_left),
            self._budget,
            ("changes", "bytes of changes"),
            strict=True,
        ):
            if left < 0:
                raise LimitExceeded(
                    f"more than {limit} {unit} for one message", limit=limit, size=limit - left
                )

    def _finish(self, answer: Message) -> None:
        code = answer.code
        if code not in self._due:
            raise self._illegal(answer, "is no legal answer here")
        if isinstance(answer, Options):
            self.agreement = check_answer(self.offer, answer, strict=self._strict)
            self._terms = terms(self.agreement.version, int(self.agreement.steps))
        elif self._move is not Move.REPEAT:
            self.state = state_after_reply(self._command, self.state, Answer(code))
        elif self._command == Command.BODYEOB:
            self.state = State.IDLE
        self._due = _NONE

    def _illegal(self, answer: Message, what: str) -> RemoteProtocolError:
        name = type(answer).__name__
        asked = COMMANDS[self._command].__name__ if self._command else "nothing"
        return RemoteProtocolError(
            f"{name} {what}, in state {self.state.name} after {asked}",
            command=name,
            state=self.state.name,
        )

    def take(self) -> bytes:
        """Return the bytes to send, and forget them."""
        out = bytes(self._out)
        self._out.clear()
        return out
