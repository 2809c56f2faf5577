"""Tells systemd how the service is: the protocol of sd_notify(3). Does nothing where systemd did not start it."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

logger: Final = logging.getLogger("pmilter")

_EVER: Final = float("inf")
_PATIENCE: Final = 1.0
"""Seconds for the manager to take a message."""

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Sends state changes to the service manager. Never raises for what the other side does; for one thread.

    Args:
        address: Path of the manager's socket, with ``@`` first for an abstract one; None or empty to send nothing.
        interval: Seconds between two signs of life, or None where none are wanted.
    """

    def __init__(self, address: str | None = None, interval: float | None = None) -> None:
        self._address = _socket_name(address) if address else None
        self._interval = interval if self._address else None
        self._next = 0.0

    @classmethod
    def from_environment(
        cls, environ: MutableMapping[str, str] = os.environ, *, take: bool = False
    ) -> Notifier:
        """Return the one that systemd asks for.

        Args:
            environ: Where to look for ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``.
            take: Also remove them, so that no child process speaks for this one.
        """
        address, usec, pid = (environ.get(name, "") for name in _VARIABLES)
        if take:
            for name in _VARIABLES:
                environ.pop(name, None)
        ours = pid in {"", str(os.getpid())}
        interval = int(usec) / 2e6 if ours and usec.isdecimal() and int(usec) > 0 else None
        return cls(address, interval)

    def ready(self, status: str) -> None:
        """Say that the service serves (again), and one line about it for people."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def reloading(self, status: str) -> None:
        """Say that a reload has begun; `ready` tells of its end, whatever that is."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}\nSTATUS={_one_line(status)}")

    def stopping(self) -> None:
        """Say that the service ends."""
        self._send("STOPPING=1\nSTATUS=Stopping")

    def status(self, text: str) -> None:
        """Say one line for people."""
        self._send(f"STATUS={_one_line(text)}")

    def sign_of_life(self) -> float:
        """Tell the watchdog that the service lives, where it is time; return the seconds after which to call again."""
        if self._interval is None:
            return _EVER
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._interval
            self._send("WATCHDOG=1")
        return self._next - now

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:  # the service is worth more than a word about it
            logger.warning("cannot tell the service manager %r: %s", message, error)


def _socket_name(address: str) -> str | bytes:
    """Return an address as the socket calls want it: the abstract ones begin with NUL."""
    if address.startswith("@"):
        return b"\0" + os.fsencode(address[1:])
    return address


def _one_line(text: str) -> str:
    return " ".join(text.split())
