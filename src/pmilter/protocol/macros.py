"""The macros of one connection: one slot a stage, decoded when somebody asks.

A packet replaces its stage's slot; a command clears the slots of all later stages; the end of a message clears those from
MAIL on; a name is looked up from the latest stage to the earliest. Rules: docs/protocol.md, "Macros".
"""

from __future__ import annotations

from typing import Final

from pmilter.errors import LimitExceeded
from pmilter.protocol.constants import Command
from pmilter.protocol.messages import Macros

ORDER: Final[dict[int, int]] = {
    code: order
    for order, code in enumerate(
        (
            Command.CONNECT,
            Command.HELO,
            Command.MAIL,
            Command.RCPT,
            Command.DATA,
            Command.HEADER,
            Command.EOH,
            Command.BODY,
            Command.BODYEOB,
            Command.UNKNOWN,
        )
    )
}
"""Command code -> place of its slot, from the earliest stage to the latest. UNKNOWN lasts until any other command."""

_EMPTY: Final[tuple[None, ...]] = (None,) * len(ORDER)
_CONNECTION: Final = ORDER[Command.HELO]


def bare_name(name: str) -> str:
    """Return a macro's name without braces: ``{mail_addr}`` and ``mail_addr`` are the same macro."""
    return name[1:-1] if name[:1] == "{" and name[-1:] == "}" else name


class MacroStore:
    """Macros by stage. Not thread-safe; values are decoded as UTF-8 with surrogateescape.

    Args:
        limit: Most macros accepted in one packet.
    """

    __slots__ = ("_decoded", "_limit", "_most", "_slots", "top")

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._most = 2 * limit
        self._slots: list[bytes | None] = [None] * len(ORDER)
        self._decoded: dict[int, dict[str, str]] = {}
        self.top = -1
        """Place of the latest slot that is filled, or -1."""

    def put(self, payload: bytes) -> None:
        """Take the payload of a macro packet. Packets for stages that nobody knows are ignored, as libmilter does.

        Raises:
            RemoteProtocolError: The packet is malformed.
            LimitExceeded: It holds more macros than the limit.
        """
        count = payload.count(0, 1)
        if count & 1 or not count or payload[-1]:
            Macros.decode(payload)  # raises with the reason, unless it is a packet without macros
        if count > self._most:
            raise LimitExceeded(
                f"{count // 2} macros in one packet, the limit is {self._limit}",
                limit=self._limit,
                size=count // 2,
            )
        order = ORDER.get(payload[0])
        if order is None:
            return
        self._slots[order] = payload
        if self._decoded:
            self._decoded.pop(order, None)
        if order > self.top:
            self.top = order

    def clear_after(self, order: int) -> None:
        """Forget the macros of all stages later than the one at this place of `ORDER`."""
        if order < self.top:
            self._slots[order + 1 :] = _EMPTY[order + 1 :]
            if self._decoded:
                for later in range(order + 1, self.top + 1):
                    self._decoded.pop(later, None)
            self.top = order

    def clear_message(self) -> None:
        """Forget the macros of the message; those of the connection stay."""
        self.clear_after(_CONNECTION)

    def clear(self) -> None:
        """Forget everything."""
        self.clear_after(-1)

    def get(self, name: str) -> str | None:
        """Return the value of a macro, the latest stage first, or None. Braces around the name do not matter."""
        name = bare_name(name)
        for order in range(self.top, -1, -1):
            value = self._slot(order).get(name)
            if value is not None:
                return value
        return None

    def as_dict(self) -> dict[str, str]:
        """Return all macros in sight, by name without braces."""
        merged: dict[str, str] = {}
        for order in range(self.top + 1):
            merged |= self._slot(order)
        return merged

    def _slot(self, order: int) -> dict[str, str]:
        decoded = self._decoded.get(order)
        if decoded is None:
            payload = self._slots[order]
            items = Macros.decode(payload).items if payload else ()
            decoded = self._decoded[order] = {
                bare_name(name.decode("utf-8", "surrogateescape")): value.decode(
                    "utf-8", "surrogateescape"
                )
                for name, value in items
            }
        return decoded
