"""The whole error tree; imports nothing of ours, so that every other module may use it.

    MilterError
      ProtocolError
        LocalProtocolError (also ValueError)   our caller asked for what protocol or agreement forbids
        RemoteProtocolError                    the peer did
      NegotiationError                         the two sides have no common version or the answer breaks the offer
      ConnectionClosed                         the peer is gone
      MilterTimeout (also TimeoutError)        a time limit ran out
      ConfigError (also ValueError)            an address, option, file or callback is wrong
      LimitExceeded                            something is larger than a limit; a frame's announced length is the peer's fault

Messages are for people and may change; the attributes carry the same facts and are API. `OSError` of socket
calls is never wrapped.
"""

from __future__ import annotations


class MilterError(Exception):
    """Root of all errors that pmilter raises by itself."""


class ProtocolError(MilterError):
    """The rules of the milter protocol were broken.

    Attributes:
        command: Name of the command or reply concerned (``"HEADER"``), or None.
        state: Name of the state in which it came (``"ENVRCPT"``), or None.
    """

    def __init__(
        self, message: str, *, command: str | None = None, state: str | None = None
    ) -> None:
        super().__init__(message)
        self.command = command
        self.state = state


class LocalProtocolError(ProtocolError, ValueError):
    """Our caller asked for something that the protocol or the agreement forbids; nothing was sent."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol or the agreement forbids."""


class NegotiationError(MilterError):
    """The two sides cannot agree.

    Attributes:
        offered: What the MTA offered, or None (an `Options`).
        answered: What the filter answered, or None (an `Options`).
    """

    def __init__(self, message: str, *, offered: object = None, answered: object = None) -> None:
        super().__init__(message)
        self.offered = offered
        self.answered = answered


class ConnectionClosed(MilterError):
    """The peer closed the connection while something was still expected.

    Attributes:
        clean: True where the close fell between two frames, False in the middle of one.
    """

    def __init__(self, message: str, *, clean: bool = True) -> None:
        super().__init__(message)
        self.clean = clean


class MilterTimeout(MilterError, TimeoutError):
    """A time limit ran out.

    Attributes:
        seconds: The limit.
    """

    def __init__(self, message: str, *, seconds: float | None = None) -> None:
        super().__init__(message)
        self.seconds = seconds


class ConfigError(MilterError, ValueError):
    """Something that a person wrote is wrong: an address, an option, a file, a callback.

    Attributes:
        source: The file or the input concerned, or None.
        line: Line number in `source`, counted from 1, or None.
    """

    def __init__(self, message: str, *, source: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.source = source
        self.line = line


class LimitExceeded(MilterError):
    """Something is larger than a limit allows.

    Attributes:
        limit: The limit, in the unit that the message names.
        size: The size that was met or asked for, in the same unit.
    """

    def __init__(self, message: str, *, limit: int | None = None, size: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.size = size
