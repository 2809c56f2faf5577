"""What the conversation notes of a connection for the callbacks to read, in wire form."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pmilter.text import decode, printable

if TYPE_CHECKING:
    from types import SimpleNamespace

    from pmilter.protocol.messages import Connect

logger: Final = logging.getLogger("pmilter")

ClientAddress = tuple[str, int] | tuple[str, int, int, int] | str | None
"""A client's address: (host, port) for IPv4, (host, port, 0, 0) for IPv6, a path for UNIX, None where unknown."""


class Facts:
    """Facts of one connection and of the message that is open on it; None where not known yet.

    Attributes:
        connect: The client.
        helo: Its name for itself.
        sender: Envelope sender.
        recipients: Envelope recipients accepted so far; None outside a message.
        state: The filter's own namespace for this message, made when it is first asked for.
    """

    __slots__ = ("connect", "helo", "recipients", "sender", "state")

    def __init__(self) -> None:
        self.connect: Connect | None = None
        self.helo: bytes | None = None
        self.sender: bytes | None = None
        self.recipients: list[bytes] | None = None
        self.state: SimpleNamespace | None = None

    def begin_message(self) -> None:
        """Start a message: nothing of the one before is left."""
        self.end_message()
        self.recipients = []

    def end_message(self) -> None:
        """Forget all of the message."""
        self.sender = None
        self.recipients = None
        self.state = None


def client_address(connect: Connect) -> ClientAddress:
    """Return the address of a connect command in the form that Python's sockets use; no name is looked up."""
    import socket  # a filter that is only looked at needs none

    family, text = connect.family.value, decode(connect.address)
    if family == "L":
        return text
    try:
        if family == "4":
            return socket.inet_ntop(
                socket.AF_INET, socket.inet_pton(socket.AF_INET, text)
            ), connect.port
        if family == "6":
            plain = text[5:] if text[:5].lower() == "ipv6:" else text
            return (
                socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, plain)),
                connect.port,
                0,
                0,
            )
    except (OSError, ValueError):
        logger.info("client address %s of family %s cannot be read", printable(text), family)
    return None
