"""Framing: a u32 length, one code byte, the payload. Incremental, for both roles, with a limit on what is accepted.

No message is interpreted here. Memory grows with the bytes received, never with the length announced.
Rules: docs/protocol.md, "Frames".
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from pmilter.errors import RemoteProtocolError

HEADER_SIZE: Final = 5
"""Bytes before the payload: the length and the code."""

DEFAULT_LIMIT: Final = 1048575
"""Largest payload in bytes that is accepted by default: the largest that can be negotiated at all."""

_HEADER: Final = Struct(">IB")
_unpack_header: Final = _HEADER.unpack_from


def encode_frame(code: int, payload: bytes = b"") -> bytes:
    """Return the whole frame for a code and its payload; sizes are the caller's business."""
    return _HEADER.pack(len(payload) + 1, code) + payload


class FrameReader:
    """Cuts a stream of bytes into frames.

    Feed it what the socket gave, then take frames until there is none. Not thread-safe.

    Args:
        limit: Largest payload accepted, in bytes; the code byte is not counted.

    Attributes:
        size: Bytes of the piece at hand.
        taken: How many of them have been handed out as frames; the same as `size` where there is nothing left.
        partial: A number that stands for the frame that has begun and waits for more bytes, or 0; right once `next_frame` has
            returned None.
    """

    __slots__ = ("_buffer", "_partial", "_partials", "_virgin", "limit", "partial", "size", "taken")

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._buffer = b""
        self.taken = 0
        self.size = 0
        self._partial = bytearray()
        self._partials = 0
        self.partial = 0
        self._virgin = True

    @property
    def clean(self) -> bool:
        """True where no frame has been begun, so that an end of file here is a normal one."""
        return not self._partial and self.taken == self.size

    @property
    def pending(self) -> int:
        """Bytes received and not yet handed out as frames."""
        return len(self._partial) + self.size - self.taken

    def feed(self, data: bytes) -> None:
        """Take bytes as they came. All frames fed before must have been taken."""
        if self._partial:
            self._partial += data
            return
        self._buffer = self._buffer[self.taken :] + data if self.taken < self.size else data
        self.size = len(self._buffer)
        self.taken = 0

    def next_frame(self) -> tuple[int, bytes] | None:
        """Return the next whole frame as (code, payload), or None where more bytes are needed.

        Raises:
            RemoteProtocolError: The length is 0 or above the limit. The stream cannot be read on after this.
        """
        start = self.taken
        available = self.size - start
        if available < HEADER_SIZE:
            if self._partial:
                return self._next_from_partial()
            if available:
                self._keep_partial()
            return None
        buffer = self._buffer
        length, code = _unpack_header(buffer, start)
        if not 0 < length <= self.limit + 1:
            raise self._bad_length(length, buffer[start : start + 16])
        if length + 4 > available:
            self._keep_partial()
            return None
        end = self.taken = start + 4 + length
        self._virgin = False
        return code, buffer[start + HEADER_SIZE : end]

    def _keep_partial(self) -> None:
        """Move a begun frame to a growing buffer, so that many small pieces cost linear time."""
        self._partials += 1
        self.partial = self._partials
        self._partial += memoryview(self._buffer)[self.taken :]
        self._buffer = b""
        self.taken = self.size = 0

    def _next_from_partial(self) -> tuple[int, bytes] | None:
        partial = self._partial
        if len(partial) < HEADER_SIZE:
            return None
        length, code = _unpack_header(partial)
        if not 0 < length <= self.limit + 1:
            raise self._bad_length(length, bytes(partial[:16]))
        end = 4 + length
        if len(partial) < end:
            return None
        with memoryview(partial) as view:
            payload = bytes(view[HEADER_SIZE:end])
            self._buffer = bytes(view[end:])
        self.size = len(self._buffer)
        self._partial = bytearray()
        self.partial = 0
        self._virgin = False
        return code, payload

    def _bad_length(self, length: int, head: bytes) -> RemoteProtocolError:
        foreign = looks_like(head) if self._virgin else None
        if foreign:
            return RemoteProtocolError(
                f"not the milter protocol: this looks like {foreign} ({head[:8]!r})"
            )
        if length == 0:
            return RemoteProtocolError(
                "frame of length 0: the length counts the code byte, so 1 is the least"
            )
        text = looks_like(head)
        hint = f"; its first bytes are {text} ({head[:8]!r})" if text else ""
        return RemoteProtocolError(
            f"frame with a payload of {length - 1} bytes, the limit is {self.limit}{hint}"
        )


_FOREIGN: Final = (
    (b"\x16\x03", "TLS; milter has no encryption, so the client must not use it here"),
    (b"\x80\x2e\x01", "TLS; milter has no encryption, so the client must not use it here"),
    (b"PRI * HTTP/2", "HTTP/2"),
    (b"HTTP/", "an HTTP response"),
    (b"EHLO ", "an SMTP client"),
    (b"HELO ", "an SMTP client"),
    (b"LHLO ", "an LMTP client"),
    (b"PROXY ", "the PROXY protocol"),
    (b"SSH-", "SSH"),
    (b"220 ", "an SMTP server's greeting"),
    (b"220-", "an SMTP server's greeting"),
    (b"request=", "the Postfix policy protocol"),
)
_HTTP_METHODS: Final = (
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"OPTIONS ",
    b"DELETE ",
    b"CONNECT ",
    b"PATCH ",
)


def looks_like(head: bytes) -> str | None:
    """Name the protocol that begins with these bytes, or None where nothing is recognised."""
    for prefix, name in _FOREIGN:
        if head.startswith(prefix):
            return name
    if head.startswith(_HTTP_METHODS):
        return "HTTP"
    if len(head) >= HEADER_SIZE and all(
        32 <= byte < 127 or byte in b"\t\r\n" for byte in head[:HEADER_SIZE]
    ):
        return "text, as if something printed into the socket"
    return None
