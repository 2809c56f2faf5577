"""A message as an MTA takes it from its client: lines, header fields, body. What a filter is shown comes from here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.client.dialect import BareBreak

if TYPE_CHECKING:
    from pmilter.client.dialect import Dialect


class Field(NamedTuple):
    """A header field."""

    name: bytes
    """Its name, without the white space that may stand before the colon."""
    value: bytes
    """All that follows the colon, leading space included; lines are separated by LF."""

    @property
    def shown(self) -> bytes:
        """The value without the one space that usually follows the colon."""
        return self.value.removeprefix(b" ")


class Refusal(NamedTuple):
    """Why an MTA refuses a message before it shows any of it to a filter."""

    reply: str
    """The SMTP reply."""
    closes: bool
    """Whether it also closes all connections, with no further word."""


class Content(NamedTuple):
    """A message as an MTA has it."""

    fields: tuple[Field, ...]
    body: bytes
    """With CRLF line ends; empty where there is none."""
    blank: bool = True
    """Whether a blank line ended the header."""
    refusal: Refusal | None = None


_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_LINE_END: Final = re.compile(rb"\r*\n")
_BARE_CR: Final = re.compile(rb"\r(?!\n)")


def read_message(data: bytes, dialect: Dialect) -> Content:
    """Take a message apart as an MTA does.

    Args:
        data: The message with CRLF line ends throughout, or LF throughout as in files; a mixture is taken literally, as sent
            over SMTP. A missing last line end is added.
        dialect: The MTA.
    """
    if b"\r\n" not in data:
        data = data.replace(b"\n", b"\r\n")
    if data and not data.endswith(b"\r\n"):
        data += b"\r\n"
    if bare := _BARE.search(data):
        if dialect.bare_break is BareBreak.REFUSE:
            return Content((), b"", refusal=_REFUSALS[bare[0]])
        data = _BARE_CR.sub(b" ", _LINE_END.sub(b"\r\n", data))
    return _split(data, dialect)


_REFUSALS: Final = {
    b"\n": Refusal("421 4.5.0 Bare linefeed (LF) not allowed", closes=True),
    b"\r": Refusal("421 4.5.0 Bare carriage return (CR) not allowed", closes=True),
}


def _split(data: bytes, dialect: Dialect) -> Content:
    fields: list[Field] = []
    start = 0
    if dialect.from_line.match(data):
        start = data.index(b"\r\n") + 2
        if dialect.from_field is not None:
            fields.append(Field(dialect.from_field, b" " + data[: start - 2]))
    spans, end = _header_spans(data, start, dialect)
    if dialect.header_limit and sum(stop - begin for begin, stop in spans) > dialect.header_limit:
        reply = f"552 5.6.0 Headers too large ({dialect.header_limit} max)"
        return Content((), b"", refusal=Refusal(reply, closes=False))
    fields += (_field(data[begin:stop], dialect) for begin, stop in spans)
    blank = data.startswith(b"\r\n", end)
    body = data[end + 2 * blank :]
    return Content(tuple(field for field in fields if _counts(field, dialect)), body, blank)


def _header_spans(data: bytes, start: int, dialect: Dialect) -> tuple[list[tuple[int, int]], int]:
    """Return where each header field begins and ends, and where the first line after them begins."""
    spans: list[tuple[int, int]] = []
    while start < len(data):
        end = data.index(b"\r\n", start)
        if spans and data.startswith((b" ", b"\t"), start):
            spans[-1] = spans[-1][0], end
        elif dialect.header.match(_without_nul(data[start:end], dialect)):
            spans.append((start, end))
        else:
            break
        start = end + 2
    return spans, start


def _without_nul(lines: bytes, dialect: Dialect) -> bytes:
    return lines if b"\0" not in lines else _CUT[dialect.nul_ends_line].sub(b"", lines)


_CUT: Final = {True: re.compile(rb"\0[^\n]*"), False: re.compile(rb"\0")}


def _field(lines: bytes, dialect: Dialect) -> Field:
    match = dialect.header.match(_without_nul(lines.replace(b"\r\n", b"\n"), dialect))
    assert match is not None  # its first line was found by this pattern
    name, value = match.groups()
    if dialect.field_limit:
        value = value[: max(0, dialect.field_limit - len(name) - 1)].removesuffix(b"\n")
    return Field(name, value)


def _counts(field: Field, dialect: Dialect) -> bool:
    """Return whether a field is in the message for the MTA too."""
    name = field.name.lower()
    if name in dialect.hidden_fields:
        return False
    return bool(field.value.strip()) or all(
        name != automatic.lower() for automatic in dialect.automatic_fields[1:]
    )
