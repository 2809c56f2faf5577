"""One-line renderings of messages for people: traces, the command line, test failures.

The words are libmilter's names of the codes; text is always printable, and nothing is longer than it is asked to be. Nothing
here can be parsed back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pmilter.protocol.constants import (
    ACTIONS,
    PROTOCOL_VERSION,
    STEPS,
    Answer,
    Command,
    Family,
    MacroStage,
)
from pmilter.protocol.messages import (
    ANSWERS,
    COMMANDS,
    AddHeader,
    AddRcpt,
    AddRcptPar,
    Body,
    ChgFrom,
    ChgHeader,
    Connect,
    DelRcpt,
    Eom,
    Header,
    Helo,
    InsHeader,
    Macros,
    Mail,
    Message,
    Options,
    Quarantine,
    Rcpt,
    ReplBody,
    ReplyCode,
    Unknown,
)
from pmilter.text import decode, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import IntFlag

LINE: Final = 160
"""Characters of a rendering, where nobody says how many."""

_ELLIPSIS: Final = "..."


def message_name(message: Message) -> str:
    """Return libmilter's name of a message's code: ``"MAIL"``, ``"CONTINUE"``, ``"ADDHEADER"``."""
    return _NAMES[type(message)]


def format_message(message: Message, limit: int = LINE) -> str:
    """Return a message on one line, such as ``MAIL <a@example.com> SIZE=1`` or ``ADDHEADER X-Seen: yes``.

    Args:
        message: A command, a reply or a change.
        limit: Most characters of the line, 16 at least; what is longer loses its middle.
    """
    render = _DETAILS.get(type(message))
    parts = [] if render is None else render(message, limit)
    return elide(" ".join((message_name(message), *parts)).rstrip(), limit)


def elide(text: str, limit: int) -> str:
    """Return a text that is too long without its middle.

    Args:
        text: Any text.
        limit: Most characters of what is returned, the dots included; 16 at least.
    """
    if len(text) <= limit:
        return text
    tail = limit // 4
    return f"{text[: limit - tail - len(_ELLIPSIS)]}{_ELLIPSIS}{text[len(text) - tail :]}"


def show(data: bytes, limit: int) -> str:
    """Return wire bytes as printable text of at most `limit` characters; line breaks and other bytes come out as escapes."""
    # Cut before it is escaped too, so that a body of a megabyte costs no more than its visible ends.
    return elide(printable(elide(decode(data), limit)), limit)


# --- details by type: each takes the message, and the most characters of one value


def _options(message: Options, limit: int) -> list[str]:
    parts = [
        f"version={message.version}",
        f"actions={_bits(message.actions, ACTIONS[PROTOCOL_VERSION])}",
        f"steps={_bits(message.steps, STEPS[PROTOCOL_VERSION])}",
    ]
    for stage, names in sorted(message.symlists.items()):
        name = MacroStage(stage).name if stage in set(MacroStage) else str(stage)
        parts.append(f"{name}=[{show(names, limit)}]")
    return parts


def _bits(flags: IntFlag, everything: IntFlag) -> str:
    """Return the names of bits; those without a name as one hexadecimal number."""
    if flags == everything:
        return "all"
    names = [str(bit.name) for bit in flags]
    unnamed = int(flags) & ~sum(int(bit) for bit in flags)
    return "|".join([*names, *([f"{unnamed:#x}"] if unnamed else [])]) or "none"


def _macros(message: Macros, limit: int) -> list[str]:
    stages = {int(command): command.name for command in Command}
    stage = stages.get(message.stage) or show(bytes((message.stage,)), limit)
    items = (f"{show(name, limit)}={show(value, limit)}" for name, value in message.items)
    return [stage, *items]


def _connect(message: Connect, limit: int) -> list[str]:
    address = show(message.address, limit)
    where = {
        Family.UNKNOWN: "unknown",
        Family.UNIX: f"unix:{address}",
        Family.INET: f"[{address}]:{message.port}",
        Family.INET6: f"[{address}]:{message.port}",
    }
    return [show(message.hostname, limit), where[message.family]]


def _text(message: Helo | Unknown | AddRcpt | DelRcpt | Quarantine, limit: int) -> list[str]:
    return [show(message.text, limit)]


def _reply(message: ReplyCode, limit: int) -> list[str]:
    return [show(message.text.replace(b"%%", b"%"), limit)]


def _envelope(message: Mail | Rcpt, limit: int) -> list[str]:
    return [show(text, limit) for text in (message.address, *message.args)]


def _address(message: ChgFrom | AddRcptPar, limit: int) -> list[str]:
    texts = (message.address, message.args)
    return [show(text, limit) for text in texts if text is not None]


def _field(message: Header | AddHeader, limit: int) -> list[str]:
    return [f"{show(message.name, limit)}:", show(message.value, limit)]


def _indexed(message: InsHeader | ChgHeader, limit: int) -> list[str]:
    deletes = isinstance(message, ChgHeader) and not message.value
    value = "(deleted)" if deletes else show(message.value, limit)
    return [str(message.index), f"{show(message.name, limit)}:", value]


def _chunk(message: Body | ReplBody | Eom, limit: int) -> list[str]:
    if not message.chunk:
        return [] if isinstance(message, Eom) else ["0 bytes"]
    return [f"{len(message.chunk)} bytes", f'"{show(message.chunk, limit)}"']


_NAMES: Final[dict[type[Message], str]] = {
    **{kind: Command(code).name for code, kind in COMMANDS.items()},
    **{kind: Answer(code).name for code, kind in ANSWERS.items()},
}

_DETAILS: Final[dict[type[Message], Callable[[Any, int], list[str]]]] = {
    Options: _options,
    Macros: _macros,
    Connect: _connect,
    Helo: _text,
    Unknown: _text,
    Mail: _envelope,
    Rcpt: _envelope,
    Header: _field,
    Body: _chunk,
    Eom: _chunk,
    ReplyCode: _reply,
    AddHeader: _field,
    InsHeader: _indexed,
    ChgHeader: _indexed,
    ReplBody: _chunk,
    ChgFrom: _address,
    AddRcpt: _text,
    AddRcptPar: _address,
    DelRcpt: _text,
    Quarantine: _text,
}
"""Type -> what follows its name; the others are a name alone."""
