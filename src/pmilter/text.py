"""Text and bytes: the one place where the wire's bytes become `str` and go back, and where text is made safe to show."""

from __future__ import annotations

from pmilter.errors import LocalProtocolError


def decode(data: bytes) -> str:
    """Return wire bytes as text: UTF-8, with other bytes kept as lone surrogates, so that `encode` restores all."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str, name: str) -> bytes:
    """Return text as wire bytes, the reverse of `decode`.

    Args:
        text: What to encode.
        name: What to call it in errors.

    Raises:
        TypeError: It is no `str`.
        LocalProtocolError: It holds a lone surrogate that `decode` never makes.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be str, not {type(text).__name__}")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"{name} cannot be sent: {error}") from error


def printable(text: str) -> str:
    r"""Return text that is safe to print or log on one line: what is not printable is shown as an escape.

    Control characters, line breaks and bytes that are not UTF-8 come out as ``\x1b``, ``\n`` or ``\udce9``.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
