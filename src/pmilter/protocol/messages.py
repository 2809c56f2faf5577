"""One typed record for each message of the protocol, with its encoding; and the tables that decode by code.

Commands go from the MTA to the filter, replies and changes from the filter to the MTA. All text is `bytes`, as on the
wire: decoding to `str` is the business of the layers above. `decode_command` and `decode_answer` are strict about
layout, since Postfix is; who may send what when is in `rules`. Formats: docs/protocol.md, "Commands", "Replies".
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final, Self

from pmilter.errors import LocalProtocolError, RemoteProtocolError
from pmilter.protocol.constants import (
    MAX_REPLY_LINE,
    MAX_REPLY_LINES,
    Action,
    Answer,
    Command,
    Family,
    MacroStage,
    Step,
)
from pmilter.protocol.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MAX_WIRE_LINE: Final = 2 * MAX_REPLY_LINE + 16
"""Bytes of a reply line on the wire: its text, each percent sign doubled, after the codes."""

_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_OPTIONS: Final = Struct(">III")


class Message:
    """Base of all messages: compared by type and fields, shown with its fields, encoded to one whole frame."""

    __slots__: tuple[str, ...] = ()
    __match_args__: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[int]

    def payload(self) -> bytes:
        """Return the bytes after the code."""
        return b""

    def encode(self) -> bytes:
        """Return the whole frame: length, code and payload."""
        return encode_frame(self.code, self.payload())

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Build the message from the bytes after the code.

        Raises:
            RemoteProtocolError: The payload does not have this message's layout.
        """
        if payload:
            raise _malformed(cls, f"{len(payload)} bytes of payload where none belong")
        return cls()

    def fields(self) -> tuple[object, ...]:
        """Return the values of all fields, in order."""
        return tuple(getattr(self, name) for name in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return isinstance(other, Message) and self.fields() == other.fields()

    def __hash__(self) -> int:
        return hash((type(self), self.fields()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
        return f"{type(self).__name__}({fields})"


def _malformed(kind: type[Message], what: str) -> RemoteProtocolError:
    name = kind.__name__
    return RemoteProtocolError(f"malformed {name} packet: {what}", command=name)


def _text(kind: type[Message], payload: bytes) -> bytes:
    """Return the one string of a payload, without its final NUL."""
    if not payload or payload[-1]:
        raise _malformed(kind, "its text does not end with a NUL byte")
    return payload[:-1]


def _one_text(kind: type[Message], payload: bytes) -> bytes:
    """Return the text of a payload that must hold no other."""
    text = _text(kind, payload)
    if b"\0" in text:
        raise _malformed(kind, "more strings than one")
    return text


def _strings(kind: type[Message], payload: bytes) -> list[bytes]:
    """Return all NUL-terminated strings of a payload; there is at least one."""
    return _text(kind, payload).split(b"\0")


def _check_text(name: str, value: bytes) -> bytes:
    """Refuse a NUL, which would split the string on the wire."""
    if b"\0" in value:
        raise LocalProtocolError(f"{name} must not contain a NUL byte: {value!r}")
    return value


# --- negotiation, both directions ------------------------------------------------------------------------------------


class Options(Message):
    """What is offered (by the MTA) or chosen (by the filter) in the negotiation. Treat as immutable.

    Attributes:
        version: Protocol version.
        actions: Changes that the filter may make.
        steps: Steps switched off or without reply, and extra abilities.
        symlists: Macro names wanted, by stage number as in `MacroStage`; each value is names separated by blanks.
            Only in answers.
    """

    __slots__ = ("actions", "steps", "symlists", "version")
    __match_args__ = ("version", "actions", "steps", "symlists")
    code = Command.OPTNEG

    def __init__(
        self,
        version: int,
        actions: Action | int,
        steps: Step | int,
        symlists: dict[int, bytes] | None = None,
    ) -> None:
        self.version = version
        self.actions = Action(actions)
        self.steps = Step(steps)
        self.symlists = dict(symlists or {})

    def replace(
        self,
        *,
        version: int | None = None,
        actions: Action | None = None,
        steps: Step | None = None,
        symlists: dict[int, bytes] | None = None,
    ) -> Options:
        """Return a copy with the given fields changed."""
        return Options(
            self.version if version is None else version,
            self.actions if actions is None else actions,
            self.steps if steps is None else steps,
            self.symlists if symlists is None else symlists,
        )

    def __hash__(self) -> int:
        return hash((self.version, self.actions, self.steps, tuple(sorted(self.symlists.items()))))

    def payload(self) -> bytes:
        words = _OPTIONS.pack(self.version, self.actions, self.steps)
        records = (
            _U32.pack(stage) + _check_text("macro list", names) + b"\0"
            for stage, names in sorted(self.symlists.items())
        )
        return words + b"".join(records)

    @classmethod
    def decode(cls, payload: bytes) -> Options:
        """Decode an offer or an answer; macro lists may follow the three words."""
        if len(payload) < _OPTIONS.size:
            raise _malformed(
                cls, f"{len(payload)} bytes of payload instead of at least {_OPTIONS.size}"
            )
        version, actions, steps = _OPTIONS.unpack_from(payload)
        return cls(version, actions, steps, cls._decode_symlists(payload[_OPTIONS.size :]))

    @classmethod
    def _decode_symlists(cls, records: bytes) -> dict[int, bytes]:
        symlists: dict[int, bytes] = {}
        position = 0
        while position < len(records):
            end = records.find(b"\0", position + _U32.size)
            if end < 0:
                raise _malformed(cls, "a macro list does not end with a NUL byte")
            (stage,) = _U32.unpack_from(records, position)
            if stage <= MacroStage.EOH:  # others are skipped, as Postfix does
                symlists[stage] = records[position + _U32.size : end]
            position = end + 1
        return symlists


# --- commands --------------------------------------------------------------------------------------------------------


class Macros(Message):
    """Macros for the command that follows.

    Attributes:
        stage: Code of the command that they belong to.
        items: (name, value) pairs in order; names as sent, mostly in braces where longer than one letter.
    """

    __slots__ = ("items", "stage")
    __match_args__ = ("stage", "items")
    code = Command.MACRO

    def __init__(self, stage: int, items: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.stage = stage
        self.items = tuple(items)

    def payload(self) -> bytes:
        texts = (_check_text("macro", text) + b"\0" for item in self.items for text in item)
        return bytes((self.stage,)) + b"".join(texts)

    @classmethod
    def decode(cls, payload: bytes) -> Macros:
        if not payload:
            raise _malformed(cls, "no stage byte")
        if len(payload) == 1:
            return cls(payload[0])
        strings = _strings(cls, payload[1:])
        if len(strings) % 2:
            raise _malformed(cls, f"the last of {len(strings)} strings is a name without a value")
        return cls(payload[0], zip(strings[::2], strings[1::2], strict=True))


class Connect(Message):
    """An SMTP client connected.

    Attributes:
        hostname: Its verified name, or its address in brackets.
        family: Address family.
        port: Its port; 0 where unknown, and for families without one.
        address: Its address as text, a path for UNIX; empty for `Family.UNKNOWN`.
    """

    __slots__ = ("address", "family", "hostname", "port")
    __match_args__ = ("hostname", "family", "port", "address")
    code = Command.CONNECT

    def __init__(
        self, hostname: bytes, family: Family, port: int = 0, address: bytes = b""
    ) -> None:
        self.hostname = hostname
        self.family = family
        self.port = port
        self.address = address

    def payload(self) -> bytes:
        head = _check_text("hostname", self.hostname) + b"\0" + self.family.value.encode("ascii")
        if self.family is Family.UNKNOWN:
            return head
        return head + _U16.pack(self.port) + _check_text("address", self.address) + b"\0"

    @classmethod
    def decode(cls, payload: bytes) -> Connect:
        hostname, terminator, rest = payload.partition(b"\0")
        if not terminator or not rest:
            raise _malformed(cls, "no host name and address family")
        try:
            family = Family(chr(rest[0]))
        except ValueError:
            raise _malformed(cls, f"unknown address family {rest[:1]!r}") from None
        if family is Family.UNKNOWN:
            return cls(hostname, family)
        if len(rest) < 4:  # family, port, NUL
            raise _malformed(cls, "no port and address")
        (port,) = _U16.unpack_from(rest, 1)
        return cls(hostname, family, port, _one_text(cls, rest[3:]))


class _OneText(Message):
    """A message of one string."""

    __slots__ = ("text",)
    __match_args__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text

    def payload(self) -> bytes:
        return _check_text(f"the text of {type(self).__name__}", self.text) + b"\0"

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls(_one_text(cls, payload))


class Helo(_OneText):
    """The client sent HELO or EHLO; `text` is the name that it gave."""

    __slots__ = ()
    code = Command.HELO


class Unknown(_OneText):
    """The client sent a command that the MTA does not know; `text` is the line (Postfix before 3.10: its first word)."""

    __slots__ = ()
    code = Command.UNKNOWN


class _Envelope(Message):
    """A message of an address and ESMTP parameters."""

    __slots__ = ("address", "args")
    __match_args__ = ("address", "args")

    def __init__(self, address: bytes, args: Iterable[bytes] = ()) -> None:
        self.address = address
        self.args = tuple(args)

    def payload(self) -> bytes:
        texts = (self.address, *self.args)
        return b"".join(_check_text("address or parameter", text) + b"\0" for text in texts)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        address, *args = _strings(cls, payload)
        return cls(address, args)


class Mail(_Envelope):
    """MAIL FROM: the sender as the MTA has it, mostly in angle brackets, and its ESMTP parameters."""

    __slots__ = ()
    code = Command.MAIL


class Rcpt(_Envelope):
    """RCPT TO: one recipient as the MTA has it, mostly in angle brackets, and its ESMTP parameters."""

    __slots__ = ()
    code = Command.RCPT


class Data(Message):
    """The client sent DATA."""

    __slots__ = ()
    code = Command.DATA


class _NameValue(Message):
    """A message of a header field's name and value; the value may hold NULs, the name cannot."""

    __slots__ = ("name", "value")
    __match_args__ = ("name", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value

    def payload(self) -> bytes:
        return _check_text("header name", self.name) + b"\0" + self.value + b"\0"

    @classmethod
    def split(cls, payload: bytes) -> tuple[bytes, bytes]:
        """Return name and value, for those who want no message around them."""
        name, _, value = payload.partition(b"\0")
        if not value or value[-1]:
            raise _malformed(cls, "name and value do not both end with a NUL byte")
        return name, value[:-1]

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls(*cls.split(payload))


class Header(_NameValue):
    """One header field: its name, and its value with folds as LF and white space."""

    __slots__ = ()
    code = Command.HEADER


class Eoh(Message):
    """The header has ended."""

    __slots__ = ()
    code = Command.EOH


class _Bytes(Message):
    """A message of raw bytes."""

    __slots__ = ("chunk",)
    __match_args__ = ("chunk",)

    def __init__(self, chunk: bytes = b"") -> None:
        self.chunk = chunk

    def payload(self) -> bytes:
        return self.chunk

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        return cls(payload)


class Body(_Bytes):
    """A chunk of the body: at most 65535 bytes, cut anywhere, lines end with CRLF."""

    __slots__ = ()
    code = Command.BODY


class Eom(_Bytes):
    """End of message; `chunk` is a last piece of body, which neither Sendmail nor Postfix ever sends here."""

    __slots__ = ()
    code = Command.BODYEOB


class Abort(Message):
    """Forget the current message; the connection goes on."""

    __slots__ = ()
    code = Command.ABORT


class Quit(Message):
    """The SMTP session is over; the MTA closes."""

    __slots__ = ()
    code = Command.QUIT


class QuitNc(Message):
    """The SMTP session is over, another one follows on the same connection."""

    __slots__ = ()
    code = Command.QUIT_NC


# --- replies ---------------------------------------------------------------------------------------------------------


class _Word(Message):
    """A reply that is its code alone."""

    __slots__ = ()
    _frame: ClassVar[bytes]

    def __init_subclass__(cls) -> None:
        cls._frame = encode_frame(cls.code)

    def encode(self) -> bytes:
        """Return the whole frame."""
        return self._frame


class Continue(_Word):
    """Go on."""

    __slots__ = ()
    code = Answer.CONTINUE


class Accept(_Word):
    """Accept; show this filter no more of it."""

    __slots__ = ()
    code = Answer.ACCEPT


class Reject(_Word):
    """Refuse with the MTA's own 5xx text."""

    __slots__ = ()
    code = Answer.REJECT


class Tempfail(_Word):
    """Refuse with the MTA's own 4xx text."""

    __slots__ = ()
    code = Answer.TEMPFAIL


class Discard(_Word):
    """Accept towards the client and drop the message."""

    __slots__ = ()
    code = Answer.DISCARD


class Skip(_Word):
    """Show no more body chunks."""

    __slots__ = ()
    code = Answer.SKIP


class Progress(_Word):
    """Still working; restarts the MTA's timer."""

    __slots__ = ()
    code = Answer.PROGRESS


class Shutdown(Message):
    """421 and close, on Postfix only; it loses mail there, so pmilter reads it and never sends it."""

    __slots__ = ()
    code = Answer.SHUTDOWN


class ConnFail(Message):
    """Defined, honoured by no MTA."""

    __slots__ = ()
    code = Answer.CONN_FAIL


class ReplyCode(_OneText):
    """A reply in the filter's own words: whole SMTP reply lines joined by CRLF, each ``%`` doubled."""

    __slots__ = ()
    code = Answer.REPLYCODE

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        message = super().decode(payload)
        text = message.text
        if len(text) < 3 or text[0] not in b"45" or not text[:3].isdigit():
            raise _malformed(cls, f"{text[:16]!r} does not begin with a code of class 4 or 5")
        if b"%" in text.replace(b"%%", b""):
            raise _malformed(cls, "a single percent sign; each must be doubled")
        lines = text.split(b"\r\n")
        if len(lines) > MAX_REPLY_LINES or any(len(line) > _MAX_WIRE_LINE for line in lines):
            raise _malformed(cls, f"more than {MAX_REPLY_LINES} lines, or one that is too long")
        separators = [line[3:4] for line in lines]
        if any(line[:3] != text[:3] for line in lines) or set(separators[:-1]) - {b"-"}:
            raise _malformed(
                cls, "its lines do not all carry the code, a hyphen after it on all but the last"
            )
        if (
            separators[-1] not in (b" ", b"")
            or b"\r" in text.replace(b"\r\n", b"")
            or b"\n" in b"".join(lines)
        ):
            raise _malformed(
                cls, "its last line does not end the reply, or a line break is not CRLF"
            )
        return message


# --- changes ---------------------------------------------------------------------------------------------------------


class AddHeader(_NameValue):
    """Add a header field."""

    __slots__ = ()
    code = Answer.ADDHEADER

    def payload(self) -> bytes:
        _check_text("header value", self.value)
        return super().payload()

    @classmethod
    def split(cls, payload: bytes) -> tuple[bytes, bytes]:
        name, value = super().split(payload)
        if b"\0" in value:
            raise _malformed(cls, "more strings than name and value")
        return name, value


class _Indexed(Message):
    """A message of an index and a header field's name and value."""

    __slots__ = ("index", "name", "value")
    __match_args__ = ("index", "name", "value")

    def __init__(self, index: int, name: bytes, value: bytes) -> None:
        self.index = index
        self.name = name
        self.value = value

    def payload(self) -> bytes:
        texts = (_check_text("header name", self.name), _check_text("header value", self.value))
        return _U32.pack(self.index) + b"".join(text + b"\0" for text in texts)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) < _U32.size:
            raise _malformed(cls, "no index")
        (index,) = _U32.unpack_from(payload)
        strings = _strings(cls, payload[_U32.size :])
        if len(strings) != 2:
            raise _malformed(cls, f"{len(strings)} strings instead of name and value")
        return cls(index, *strings)


class InsHeader(_Indexed):
    """Insert a header field; `index` 0 is above the MTA's own Received, 1 directly below it."""

    __slots__ = ()
    code = Answer.INSHEADER


class ChgHeader(_Indexed):
    """Change the `index`-th field of that name, counted from 1; an empty value deletes it."""

    __slots__ = ()
    code = Answer.CHGHEADER


class ReplBody(_Bytes):
    """A piece of the new body; the first replaces the old body, the others append."""

    __slots__ = ()
    code = Answer.REPLBODY


class _AddressArgs(Message):
    """A message of an address and, optionally, one string of ESMTP parameters separated by blanks."""

    __slots__ = ("address", "args")
    __match_args__ = ("address", "args")

    def __init__(self, address: bytes, args: bytes | None = None) -> None:
        self.address = address
        self.args = args

    def payload(self) -> bytes:
        texts = (self.address,) if self.args is None else (self.address, self.args)
        return b"".join(_check_text("address or parameters", text) + b"\0" for text in texts)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        strings = _strings(cls, payload)
        if len(strings) > 2:
            raise _malformed(
                cls, f"{len(strings)} strings instead of an address and its parameters"
            )
        return cls(*strings)


class ChgFrom(_AddressArgs):
    """Change the envelope sender."""

    __slots__ = ()
    code = Answer.CHGFROM


class AddRcptPar(_AddressArgs):
    """Add a recipient with ESMTP parameters."""

    __slots__ = ()
    code = Answer.ADDRCPT_PAR


class AddRcpt(_OneText):
    """Add a recipient; `text` is the address."""

    __slots__ = ()
    code = Answer.ADDRCPT


class DelRcpt(_OneText):
    """Remove a recipient; `text` is the address."""

    __slots__ = ()
    code = Answer.DELRCPT


class Quarantine(_OneText):
    """Hold the message; `text` is the reason."""

    __slots__ = ()
    code = Answer.QUARANTINE


# --- tables ----------------------------------------------------------------------------------------------------------

COMMANDS: Final[dict[int, type[Message]]] = {
    int(kind.code): kind
    for kind in (
        Options, Macros, Connect, Helo, Mail, Rcpt, Data, Unknown, Header, Eoh, Body, Eom, Abort, Quit, QuitNc,
    )
}  # fmt: skip
"""Command code -> type."""

CHANGES: Final[dict[int, type[Message]]] = {
    int(kind.code): kind
    for kind in (
        AddHeader, InsHeader, ChgHeader, ReplBody, ChgFrom, AddRcpt, AddRcptPar, DelRcpt, Quarantine,
    )
}  # fmt: skip
"""Change code -> type: what may precede the final reply at end of message."""

ANSWERS: Final[dict[int, type[Message]]] = CHANGES | {
    int(kind.code): kind
    for kind in (
        Options, Continue, Accept, Reject, Tempfail, Discard, Skip, Progress, Shutdown, ConnFail, ReplyCode,
    )
}  # fmt: skip
"""Reply or change code -> type: everything that a filter may send."""

_DECODE_COMMAND: Final[dict[int, Callable[[bytes], Message]]] = {
    c: k.decode for c, k in COMMANDS.items()
}
_DECODE_ANSWER: Final[dict[int, Callable[[bytes], Message]]] = {
    c: k.decode for c, k in ANSWERS.items()
}


def decode_command(code: int, payload: bytes) -> Message:
    """Decode a frame from the MTA.

    Raises:
        RemoteProtocolError: Unknown code, or a payload that does not have the layout.
    """
    try:
        decode = _DECODE_COMMAND[code]
    except KeyError:
        raise RemoteProtocolError(f"unknown command {bytes((code,))!r}") from None
    return decode(payload)


def decode_answer(code: int, payload: bytes) -> Message:
    """Decode a frame from the filter.

    Raises:
        RemoteProtocolError: Unknown code, or a payload that does not have the layout.
    """
    try:
        decode = _DECODE_ANSWER[code]
    except KeyError:
        raise RemoteProtocolError(f"unknown reply {bytes((code,))!r}") from None
    return decode(payload)
