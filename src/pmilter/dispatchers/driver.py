"""Performs a conversation on a blocking socket, in the calling thread. Holds no milter rule."""

from __future__ import annotations

import contextvars
import logging
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.pipes import await_writable
from pmilter.effects import Call, Receive
from pmilter.errors import MilterTimeout
from pmilter.outcomes import CallFailed
from pmilter.spot import spot

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.deadlines import Slot, Ticket, Watch
    from pmilter.effects import Late, Talk
    from pmilter.outcomes import CallTimedOut

logger: Final = logging.getLogger("pmilter")

READ_SIZE: Final = 16_384
"""Bytes asked for in one read. A buffer of this size comes from memory at hand; larger ones cost page faults, each time."""

LONG_READ_SIZE: Final = 65_540
"""The same after a read that brought as much: a large body is under way, and this is a full chunk of it with its frame. Buffers
of 128 KiB and more are mapped and unmapped by the C library for each read, which costs more than they save."""

QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_TIMEVAL: Final = struct.Struct("@ll")


class Driver:
    """Performs one conversation.

    Args:
        talk: The conversation, not started yet.
        sock: A connected socket in blocking mode; stays open.
        until: Time (`time.monotonic`) at which the peer's time is over whatever it does, or None.
        watch: Takes calls over that run out of time; None to let them take as long as they will.
    """

    def __init__(
        self,
        talk: Talk,
        sock: socket.socket,
        *,
        until: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._talk = talk
        self._sock = sock
        self._receive = _receiver(sock, until)
        self._watch = watch
        self._slot: Slot | None = watch.slot(self._take_over) if watch is not None else None
        self._context = contextvars.Context()
        self._home = threading.Event()
        self._ended = threading.Event()

    def run(self) -> None:
        """Perform the conversation to its end; return when that has come and the callbacks of this thread have returned."""
        spot()  # for the threads that may follow this one
        self._context = contextvars.copy_context()
        try:
            self._perform(self._talk.send, None)
            self._home.set()
            self._ended.wait()
        finally:
            if self._watch is not None and self._slot is not None:
                self._watch.forget(self._slot)

    def _perform(self, resume: Callable[[Any], Any], outcome: object) -> None:
        """Go on to the end of the conversation, or until a call is taken over by another thread."""
        talk, slot, receive, sendall = self._talk, self._slot, self._receive, self._sock.sendall
        ticket: Ticket = slot.enter() if slot is not None else []
        while True:
            try:
                effect = resume(outcome)
            except StopIteration:
                self._ended.set()
                return
            resume, calls = talk.send, type(effect) is Call
            try:
                if calls:
                    if slot is not None:
                        slot.begin(effect, ticket)
                    outcome = effect.function(*effect.arguments)
                elif type(effect) is Receive:
                    if effect.answer:
                        sendall(effect.answer)
                    outcome = receive(effect.timeout)
                else:
                    outcome = sendall(effect.data)
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                resume, outcome = talk.throw, CallFailed(error) if calls else error
            if calls and slot is not None:
                late = slot.end(ticket)
                if late is not None:
                    _finish(late)
                    return

    def _take_over(self, error: CallTimedOut) -> None:
        """Carry on without the callback that is late, on a new thread."""
        run = self._context.copy().run
        threading.Thread(
            target=run, args=(self._succeed, error), name="pmilter-late", daemon=True
        ).start()

    def _succeed(self, error: CallTimedOut) -> None:
        self._perform(self._talk.throw, error)
        if not self._ended.is_set():
            return  # taken over in its turn
        self._sock.close()  # the late one may never return
        watch = self._watch
        if watch is not None and watch.on_stuck is not None and not self._home.wait(watch.grace):
            logger.error("a callback has not returned after its connection has ended")
            watch.on_stuck()


def _finish(late: Late) -> None:
    """Call what had to wait for a late callback, on the thread where that ran."""
    for function, arguments in late.finish():
        try:
            function(*arguments)
        except BaseException:  # nobody waits for it
            logger.exception("the close callback failed")


def _receiver(sock: socket.socket, until: float | None) -> Callable[[float | None], bytes]:
    """Return a function that waits for bytes with a time limit.

    The limit is the kernel's own (SO_RCVTIMEO): Python's would cost a system call more for each read.
    """
    recv = sock.recv
    current: float | None = None
    size = READ_SIZE
    quickack = QUICKACK if sock.family != socket.AF_UNIX else None

    def receive(timeout: float | None) -> bytes:
        nonlocal current, size
        if until is not None:
            left = until - time.monotonic()
            if left <= 0:
                raise MilterTimeout("the connection's time is over")
            timeout = left if timeout is None else min(left, timeout)
        if timeout != current:
            _set_timeout(sock, socket.SO_RCVTIMEO, timeout)
            current = timeout
        if quickack is not None:
            # Sendmail writes macros and command in two pieces; the second waits for the first one's ACK.
            sock.setsockopt(socket.IPPROTO_TCP, quickack, 1)
        try:
            data = recv(size)
        except BlockingIOError:
            raise MilterTimeout(
                f"nothing came from the MTA for {timeout} seconds", seconds=timeout
            ) from None
        size = READ_SIZE if len(data) < READ_SIZE else LONG_READ_SIZE
        return data

    return receive


def _set_timeout(sock: socket.socket, option: int, seconds: float | None) -> None:
    endless = seconds is None or seconds == float("inf")
    whole = 0.0 if seconds is None or endless else max(seconds, 0.001)  # 0 means for ever
    sock.setsockopt(
        socket.SOL_SOCKET, option, _TIMEVAL.pack(int(whole), int(whole % 1 * 1_000_000))
    )


def prepare(sock: socket.socket, send_timeout: float) -> None:
    """Set an accepted socket up for a `Driver`.

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


def writer(sock: socket.socket) -> Callable[[bytes], None]:
    """Return a function that sends a sign of life where that needs no wait: an MTA that takes nothing waits for none.

    Any thread may call it, the one that looks after all deadlines too.
    """

    def write(data: bytes) -> None:
        try:
            sent = sock.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        while sent < len(data):  # what has been begun must be ended
            await_writable(sock.fileno())
            sent += sock.send(data[sent:])

    return write
