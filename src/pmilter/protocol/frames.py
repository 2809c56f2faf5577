"""Framing: a u32 length, one code byte, the payload. Incremental, for both roles, with a limit on what is accepted.

No message is interpreted here. Memory grows with the bytes received, never with the length announced.
Rules: docs/protocol.md, "Frames".
"""

from __future__ import annotations

from collections import deque
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
        fault: What is wrong with the stream after the whole frames, or None. It cannot be read on after that.
        partial: A number that stands for the frame that has begun and waits for more bytes, or 0.
    """

    __slots__ = (
        "_frames",
        "_largest",
        "_partials",
        "_rest",
        "_virgin",
        "fault",
        "limit",
        "partial",
    )

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._largest = limit + 1
        self._frames: deque[tuple[int, bytes]] = deque()
        self.fault: RemoteProtocolError | None = None
        self._rest = bytearray()
        self._partials = 0
        self.partial = 0
        self._virgin = True

    @property
    def clean(self) -> bool:
        """True where no frame has been begun, so that an end of file here is a normal one."""
        return not self._rest and not self._frames

    @property
    def pending(self) -> int:
        """Bytes received and not yet handed out as frames."""
        return len(self._rest) + sum(HEADER_SIZE + len(payload) for _, payload in self._frames)

    def feed(self, data: bytes) -> None:
        """Take bytes as they came, and keep the frames for `next_frame`."""
        self._frames.extend(self.split(data))

    def next_frame(self) -> tuple[int, bytes] | None:
        """Return the next whole frame as (code, payload), or None where more bytes are needed.

        Raises:
            RemoteProtocolError: The length is 0 or above the limit. The stream cannot be read on after this.
        """
        if self._frames:
            return self._frames.popleft()
        if self.fault is not None:
            raise self.fault
        return None

    def split(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes as they came, and return the frames that are whole now, as (code, payload), for who does without `next_frame`.

        What is wrong with the stream after them is in `fault`.
        """
        if self._rest:
            return self._split_rest(data)
        size, largest = len(data), self._largest
        length: int  # declared for mypyc, as is the code
        code: int
        if size >= HEADER_SIZE:
            length, code = _unpack_header(data)
            if length == size - 4 and length <= largest:  # one frame: the usual case
                self._virgin = False
                return [(code, data[HEADER_SIZE:])]
        frames: list[tuple[int, bytes]] = []
        start = 0
        while size - start >= HEADER_SIZE:
            length, code = _unpack_header(data, start)
            end = start + 4 + length
            if end > size or not 0 < length <= largest:
                break
            frames.append((code, data[start + HEADER_SIZE : end]))
            start = end
        if start:
            self._virgin = False
        if start < size:
            self._keep(data, start)
        return frames

    def _split_rest(self, data: bytes) -> list[tuple[int, bytes]]:
        """Go on where a frame has been begun."""
        self._rest += data
        if self.fault is not None:
            return []
        rest, length = self._rest, self._length_of_rest()
        if length is None or len(rest) < 4 + length:
            return []
        with memoryview(rest) as view:
            frame = (rest[4], bytes(view[HEADER_SIZE : 4 + length]))
            following = bytes(view[4 + length :])
        self._rest = bytearray()
        self.partial = 0
        self._virgin = False
        return [frame, *self.split(following)]

    def _keep(self, data: bytes, start: int) -> None:
        """Move a begun frame to a growing buffer, so that many small pieces cost linear time."""
        self._rest += memoryview(data)[start:]
        self._partials += 1
        self.partial = self._partials
        self._length_of_rest()

    def _length_of_rest(self) -> int | None:
        """Return the length of the frame that was begun; None where it is not known yet, or cannot be."""
        rest = self._rest
        if len(rest) < HEADER_SIZE:
            return None
        length, _ = _unpack_header(rest)
        if 0 < length <= self._largest:
            return int(length)
        self.fault = self._bad_length(length, bytes(rest[:16]))
        return None

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
