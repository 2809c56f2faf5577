"""SMTP replies in the filter's own words."""

from __future__ import annotations

import re
from typing import Final

from pmilter.errors import LocalProtocolError
from pmilter.protocol.constants import MAX_REPLY_LINE, MAX_REPLY_LINES
from pmilter.protocol.messages import ReplyCode

_CODE: Final = re.compile(r"[45][0-9]{2}")
_XCODE: Final = re.compile(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}")
_FORBIDDEN: Final = re.compile(r"[\r\n\0]")


class Reply:
    """A reply to the SMTP client, to be returned from a callback. Immutable.

    The code decides: 4xx is a temporary failure, 5xx a rejection, 421 closes the SMTP session too.

    Args:
        code: Three digits, class 4 or 5, as int or str.
        xcode: Enhanced status code of the same class such as ``"5.7.1"``, or None.
        *lines: What the client shall read, a line each: at most 32 lines of at most 980 characters. Characters outside ASCII
            are replaced by ``?``, percent signs are doubled on the wire, as the MTAs want it.

    Raises:
        LocalProtocolError: A bad code, a CR, LF or NUL in a line, too long a line or too many.
        TypeError: A code or line of another type.
    """

    __slots__ = ("code", "lines", "xcode")

    def __init__(self, code: int | str, xcode: str | None = None, *lines: str) -> None:
        checked = _check_code(code)
        if len(lines) > MAX_REPLY_LINES:
            raise LocalProtocolError(
                f"a reply has at most {MAX_REPLY_LINES} lines, not {len(lines)}"
            )
        object.__setattr__(self, "code", checked)
        object.__setattr__(self, "xcode", _check_xcode(xcode, checked))
        object.__setattr__(self, "lines", tuple(_check_line(line) for line in lines) or ("",))

    code: str
    xcode: str | None
    lines: tuple[str, ...]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Reply cannot be changed; make a new one with {name}={value!r}")

    def encode(self) -> ReplyCode:
        """Return the protocol's message for it."""
        xcode = self.xcode
        if xcode is None and any(line[:1].isdigit() for line in self.lines):
            xcode = f"{self.code[0]}.0.0"  # Postfix reads a digit after the code as an enhanced code, and checks it
        prefix = f"{xcode} " if xcode else ""
        last = len(self.lines) - 1
        wire = (
            f"{self.code}{'-' if number < last else ' '}{prefix}{line.replace('%', '%%')}"
            for number, line in enumerate(self.lines)
        )
        return ReplyCode("\r\n".join(wire).encode("ascii"))

    def __str__(self) -> str:
        """Return it as the client reads it, lines joined by LF."""
        return self.encode().text.replace(b"%%", b"%").replace(b"\r\n", b"\n").decode("ascii")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        return (self.code, self.xcode, self.lines) == (other.code, other.xcode, other.lines)

    def __hash__(self) -> int:
        return hash((self.code, self.xcode, self.lines))

    def __repr__(self) -> str:
        return f"Reply({', '.join(repr(part) for part in (self.code, self.xcode, *self.lines))})"


def _check_code(code: int | str) -> str:
    if isinstance(code, bool) or not isinstance(code, (int, str)):
        raise TypeError(f"code must be int or str, not {type(code).__name__}")
    text = str(code)
    if not _CODE.fullmatch(text):
        raise LocalProtocolError(
            f"code must be three digits of class 4 or 5, such as 550, not {code!r}"
        )
    return text


def _check_xcode(xcode: str | None, code: str) -> str | None:
    if xcode is None or xcode == "":
        return None
    if not isinstance(xcode, str):
        raise TypeError(f"xcode must be str or None, not {type(xcode).__name__}")
    if not _XCODE.fullmatch(xcode) or xcode[0] != code[0]:
        raise LocalProtocolError(
            f"xcode must have the form {code[0]}.d.d, the class of code {code}, not {xcode!r}"
        )
    return xcode


def _check_line(line: str) -> str:
    if not isinstance(line, str):
        raise TypeError(f"a line of a reply must be str, not {type(line).__name__}")
    if _FORBIDDEN.search(line):
        raise LocalProtocolError(
            f"a line of a reply must not contain CR, LF or NUL; give lines one by one: {line!r}"
        )
    if len(line) > MAX_REPLY_LINE:
        raise LocalProtocolError(
            f"a line of a reply has at most {MAX_REPLY_LINE} bytes, not {len(line)}"
        )
    return line.encode("ascii", "replace").decode("ascii")
