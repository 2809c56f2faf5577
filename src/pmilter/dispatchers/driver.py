"""Performs a conversation on a blocking socket, in the calling thread. Holds no milter rule."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Final

from pmilter.effects import Call, Receive
from pmilter.errors import MilterTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.effects import Talk

READ_SIZE: Final = 65_540
"""Bytes asked for in one read: a full body chunk with its frame."""

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_TIMEVAL: Final = struct.Struct("@ll")


def drive(talk: Talk, sock: socket.socket, *, until: float | None = None) -> None:
    """Perform a conversation to its end.

    Args:
        talk: The conversation, not started yet.
        sock: A connected socket in blocking mode; stays open.
        until: Time (`time.monotonic`) at which the peer's time is over whatever it does, or None.
    """
    receive = _receiver(sock, until)
    resume = talk.send
    outcome: object = None
    while True:
        try:
            effect = resume(outcome)
        except StopIteration:
            return
        resume = talk.send
        try:
            if type(effect) is Call:
                outcome = effect.function(*effect.arguments)
            elif type(effect) is Receive:
                outcome = receive(effect.timeout)
            else:
                outcome = sock.sendall(effect.data)  # type: ignore[union-attr,func-returns-value]  # it is a Send
        except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
            resume, outcome = talk.throw, error


def _receiver(sock: socket.socket, until: float | None) -> Callable[[float | None], bytes]:
    """Return a function that waits for bytes with a time limit.

    The limit is the kernel's own (SO_RCVTIMEO): Python's would cost a system call more for each read.
    """
    recv = sock.recv
    current: float | None = None
    quickack = _QUICKACK if sock.family != socket.AF_UNIX else None

    def receive(timeout: float | None) -> bytes:
        nonlocal current
        if until is not None:
            left = until - time.monotonic()
            timeout = left if timeout is None else min(left, timeout)
        if timeout != current:
            _set_timeout(sock, socket.SO_RCVTIMEO, timeout)
            current = timeout
        if quickack is not None:
            # Sendmail writes macros and command in two pieces; the second waits for the first one's ACK.
            sock.setsockopt(socket.IPPROTO_TCP, quickack, 1)
        try:
            return recv(READ_SIZE)
        except BlockingIOError:
            raise MilterTimeout(
                f"nothing came from the MTA for {timeout} seconds", seconds=timeout
            ) from None

    return receive


def _set_timeout(sock: socket.socket, option: int, seconds: float | None) -> None:
    whole = 0.0 if seconds is None else max(seconds, 0.001)  # 0 means for ever
    sock.setsockopt(
        socket.SOL_SOCKET, option, _TIMEVAL.pack(int(whole), int(whole % 1 * 1_000_000))
    )


def prepare(sock: socket.socket, send_timeout: float) -> None:
    """Set an accepted socket up for `drive`.

    Args:
        sock: The socket.
        send_timeout: Seconds for the MTA to take what is sent.
    """
    sock.setblocking(True)  # noqa: FBT003  # the standard library's own signature
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _set_timeout(sock, socket.SO_SNDTIMEO, send_timeout)


def peer_name(sock: socket.socket) -> str:
    """Return a connected socket's other end for the log: an address, or the process and user behind a UNIX socket."""
    if sock.family == socket.AF_UNIX:
        credentials = getattr(socket, "SO_PEERCRED", None)
        if credentials is None:
            return "unix"
        pid, uid, _ = struct.unpack("=iii", sock.getsockopt(socket.SOL_SOCKET, credentials, 12))
        return f"unix pid {pid} uid {uid}"
    host, port = sock.getpeername()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
