"""The bounds on what a peer can make a filter hold or wait for, in one value."""

from __future__ import annotations

from typing import Any, Final

from pmilter.errors import ConfigError
from pmilter.protocol.frames import DEFAULT_LIMIT

_ENDLESS: Final = float("inf")
_SECONDS: Final = frozenset(
    {"negotiation", "frame_time", "grace", "command_time", "eom_time", "progress_time"}
)
_MAY_BE_NONE: Final = frozenset({"connections_per_peer", "command_time", "eom_time"})


class Limits:
    """Bounds on connections and what they carry. Immutable; the defaults fit Postfix and Sendmail.

    What a mail's content can reach (`arguments`, `recipients`, `headers`, `header_bytes`) is answered with the fallback, for
    that recipient or message; only `frame`, `macros` and the times close the connection.

    Args:
        frame: Largest payload of one frame, in bytes. At least 65535, the size of a body chunk.
        macros: Most macros in one packet.
        arguments: Most strings (address and ESMTP parameters) in one MAIL or RCPT.
        recipients: Most recipients of one message; all together may have 512 bytes for each.
        headers: Most header fields of one message.
        header_bytes: Most bytes of header of one message, names and values together.
        connections: Most connections that one process serves at a time, where `Milter.main` is given no number.
        connections_per_peer: Most connections that one process serves at a time for one host, or on a UNIX socket for one user;
            None for no such limit. An MTA opens a connection for each SMTP client, so only a number well above what it has at
            its busiest makes sense.
        negotiation: Seconds for the MTA's first packet to arrive.
        frame_time: Seconds for the rest of a frame once it has begun, and for sending an answer.
        grace: Seconds that open messages get to finish after `Milter.stop`.
        command_time: Seconds that a callback other than eom has before the fallback is answered for it; None for no end. The
            default is below Postfix's 30 seconds; Sendmail by default waits 10, see `for_sendmail`.
        eom_time: Seconds that the eom callback has, progress included. Below the 300 seconds of both MTAs.
        progress_time: Seconds between two progress frames that are sent by themselves while the eom callback runs.

    Raises:
        ConfigError: A limit is not positive, or `frame` is too small.
        TypeError: A limit is no number, or counts something and is no whole number.
    """

    __slots__ = (
        "arguments",
        "command_time",
        "connections",
        "connections_per_peer",
        "eom_time",
        "frame",
        "frame_time",
        "grace",
        "header_bytes",
        "headers",
        "macros",
        "negotiation",
        "progress_time",
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
        connections_per_peer: int | None = None,
        negotiation: float = 60.0,
        frame_time: float = 60.0,
        grace: float = 10.0,
        command_time: float | None = 25.0,
        eom_time: float | None = 270.0,
        progress_time: float = 5.0,
    ) -> None:
        values = {
            "frame": frame,
            "macros": macros,
            "arguments": arguments,
            "recipients": recipients,
            "headers": headers,
            "header_bytes": header_bytes,
            "connections": connections,
            "connections_per_peer": connections_per_peer,
            "negotiation": negotiation,
            "frame_time": frame_time,
            "grace": grace,
            "command_time": command_time,
            "eom_time": eom_time,
            "progress_time": progress_time,
        }
        for name, value in values.items():
            _check(name, value)
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
    connections_per_peer: int | None
    negotiation: float
    frame_time: float
    grace: float
    command_time: float | None
    eom_time: float | None
    progress_time: float

    @classmethod
    def for_sendmail(cls, **others: Any) -> Limits:
        """Return limits with callback times below Sendmail's defaults: 8 seconds a command, 280 at end of message."""
        return cls(**{"command_time": 8.0, "eom_time": 280.0, **others})

    def replace(self, **changes: Any) -> Limits:
        """Return limits that are the same but for some.

        Raises:
            ConfigError, TypeError: As the constructor.
        """
        return type(self)(**{**{name: getattr(self, name) for name in self.__slots__}, **changes})

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


def _check(name: str, value: object) -> None:
    if value is None and name in _MAY_BE_NONE:
        return
    kind = "a number" if name in _SECONDS else "a whole number"
    if isinstance(value, bool) or not isinstance(value, (int, float) if name in _SECONDS else int):
        raise TypeError(f"limit {name} must be {kind}, not {value!r}")
    if not 0 < value < _ENDLESS:
        raise ConfigError(f"limit {name} must be {kind} above 0, not {value!r}")


def check_whole(name: str, value: object, least: int) -> None:
    """Raise where a parameter is no whole number, or below the least that it may be.

    Raises:
        TypeError, ConfigError: As said.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ConfigError(f"{name} must be {least} or above, not {value!r}")
