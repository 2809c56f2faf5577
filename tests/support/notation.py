"""One line a frame: a code, a blank, the payload as text in which ``␀`` is NUL and Python's escapes work.

``O`` is written with three hexadecimal words, and what follows them after a ``+``. Written for the tests alone, so that
nothing here is read or written by the code under test.
"""

from __future__ import annotations

import struct

EOF = "EOF"


def frame(code: str, payload: bytes = b"") -> bytes:
    """Return the frame of a code and a payload."""
    return struct.pack(">I", len(payload) + 1) + code.encode("ascii") + payload


def parse(line: str) -> bytes:
    """Return the frame that a line means."""
    code, _, text = line.partition(" ")
    if code == "O":
        words, _, rest = text.partition("+")
        numbers = struct.pack(">III", *(int(word, 16) for word in words.split()))
        return frame(code, numbers + _payload(rest))
    return frame(code, _payload(text))


def _payload(text: str) -> bytes:
    escaped = text.replace("␀", r"\x00").encode("ascii")
    return escaped.decode("unicode_escape").encode("latin-1")


def show(data: bytes) -> str:
    """Return the line that means a frame, shortened where it is long."""
    code, payload = chr(data[4]), data[5:]
    if code == "O" and len(payload) >= 12:
        words = " ".join(f"{word:x}" for word in struct.unpack(">III", payload[:12]))
        return f"O {words}" + (f"+{_text(payload[12:])}" if payload[12:] else "")
    return f"{code} {_text(payload)}".rstrip(" ") if payload else code


def _text(payload: bytes) -> str:
    if len(payload) > 300:
        return f"<{len(payload)} bytes {payload[:16]!r}...>"
    text = payload.decode("latin-1").encode("unicode_escape").decode("ascii")
    return text.replace(r"\x00", "␀")


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole frames in some bytes, and what is left."""
    frames = []
    while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
        frames.append(data[: 4 + size])
        data = data[4 + size :]
    return frames, data


def steps(script: str) -> list[tuple[str, str]]:
    """Return the steps of a script as (``>>`` or ``<<``, line)."""
    found = []
    for raw in script.splitlines():
        line = raw.strip()
        if line and not line.startswith("#"):
            arrow, _, rest = line.partition(" ")
            assert arrow in {">>", "<<"}, f"a step begins with >> or <<: {line}"
            found.append((arrow, rest))
    return found


def mismatch(transcript: list[str], expected: str, got: str) -> str:
    """Return what to print where a dialogue goes another way than its script."""
    return "\n".join([*transcript, f"?? expected  {expected}", f"!! but got   {got}"])
