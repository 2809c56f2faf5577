"""The arguments of `Context` methods as wire bytes, or an error that names the argument and sends nothing.

All raise `TypeError` for a wrong type and `LocalProtocolError` for what cannot be sent.
"""

from __future__ import annotations

import re
from typing import Final

from pmilter.errors import LocalProtocolError
from pmilter.text import decode, encode

MAX_INDEX: Final = 0x7FFFFFFF

_ONE_ADDRESS: Final = re.compile(rb'<[^<>]*>|(?:"[^"]*"|[^\s,<>"])+')
_KEYS: Final = rb"(?:SUCCESS|FAILURE|DELAY)"
_RCPT_PARAM: Final = re.compile(
    rb"NOTIFY=(?:NEVER|"
    + _KEYS
    + rb"(?:,"
    + _KEYS
    + rb")*)|ORCPT=[A-Z0-9-]+;[!-*,-<>-~\x80-\xff+]+",
    re.IGNORECASE,
)


def header_name(name: str) -> bytes:
    """Return a header field name as bytes: characters 33 to 126 without a colon, at least one."""
    wire = encode(name, "name")
    if not wire or any(not 33 <= byte <= 126 or byte == 58 for byte in wire):
        raise LocalProtocolError(
            f"name must be characters 33 to 126 without a colon, and not empty: {name!r}"
        )
    return wire


def header_value(value: str) -> bytes:
    """Return a header field value as bytes: folds as LF and a blank or tab, no other line break, no NUL."""
    wire = encode(value, "value")
    if b"\r" in wire or b"\n" in wire or b"\0" in wire:
        wire = wire.replace(b"\r\n", b"\n")
        if b"\r" in wire or b"\0" in wire:
            raise LocalProtocolError(f"value must not contain NUL or a CR without LF: {value!r}")
        if any(line[:1] not in (b" ", b"\t") for line in wire.split(b"\n")[1:]):
            raise LocalProtocolError(
                f"value: each line after the first must begin with a blank or a tab: {value!r}"
            )
    return wire


def plain(text: str, name: str) -> bytes:
    """Return one line of text without control characters as bytes."""
    wire = encode(text, name)
    if any(byte < 32 or byte == 127 for byte in wire):
        raise LocalProtocolError(f"{name} must not contain control characters: {text!r}")
    return wire


def address(address: str) -> bytes:
    """Return an address as bytes; brackets are optional, the null sender is ``<>``."""
    wire = plain(address, "address")
    if not wire.strip():
        raise LocalProtocolError('address must not be empty; the null sender is "<>"')
    return wire


def recipient(text: str) -> bytes:
    """Return a recipient's address as bytes; the null sender is none."""
    wire = address(text)
    if wire.strip() == b"<>":
        raise LocalProtocolError("address <> is the null sender, and no recipient")
    return wire


def one_recipient(text: str) -> bytes:
    """Return an address as bytes that both MTAs take for one recipient, parameters beside it or not."""
    wire = recipient(text)
    if not _ONE_ADDRESS.fullmatch(wire):
        raise LocalProtocolError(
            f"address must be a single one without a name when it has params: {text!r}"
        )
    return wire


def recipient_params(text: str) -> bytes | None:
    """Return the ESMTP parameters of a recipient as bytes, None where there are none.

    They are checked here, since Sendmail puts its complaints into the SMTP client's reply, or dies of them.
    """
    wire = plain(text, "params")
    for param in wire.split():
        if not _RCPT_PARAM.fullmatch(param):
            raise LocalProtocolError(
                f"params: {decode(param)!r} is neither NOTIFY=NEVER, nor NOTIFY= with some of SUCCESS, FAILURE and DELAY, "
                "nor ORCPT=type;address (RFC 3461)"
            )
    return b" ".join(wire.split()) or None


def index(index: int, name: str) -> int:
    """Return a header index, from 0 to 2147483647."""
    if isinstance(index, bool) or not isinstance(index, int):
        raise TypeError(f"{name} must be int, not {type(index).__name__}")
    if not 0 <= index <= MAX_INDEX:
        raise LocalProtocolError(f"{name} must be from 0 to {MAX_INDEX}, not {index}")
    return index
