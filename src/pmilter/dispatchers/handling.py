"""What dispatchers serve connections with."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from pmilter.conversation import Conversation
from pmilter.dispatchers.driver import Driver, peer_name, prepare, writer
from pmilter.plan import Callback, Plan
from pmilter.program import Program
from pmilter.protocol.constants import Status
from pmilter.service import Service

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from pmilter.dispatchers.deadlines import Watch
    from pmilter.dispatchers.serving import Serving
    from pmilter.effects import Talk

logger: Final = logging.getLogger("pmilter")

REFUSAL_TIME: Final = 5.0
"""Seconds that a connection over the limit may take to be told so."""


class Handler:
    """Serves connections: call it with each accepted socket.

    Args:
        program: The filter.
        serving: The service that the connections belong to.

    Attributes:
        watch: Answers for callbacks that run out of time; a dispatcher whose threads can be waited for sets it.
        on_end: Called with each connection that has been served or refused, before it is closed: whoever sees its end may come again
            at once, and is to find its place free. A dispatcher that counts places sets it.
        at_once: Whether conversations call the callbacks by themselves, however long these take, and yield no `Call`; a dispatcher
            whose process makes one call at a time sets it, which saves work.
    """

    def __init__(self, program: Program, serving: Serving) -> None:
        self.program = program
        self.serving = serving
        self.watch: Watch | None = None
        self.on_end: Callable[[socket.socket], object] = lambda _: None
        self.at_once = False
        self._refusal = _refusal_program(program.plan)

    def __call__(self, conn: socket.socket) -> None:
        """Serve a connection on this thread to its end, and close it. Never raises."""
        self._perform(conn, self.program, None)

    def refuse(self, conn: socket.socket) -> None:
        """Tell an MTA on this thread to try again later, within 5 seconds, and close. Never raises."""
        self._perform(conn, self._refusal, REFUSAL_TIME)

    def conversation(self, peer: str, write: Callable[[bytes], object] | None = None) -> Talk:
        """Return a conversation for a dispatcher that does its own I/O.

        Args:
            peer: The MTA's end, for the log.
            write: Sends bytes at once, from any thread; without it `Context.progress` raises.
        """
        return self._converse(self.program, peer, write)

    def refusal(self, peer: str, write: Callable[[bytes], object] | None = None) -> Talk:
        """Return the conversation for a connection over the limit; it is to be ended after `REFUSAL_TIME`."""
        return self._converse(self._refusal, peer, write)

    def lost(self, error: OSError) -> None:
        """Take note of a connection that was gone before its conversation began, as those of some health probes are."""
        logger.debug("a connection was gone before it began: %s", error)
        self.serving.note_probe()

    def _converse(
        self, program: Program, peer: str, write: Callable[[bytes], object] | None
    ) -> Talk:
        service = _NO_ROOM if program is self._refusal else self.serving
        if self.at_once:
            caller = self.serving.parent.call_at_once
            return Conversation(program, peer, write=write, service=service, perform=caller).run()
        talk = Conversation(program, peer, write=write, service=service).run()
        if self.watch is not None and self.watch.shows_due:
            return talk
        return self.serving.parent.oversee(talk)

    def _perform(self, conn: socket.socket, program: Program, seconds: float | None) -> None:
        self.serving.connections.enter(conn)
        try:
            prepare(conn, program.plan.limits.frame_time)
            talk = self._converse(program, peer_name(conn, conn.family), writer(conn))
            until = None if seconds is None else time.monotonic() + seconds
            Driver(talk, conn, until=until, watch=self.watch).run()
        except OSError as error:
            self.lost(error)
        except Exception:
            logger.exception("a connection failed")
        finally:
            self.serving.connections.leave(conn)
            self.on_end(conn)
            conn.close()


def _no_room() -> Service:
    service = Service()
    service.stopping = service.refusing = True
    return service


_NO_ROOM: Final = _no_room()
"""What connections over the limit belong to: each is answered with a temporary failure at connect, and closed."""


def _refusal_program(plan: Plan) -> Program:
    """Return a filter that answers connect with a temporary failure and sees nothing else."""
    callbacks = {"connect": Callback(lambda *_: Status.TEMPFAIL)}
    return Program(
        plan._replace(callbacks=callbacks, keep=frozenset(), actions=type(plan.actions)(0))
    )
