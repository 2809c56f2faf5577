"""The bounds on what a peer can make a filter hold or wait for, in one value."""

from __future__ import annotations

from pmilter.errors import ConfigError
from pmilter.protocol.frames import DEFAULT_LIMIT


class Limits:
    """Bounds on one connection. Immutable; the defaults fit Postfix and Sendmail.

    What a mail's content can reach (`arguments`, `recipients`, `headers`, `header_bytes`) is answered with the fallback, for
    that recipient or message; only `frame`, `macros` and the times close the connection.

    Args:
        frame: Largest payload of one frame, in bytes. At least 65535, the size of a body chunk.
        macros: Most macros in one packet.
        arguments: Most strings (address and ESMTP parameters) in one MAIL or RCPT.
        recipients: Most recipients of one message.
        headers: Most header fields of one message.
        header_bytes: Most bytes of header of one message, names and values together.
        connections: Most connections that one process serves at a time, where `Milter.main` is given no number.
        negotiation: Seconds for the MTA's first packet to arrive.
        frame_time: Seconds for the rest of a frame once it has begun, and for sending an answer.
        grace: Seconds that open messages get to finish after `Milter.stop`.

    Raises:
        ConfigError: A limit is not positive, or `frame` is too small.
    """

    __slots__ = (
        "arguments",
        "connections",
        "frame",
        "frame_time",
        "grace",
        "header_bytes",
        "headers",
        "macros",
        "negotiation",
        "recipients",
    )

    def __init__(
        self,
        *,
        frame: int = DEFAULT_LIMIT,
        macros: int = 256,
        arguments: int = 256,
        recipients: int = 10_000,
        headers: int = 10_000,
        header_bytes: int = 1_048_576,
        connections: int = 10_000,
        negotiation: float = 60.0,
        frame_time: float = 60.0,
        grace: float = 10.0,
    ) -> None:
        values = {
            "frame": frame,
            "macros": macros,
            "arguments": arguments,
            "recipients": recipients,
            "headers": headers,
            "header_bytes": header_bytes,
            "connections": connections,
            "negotiation": negotiation,
            "frame_time": frame_time,
            "grace": grace,
        }
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"limit {name} must be a number above 0, not {value!r}")
            object.__setattr__(self, name, value)
        if frame < 65535:
            raise ConfigError(
                f"limit frame must be at least 65535, the size of a body chunk, not {frame!r}"
            )

    frame: int
    macros: int
    arguments: int
    recipients: int
    headers: int
    header_bytes: int
    connections: int
    negotiation: float
    frame_time: float
    grace: float

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Limits cannot be changed; make a new one with {name}={value!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Limits):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__slots__))

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"
