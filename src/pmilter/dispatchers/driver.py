"""Performs a conversation on a blocking socket, in the calling thread. Holds no milter rule."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.dispatchers.deadlines import TakenOver
from pmilter.dispatchers.pipes import await_writable
from pmilter.effects import Call, Receive, call_at_once
from pmilter.errors import MilterTimeout
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

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
_UNSET: Final = object()
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
        self._until = until
        self._watch = watch
        self._timeout: float | None = None
        self._slot: Slot | None = watch.slot(self._take_over) if watch is not None else None
        self._context = contextvars.Context()
        # Locks as events, to be released once: most conversations need neither.
        self._home = threading.Lock()
        self._ended = threading.Lock()

    def run(self) -> None:
        """Perform the conversation to its end; return when that has come and the callbacks of this thread have returned."""
        spot()  # for the threads that may follow this one
        self._context = contextvars.copy_context()
        self._home.acquire()
        self._ended.acquire()
        try:
            if not self._perform(self._talk.send, None):
                self._home.release()
                self._ended.acquire()
        finally:
            if self._watch is not None and self._slot is not None:
                self._watch.forget(self._slot)

    def _perform(  # noqa: C901  # one piece, see below
        self, resume: Callable[[Any], Any], outcome: object
    ) -> bool:
        """Go on to the end of the conversation; return False where another thread has taken a call over, and goes on.

        The usual case stands here in one piece, since it runs for every header of every mail.
        """
        talk, sock, slot = self._talk, self._sock, self._slot
        send, sendall, recv = talk.send, sock.sendall, sock.recv
        ticket: Ticket = slot.enter() if slot is not None else []
        tcp, watchful = sock.family != socket.AF_UNIX, self._until is not None
        timeout: object = _UNSET
        size = READ_SIZE
        while True:
            try:
                effect = resume(outcome)
            except StopIteration:
                return True
            resume = send
            try:
                if type(effect) is Receive:
                    if effect.answer:
                        sendall(effect.answer)
                    elif tcp:
                        acknowledge(sock)
                    if effect.timeout is not timeout or watchful:
                        timeout = effect.timeout
                        self._before_read(effect.timeout)
                    try:
                        outcome = recv(size)
                    except BlockingIOError:
                        raise self._silence() from None
                    size = READ_SIZE if len(outcome) < READ_SIZE else LONG_READ_SIZE
                elif type(effect) is not Call:
                    outcome = sendall(effect.data)
                elif slot is None:
                    outcome = call_at_once(effect)
                else:
                    outcome = slot.perform(effect, ticket)
            except TakenOver as gone:
                _finish(gone.late)
                return False
            except BaseException as error:  # noqa: BLE001  # the conversation decides what becomes of it
                resume, outcome = talk.throw, _explained(error)

    def _before_read(self, timeout: float | None) -> None:
        """Have the next read wait so long at most.

        The limit is the kernel's own (SO_RCVTIMEO): Python's would cost a system call more for each read.

        Raises:
            MilterTimeout: The peer's time is over.
        """
        if self._until is not None:
            left = self._until - time.monotonic()
            if left <= 0:
                raise MilterTimeout("the connection's time is over")
            timeout = left if timeout is None else min(left, timeout)
        if timeout != self._timeout:
            _set_timeout(self._sock, socket.SO_RCVTIMEO, timeout)
            self._timeout = timeout

    def _silence(self) -> MilterTimeout:
        """Return what to raise where the MTA has said nothing for the time that it has."""
        seconds = self._timeout
        return MilterTimeout(f"nothing came from the MTA for {seconds} seconds", seconds=seconds)

    def _take_over(self, error: CallTimedOut) -> None:
        """Carry on without the callback that is late, on a new thread."""
        run = self._context.copy().run
        threading.Thread(
            target=run, args=(self._succeed, error), name="pmilter-late", daemon=True
        ).start()

    def _succeed(self, error: CallTimedOut) -> None:
        if not self._perform(self._talk.throw, error):
            return  # taken over in its turn
        self._ended.release()
        self._sock.close()  # the late one may never return
        watch = self._watch
        if watch is None or watch.on_stuck is None:
            return
        if not self._home.acquire(timeout=watch.grace):
            logger.error("a callback has not returned after its connection has ended")
            watch.on_stuck()


def _explained(error: BaseException) -> BaseException:
    """Return what to throw into the conversation for what an effect has raised."""
    if isinstance(error, BlockingIOError):  # of sending: SO_SNDTIMEO
        return MilterTimeout("the MTA takes no more for too long")
    return error


def _finish(late: Late) -> None:
    """Call what had to wait for a late callback, on the thread where that ran."""
    for function, arguments in late.finish():
        try:
            function(*arguments)
        except BaseException:  # nobody waits for it
            logger.exception("the close callback failed")


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


def acknowledge(sock: socket.socket) -> None:
    """Acknowledge at once what has arrived over TCP; for where nothing is sent that would bring the acknowledgement along.

    Sendmail writes macros and command in two pieces, and commands that have no answer one after the other: the next one waits for
    the acknowledgement of the one before, which is delayed by 40 ms where nobody asks for it.
    """
    if _QUICKACK is not None:
        with contextlib.suppress(OSError):  # it is gone, as the next read will tell
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def peer_name(sock: socket.socket, family: int) -> str:
    """Return a connected socket's other end for the log: an address, or the process and user behind a UNIX socket.

    Args:
        sock: The socket.
        family: Its family, which costs a while to find out.
    """
    if family == socket.AF_UNIX:
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
