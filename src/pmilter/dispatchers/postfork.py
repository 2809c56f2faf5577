"""A process a connection: nothing of one connection can touch another. The default, as in Sendmail::PMilter."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.accepting import Stopped
from pmilter.dispatchers.children import Children, check_memory_limit, end_process
from pmilter.dispatchers.deadlines import Watch
from pmilter.dispatchers.overflow import (
    REFUSALS,
    Overflow,
    Place,
    Places,
    check_overflow,
    places_for,
)
from pmilter.dispatchers.scoreboard import State
from pmilter.dispatchers.supervisor import Supervisor

if TYPE_CHECKING:
    import socket

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter

_FULL_PAUSE: Final = 0.05
"""Seconds after which a full service looks whether a child has ended."""


def postfork_dispatcher(
    *, overflow: Overflow = "refuse", max_memory: int | None = None
) -> Dispatcher:
    """Return a dispatcher that forks a child for each connection.

    Args:
        overflow: What becomes of connections over `max_children` (by default over `Limits.connections`).
        max_memory: Resident bytes over which a child begins no new message; at twice as much it is killed.

    Raises:
        ConfigError: `overflow` is neither ``"refuse"`` nor ``"wait"``, or memory cannot be watched on this system.
    """
    check_overflow(overflow)
    check_memory_limit(max_memory)

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        pool = _Pool(handler, places_for(milter, handler, overflow), max_memory)
        try:
            while True:
                conn, _ = listener.accept(pool.children.look_sometimes)
                pool.start(listener, conn)
                conn.close()
                pool.await_room()
        except Stopped:
            pool.children.finish()

    return serve


class _Pool:
    """The children of one service: each serves a connection, or refuses one."""

    def __init__(self, handler: Handler, places: Places, max_memory: int | None) -> None:
        self._handler = handler
        self._places = places
        self._taken: dict[int, Place] = {}
        self._per_peer = handler.program.plan.limits.connections_per_peer is not None
        self.children = Children(
            handler.serving,
            Supervisor(0, drain_time=handler.serving.drain_time, max_memory=max_memory),
            places.most,
            watch_memory=max_memory is not None,
            on_done=self._give_place,
        )

    def start(self, listener: Listener, conn: socket.socket) -> None:
        """Have a child see to a connection."""
        self.children.look_sometimes()
        if not self._has_plenty:
            self.children.note_done()
        place = self._places.take(conn)
        if place is None:
            return
        work = partial(_work, listener, self._handler, conn, served=place.served)
        pid = self.children.start(work)
        if pid is None:
            self._places.give(place)
        else:
            self._taken[pid] = place

    @property
    def _has_plenty(self) -> bool:
        """Whether there is a place for whoever comes, though no child has given its own."""
        return not self._per_peer and len(self.children) < self._places.most - REFUSALS

    def _give_place(self, pid: int) -> None:
        self._places.give(self._taken.pop(pid))

    def _is_full(self) -> bool:
        # Children that are ending have given their places, but are there all the same.
        return self._places.full or len(self.children) >= self._places.most

    def await_room(self) -> None:
        """Return when another connection may be accepted, or the service ends."""
        while self._is_full() and not self._handler.serving.ending:
            self._handler.serving.wait(_FULL_PAUSE)
            self.children.look()


def _work(listener: Listener, handler: Handler, conn: socket.socket, *, served: bool) -> None:
    """Be a child: serve one connection."""
    listener.close()
    handler.serving.connections.enter(conn)  # first: ready without a connection means done
    handler.serving.parent.report(State.READY)
    if not served:
        handler.refuse(conn)
        return
    handler.watch = Watch(
        handler.program.plan.limits,
        on_stuck=partial(end_process, 1),
        due=handler.serving.parent.due_cell(),
    )
    handler(conn)
