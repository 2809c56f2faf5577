"""The filter's end of a connection, without I/O: bytes in, commands out; replies in, bytes out.

It holds no policy: what to answer, and what to do about an error, is decided above.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from pmilter.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from pmilter.protocol.constants import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Answer, Command
from pmilter.protocol.frames import DEFAULT_LIMIT, FrameReader
from pmilter.protocol.macros import MacroStore
from pmilter.protocol.messages import COMMANDS, Continue, Message, Options
from pmilter.protocol.rules import GRANTS, OPEN, Move, State, state_after_reply
from pmilter.protocol.terms import MACROS, UNNEGOTIATED, terms

_NONE: Final[frozenset[Answer]] = frozenset()
_CONTINUE: Final = Continue().encode()
_OPTNEG: Final = int(Command.OPTNEG)
# An enum's members looked up through its class cost a Python call on 3.11, and this runs for every header of every mail.
_NO_COMMAND: Final = Move.ILLEGAL
_NEXT: Final = Move.NEXT
_START: Final = State.START
_MACROS: Final = MACROS
_REPEAT: Final = Move.REPEAT
_OPTIONS_SIZE: Final = 12


@lru_cache(maxsize=64)
def _offer(words: bytes) -> Options:
    """Return an offer, which is immutable; MTAs make the same again and again."""
    return Options.decode(words)


class FilterSession:
    """The filter's end of one connection.

    Call `receive` with what the socket gave, then `next_command` until it returns None; answer each command that has a
    reply with `reply` (the negotiation with `negotiate`) before the next; send what `take` returns.

    Args:
        frame_limit: Largest payload accepted, in bytes.
        macro_limit: Most macros accepted in one packet.

    Attributes:
        reader: Cuts the stream into frames; tells whether one has been begun.
        state: Where the connection is.
        payload: What the latest command carried, as on the wire.
        command: Code of the latest command; 0 before any.
        move: What the latest command meant in the state where it came.
        due: Replies that may answer the latest command; empty where none is due.
        out: Bytes to send, which `take` takes.
        offer: What the MTA offered, or None.
        agreement: What was answered, or None before.
        macros: The macros in sight.
    """

    __slots__ = (
        "_row",
        "_rows",
        "_terms",
        "agreement",
        "command",
        "due",
        "macros",
        "move",
        "offer",
        "out",
        "payload",
        "reader",
        "state",
    )

    def __init__(self, *, frame_limit: int = DEFAULT_LIMIT, macro_limit: int = 256) -> None:
        self.reader = FrameReader(frame_limit)
        self._terms = UNNEGOTIATED
        self._rows = UNNEGOTIATED.rows
        self._row = UNNEGOTIATED.rows[_START]
        self.due = _NONE
        self.out = b""
        self.state = _START
        self.move = _NEXT
        self.command = 0
        self.payload = b""
        self.offer: Options | None = None
        self.agreement: Options | None = None
        self.macros = MacroStore(macro_limit)

    @property
    def mid_frame(self) -> bool:
        """True where a frame has been begun and not yet ended."""
        return self.reader.partial != 0

    def receive(self, data: bytes) -> None:
        """Take bytes from the MTA; interprets nothing."""
        self.reader.feed(data)

    def next_command(self) -> Message | None:
        """Return the next command, or None where more bytes are needed; otherwise as `advance`."""
        if not self.advance():
            return None
        return COMMANDS[self.command].decode(self.payload)

    def advance(self) -> int:
        """Go to the next command: return its code, and leave its undecoded payload in `payload`. 0: more bytes are needed.

        Macro packets go to `macros` on the way.

        Raises:
            RemoteProtocolError: The bytes are no frame, or the command is out of order.
            LimitExceeded: A macro packet holds too many macros.
            LocalProtocolError: The reply to the command before is still due.
        """
        if self.due:
            raise LocalProtocolError(
                "the reply to the command before is still due", state=self.state.name
            )
        while (frame := self.reader.next_frame()) is not None:
            code, payload = frame
            if self.step(code, payload):
                return code
        return 0

    def step(self, code: int, payload: bytes) -> Move:
        """Take one frame: a macro packet goes to `macros`, and is `Move.ILLEGAL`; of a command, return what it means here.

        `advance` for those who take the frames from `reader` themselves, and have answered the command before.
        """
        try:
            arrival = self._row[code]
        except KeyError:
            raise self._illegal(code) from None
        if arrival is _MACROS:
            self.macros.put(payload)
            return _NO_COMMAND
        move = self.move = arrival.move
        self.payload = payload
        self.command = code
        self.due = arrival.replies
        if self.macros.top > arrival.order:
            self.macros.clear_after(arrival.order)
        if arrival.state is not self.state:
            self._go_to(arrival.state)
            if code == _OPTNEG:  # no MTA has macro lists to offer
                self.offer = _offer(payload[:_OPTIONS_SIZE])
        return move

    def _go_to(self, state: State) -> None:
        self.state = state
        self._row = self._rows[state]

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
        offer = self.offer
        if _OPTNEG not in self.due or offer is None:
            raise LocalProtocolError("no negotiation is due", state=self.state.name)
        # An IntFlag's complement knows only the flags that have names, so numbers are compared.
        extra = int(answer.actions) & ~int(offer.actions) | int(answer.steps) & ~int(offer.steps)
        if extra or not PROTOCOL_VERSION_MIN <= answer.version <= min(
            offer.version, PROTOCOL_VERSION
        ):
            raise LocalProtocolError(f"the answer {answer!r} goes beyond the offer {offer!r}")
        self.agreement = answer
        self._terms = terms(answer.version, int(answer.steps))
        self._rows = self._terms.rows
        self._go_to(self.state)
        self.due = _NONE
        self.out += answer.encode()

    def go_on(self) -> None:
        """Answer the latest command with `Continue`, where a reply is due at all; not for negotiation and end of message."""
        if self.due:
            self.due = _NONE
            self.out = self.out + _CONTINUE if self.out else _CONTINUE

    def reply(self, answer: Message) -> None:
        """Answer the latest command.

        Raises:
            LocalProtocolError: No reply is due, or not this one.
        """
        code = answer.code
        if code not in self.due or code == _OPTNEG:
            raise LocalProtocolError(
                f"{type(answer).__name__} is no legal reply in state {self.state.name}",
                command=type(answer).__name__,
                state=self.state.name,
            )
        self.due = _NONE
        self.out += answer.encode()
        self._after_reply(code)

    def _after_reply(self, code: int) -> None:
        before = self.state
        if self.move is _REPEAT:
            self._go_to(State.IDLE if self.command == Command.BODYEOB else State.DECIDED)
        else:
            self._go_to(state_after_reply(self.command, before, code))
        if before in OPEN and self.state not in OPEN:
            self.macros.clear_message()

    def change(self, change: Message) -> int:
        """Ask for a change of the message; legal only between end of message and its reply.

        Returns:
            Size of its frame in bytes.

        Raises:
            LocalProtocolError: Not at end of message, or the action was not agreed.
            LimitExceeded: The packet would be larger than agreed.
        """
        self.check_change(change)
        frame = change.encode()
        self.out += frame
        return len(frame)

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

    def end_session(self) -> None:
        """Forget all macros: another SMTP session follows on the connection."""
        self.macros.clear()

    def end_message(self) -> None:
        """Forget the macros of a message that was aborted, when nobody needs them any more."""
        self.macros.clear_message()

    def take(self) -> bytes:
        """Return the bytes to send, and forget them; ``b""`` where there are none."""
        out, self.out = self.out, b""
        return out
