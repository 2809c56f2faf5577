"""Serves a filter so that its program can be exchanged while it serves, for `pmilter run`.

The parent holds the socket and loads nothing of the user's. It forks a process that does, a *generation*, which serves with the
dispatcher of its choice. SIGHUP starts another one, which takes over when it has loaded and proved itself; the one before then accepts
no more, serves the connections that it has to their end, and ends.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import TYPE_CHECKING, Final

from pmilter.dispatchers.children import Children, check_memory_limit, end_process
from pmilter.dispatchers.notify import Notifier
from pmilter.dispatchers.registry import choose_dispatcher
from pmilter.dispatchers.serving import Serving
from pmilter.dispatchers.signals import signals_to
from pmilter.dispatchers.supervisor import Began, Refused, Supervisor
from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.listening import ListeningSocket
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

LOAD_TIME: Final = 60.0
DRAIN_TIME: Final = 600.0
LINGER: Final = 20.0
"""An MTA that has begun an SMTP session mostly ends it well within that."""

_FAILED: Final = 2
_QUIT_TIME: Final = 3.0
"""Seconds for a generation to end its own children."""

_MOST: Final = 64
"""Generations that may exist at a time, those included that finish their last connections."""


def serve_generations(
    load: Callable[[], Milter],
    bound: ListeningSocket,
    prove: Callable[[Milter], object],
    *,
    max_children: int = 0,
    max_requests: int = 0,
    load_time: float = LOAD_TIME,
    drain_time: float = DRAIN_TIME,
    linger: float = LINGER,
    max_memory: int | None = None,
) -> None:
    """Serve until stopped by a signal or by the filter's own `stop`; then close the socket, and remove its path.

    Where the socket was handed in, it outlives the service, and whoever connects from then on waits for the next one. So nobody
    need be turned away by a restart: a first SIGTERM or SIGINT lets open connections go on for the time `linger`, new messages
    included. A second signal ends that.

    SIGHUP loads the program anew. Where it fails to load or to prove itself, that is logged, and the one before goes on. To be
    called in the main thread of a process without other threads.

    Args:
        load: Loads the program and returns its filter, without a socket. Called in a process of its own each time.
        bound: The socket.
        prove: Called with each filter that was loaded; raises where that should not serve. See `pmilter.testing.trial`.
        max_children: As for `Milter.main`.
        max_requests: As for `Milter.main`.
        load_time: Seconds in which a program must have loaded and proved itself.
        drain_time: Seconds that the connections of an old generation get to end by themselves; then open messages are finished, and
            what follows them is refused for the moment.
        linger: Seconds that open connections get to end by themselves after a first SIGTERM, where the socket was handed in; then
            as above.
        max_memory: Resident bytes of the generation's own process over which it is replaced, or None.

    Raises:
        ConfigError: The program failed to load or to prove itself the first time, or `max_memory` cannot be watched.
    """
    check_memory_limit(max_memory)
    lingering = min(linger, drain_time) if bound.handed_in else None
    serving = Serving(grace=0.0, drain_time=drain_time, linger=lingering)
    supervisor = Supervisor(
        1,
        start_time=load_time,
        drain_time=drain_time,
        quit_time=_QUIT_TIME,
        max_memory=max_memory,
        must_start=True,
    )
    overseer = _Overseer(serving, supervisor, str(bound.address))
    serve = partial(_serve, serving, load, bound, prove, max_children, max_requests)
    children = Children(
        serving,
        supervisor,
        _MOST,
        serve,
        watch_memory=max_memory is not None,
        on_event=overseer.note,
    )
    try:
        with signals_to(serving):
            children.run(partial(_end_accepting, serving, bound))
    finally:
        bound.close()
        serving.close()
    if supervisor.failure is not None:
        raise ConfigError(supervisor.failure)


def _end_accepting(serving: Serving, bound: ListeningSocket) -> None:
    if serving.ending:  # else the first program could not serve, of which its error tells
        logger.info("stopping: no more connections are accepted on %s", bound.address)
    bound.close()


class _Overseer:
    """Tells log and service manager what becomes of generations, and starts one on SIGHUP."""

    def __init__(self, serving: Serving, supervisor: Supervisor, address: str) -> None:
        self._supervisor = supervisor
        self._address = address
        self._notifier = serving.notifier = Notifier.from_environment(take=True)
        serving.errands.on_hup = self._reload

    def _reload(self) -> None:
        logger.info("loading the program anew")
        self._notifier.reloading("Loading the program anew")
        self._supervisor.reload()

    def note(self, event: Began | Refused) -> None:
        """Take note of what became of a generation."""
        if isinstance(event, Began):
            logger.info("generation %d serves on %s", event.generation, self._address)
            self._notifier.ready(f"Generation {event.generation} serves on {self._address}")
        else:
            message = "the program was not loaded anew, the one before goes on: %s"
            logger.error(message, event.reason)
            self._notifier.ready(message % event.reason)


def _serve(
    outer: Serving,
    load: Callable[[], Milter],
    bound: ListeningSocket,
    prove: Callable[[Milter], object],
    max_children: int,
    max_requests: int,
) -> None:
    """Be a generation."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # until it serves, it can end at any time
    try:
        milter = load()
        prove(milter)
        milter.set_socket(bound.socket)
        milter.set_dispatcher(_under(outer, choose_dispatcher(milter)))
        milter.main(max_children, max_requests)
    except BaseException as error:  # noqa: BLE001  # whatever the program raises, the parent is told of it
        _explain(outer, error)
        end_process(_FAILED)


def _explain(outer: Serving, error: BaseException) -> None:
    """Tell the parent why the program cannot serve."""
    text = str(error)
    if not isinstance(error, ConfigError):
        logger.error("the program cannot serve", exc_info=error)
        text = f"{type(error).__name__}: {error}"
    if outer.parent.line is not None:
        outer.parent.line.wake_parent(text)


def _under(outer: Serving, dispatcher: Dispatcher) -> Dispatcher:
    """Return a dispatcher that serves as another does, as the child of a supervising process."""

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        handler.serving.take_place_of(outer)
        dispatcher(milter, listener, handler)

    serve.runs_coroutines = getattr(dispatcher, "runs_coroutines", False)  # type: ignore[attr-defined]  # read by choose_dispatcher
    return serve
