"""The filter's end of a connection, without I/O: bytes in, commands out; replies in, bytes out.

It holds no policy: what to answer, and what to do about an error, is decided above.
"""

from __future__ import annotations

from typing import Final

from pmilter.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from pmilter.protocol.constants import Answer, Command
from pmilter.protocol.frames import DEFAULT_LIMIT, FrameReader
from pmilter.protocol.macros import ORDER, MacroStore
from pmilter.protocol.messages import COMMANDS, Continue, Message, Options
from pmilter.protocol.rules import GRANTS, OPEN, Move, State, state_after_reply
from pmilter.protocol.terms import UNNEGOTIATED, terms

_NONE: Final[frozenset[Answer]] = frozenset()
_CONTINUE: Final = Continue().encode()
_CONTINUE_CODE: Final = int(Answer.CONTINUE)
_MACRO: Final = int(Command.MACRO)


class FilterSession:
    """The filter's end of one connection.

    Call `receive` with what the socket gave, then `next_command` until it returns None; answer each command that has a
    reply with `reply` (the negotiation with `negotiate`) before the next; send what `take` returns.

    Args:
        frame_limit: Largest payload accepted, in bytes.
        macro_limit: Most macros accepted in one packet.

    Attributes:
        state: Where the connection is.
        command: Code of the latest command; 0 before any.
        move: What the latest command meant in the state where it came.
        answered: Code of the latest reply given; that of `Continue` where a command had none to give.
        due: Replies that may answer the latest command; empty where none is due.
        offer: What the MTA offered, or None.
        agreement: What was answered, or None before.
        macros: The macros in sight.
    """

    __slots__ = (
        "_out",
        "_reader",
        "_terms",
        "agreement",
        "answered",
        "command",
        "due",
        "macros",
        "move",
        "offer",
        "state",
    )

    def __init__(self, *, frame_limit: int = DEFAULT_LIMIT, macro_limit: int = 256) -> None:
        self._reader = FrameReader(frame_limit)
        self._terms = UNNEGOTIATED
        self.due = _NONE
        self._out = bytearray()
        self.state = State.START
        self.move = Move.NEXT
        self.command = 0
        self.answered = 0
        self.offer: Options | None = None
        self.agreement: Options | None = None
        self.macros = MacroStore(macro_limit)

    @property
    def mid_frame(self) -> bool:
        """True where a frame has been begun and not yet ended."""
        return not self._reader.clean

    def receive(self, data: bytes) -> None:
        """Take bytes from the MTA; interprets nothing. All commands received before must have been taken."""
        self._reader.feed(data)

    def next_command(self) -> Message | None:
        """Return the next command, or None where more bytes are needed. Macro packets go to `macros`.

        Raises:
            RemoteProtocolError: The bytes are no frame, or the command is malformed or out of order.
            LimitExceeded: A macro packet holds too many macros.
            LocalProtocolError: The reply to the command before is still due.
        """
        if self.due:
            raise LocalProtocolError(
                "the reply to the command before is still due", state=self.state.name
            )
        while (frame := self._reader.next_frame()) is not None:
            code, payload = frame
            if code == _MACRO and State.START < self.state < State.CLOSED:
                self.macros.put(payload)
                continue
            return self._command(code, payload)
        return None

    def _command(self, code: int, payload: bytes) -> Message:
        table = self._terms
        state = self.state
        row = table.moves.get(code)
        move = row[state] if row else Move.ILLEGAL
        if not move:
            raise self._illegal(code)
        message = COMMANDS[code].decode(payload)
        self.move = move
        self.command = code
        self.answered = _CONTINUE_CODE
        if move is not Move.REPEAT:
            order = ORDER.get(code)
            if order is not None and self.macros.top > order:
                self.macros.clear_after(order)
            following = table.states[code]
            if following is not None:
                self.state = following
            elif code == Command.ABORT and state >= State.IDLE:
                self.state = State.IDLE
        self.due = table.replies[code]
        if code == Command.OPTNEG:
            self.offer = message  # type: ignore[assignment]  # the code says that it is an Options
        return message

    def _illegal(self, code: int) -> RemoteProtocolError:
        kind = COMMANDS.get(code)
        name = kind.__name__ if kind else repr(bytes((code,)))
        what = f"{name} out of order" if kind else f"unknown command {name}"
        if code == Command.OPTNEG:
            what = "a second negotiation"
        return RemoteProtocolError(
            f"{what} in state {self.state.name}", command=name, state=self.state.name
        )

    def negotiate(self, answer: Options) -> None:
        """Answer the MTA's offer; must be what `negotiation.choose` or `clip` made of it.

        Raises:
            LocalProtocolError: No negotiation is due, or the answer has bits that were not offered.
        """
        if Answer.OPTNEG not in self.due or self.offer is None:
            raise LocalProtocolError("no negotiation is due", state=self.state.name)
        if answer.actions & ~self.offer.actions or answer.steps & ~self.offer.steps:
            raise LocalProtocolError(
                f"the answer {answer!r} has bits that {self.offer!r} does not offer"
            )
        self.agreement = answer
        self._terms = terms(answer.version, int(answer.steps))
        self.due = _NONE
        self._out += answer.encode()

    def reply(self, answer: Message) -> None:
        """Answer the latest command.

        Raises:
            LocalProtocolError: No reply is due, or not this one.
        """
        code = answer.code
        if code not in self.due:
            raise LocalProtocolError(
                f"{type(answer).__name__} is no legal reply in state {self.state.name}",
                command=type(answer).__name__,
                state=self.state.name,
            )
        self.due = _NONE
        if code == _CONTINUE_CODE and self.state is not State.EOM:
            self._out += _CONTINUE
            return
        self.answered = code
        self._out += answer.encode()
        self._after_reply(code)

    def _after_reply(self, code: int) -> None:
        if self.move is Move.REPEAT:
            self.state = State.IDLE if self.command == Command.BODYEOB else State.DECIDED
        else:
            self.state = state_after_reply(self.command, self.state, code)
        if self.state not in OPEN and self.state >= State.IDLE:
            self.macros.clear_message()

    def change(self, change: Message) -> None:
        """Ask for a change of the message; legal only between end of message and its reply.

        Raises:
            LocalProtocolError: Not at end of message, or the action was not agreed.
            LimitExceeded: The packet would be larger than agreed.
        """
        self.check_change(change)
        self._out += change.encode()

    def check_change(self, change: Message) -> None:
        """Check what `change` checks, and send nothing."""
        name, needs, _ = GRANTS[change.code]
        if self.state is not State.EOM or not self.due:
            raise LocalProtocolError(
                f"{name} is possible in the eom callback only, not in state {self.state.name}",
                command=name,
                state=self.state.name,
            )
        if self.agreement is None or not self.agreement.actions & needs:
            raise LocalProtocolError(
                f"{name} needs Action.{needs.name}, which was not agreed: give it to Milter(actions=...), "
                "and see the log for what the MTA does not offer",
                command=name,
                state=self.state.name,
            )
        self.check_size(change, name)

    def check_size(self, message: Message, name: str) -> None:
        """Raise LimitExceeded where a message would not fit into a frame of the agreed size."""
        size = len(message.payload())
        if size > self._terms.max_payload:
            limit = self._terms.max_payload
            raise LimitExceeded(
                f"{name}: packet of {size} bytes, {limit} were agreed", limit=limit, size=size
            )

    def end_message(self) -> None:
        """Forget the macros of a message that was aborted, when nobody needs them any more."""
        self.macros.clear_message()

    @property
    def unsent(self) -> int:
        """Bytes that `take` would return."""
        return len(self._out)

    def take(self) -> bytes:
        """Return the bytes to send, and forget them."""
        out = bytes(self._out)
        self._out.clear()
        return out
