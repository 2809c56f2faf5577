"""A fixed number of processes that all accept: no fork while an MTA waits. As in Sendmail::PMilter, with any dispatcher in each."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from pmilter.dispatchers.accepting import Listener, Stopped
from pmilter.dispatchers.children import Children, check_memory_limit
from pmilter.dispatchers.sequential import sequential_dispatcher
from pmilter.dispatchers.supervisor import Supervisor
from pmilter.errors import ConfigError
from pmilter.limits import check_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.handling import Handler
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

DEFAULT_CHILDREN: Final = 10
DEFAULT_REQUESTS: Final = 100

_START_TIME: Final = 300.0
"""Seconds that `child_init` may take."""

_ROOM: Final = 4
"""Multiple of the number of children that may exist at a time, those included that finish their last connections."""


def prefork_dispatcher(
    *,
    child_init: Callable[[Milter], object] | None = None,
    child_exit: Callable[..., object] | None = None,
    milter_exit: Callable[[Milter], object] | None = None,
    max_children: int = 0,
    max_requests_per_child: int = 0,
    worker: Dispatcher | None = None,
    max_memory: int | None = None,
) -> Dispatcher:
    """Return a dispatcher that keeps a number of children, each of which serves connections by itself.

    A child that ends, in whatever way, is replaced; after failures ever more slowly, up to ten seconds apart. One that is stuck in a
    callback beyond `Limits.command_time` or `Limits.eom_time` is killed, since nothing else would end its wait.

    Args:
        child_init: Called as ``child_init(milter)`` in each child before its first connection. Where it raises, the child ends.
        child_exit: Called as ``child_exit(milter, requests, max_requests)``, or with the first argument only where it takes no
            more, in each child when it ends, unless it is killed.
        milter_exit: Called as ``milter_exit(milter)`` in the parent when all children have ended.
        max_children: How many children, where `Milter.main` is given no number; 0 for 10.
        max_requests_per_child: Connections after which a child is replaced, where `Milter.main` is given no number; 0 for 100.
        worker: How a child serves; by default one connection after the other, while others wait in the backlog.
        max_memory: Resident bytes over which a child is replaced: it finishes what it has, or is killed at twice as much.

    Raises:
        ConfigError: A number is below 0, a hook takes other arguments, or memory cannot be watched on this system.
        TypeError: An argument of another type.
    """
    numbers = {"max_children": max_children, "max_requests_per_child": max_requests_per_child}
    for name, value in numbers.items():
        check_whole(name, value, 0)
    check_memory_limit(max_memory)
    hooks = _Hooks(
        _fitting("child_init", child_init, 1),
        _fitting("child_exit", child_exit, 3),
        _fitting("milter_exit", milter_exit, 1),
    )
    inner = worker or sequential_dispatcher()

    def serve(milter: Milter, listener: Listener, handler: Handler) -> None:
        size = milter.get_max_interpreters() or max_children or DEFAULT_CHILDREN
        most = milter.get_max_requests() or max_requests_per_child or DEFAULT_REQUESTS
        children = Children(
            handler.serving,
            Supervisor(
                size,
                start_time=_START_TIME,
                drain_time=handler.serving.drain_time,
                max_memory=max_memory,
            ),
            _ROOM * size,
            partial(_work, milter, listener, handler, inner, hooks, most),
            watch_memory=max_memory is not None,
            on_event=lambda _: handler.serving.note_ready(),
        )
        try:
            children.run(listener.close)
        finally:
            _call("milter_exit", hooks.milter_exit, milter)

    serve.runs_coroutines = getattr(inner, "runs_coroutines", False)  # type: ignore[attr-defined]  # read by choose_dispatcher
    return serve


class _Hooks(NamedTuple):
    """What the user wants called."""

    child_init: Callable[..., object]
    child_exit: Callable[..., object]
    milter_exit: Callable[..., object]


def _work(
    milter: Milter,
    listener: Listener,
    handler: Handler,
    worker: Dispatcher,
    hooks: _Hooks,
    most: int,
) -> None:
    """Be a child."""
    serving = handler.serving
    hooks.child_init(milter)
    try:
        own = Listener(listener.socket, serving, most)
        worker(cast("Milter", _Worker(milter)), own, handler)
    except Stopped:
        pass
    finally:
        _call("child_exit", hooks.child_exit, milter, serving.connections.requests, most)


class _Worker:
    """Stands before a filter for the dispatcher within a child: `max_children` counts processes, not the connections of one."""

    def __init__(self, milter: Milter) -> None:
        self._milter = milter

    def get_max_interpreters(self) -> int:
        """Return 0: no number was given for the connections of one process."""
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._milter, name)


def _fitting(
    name: str, hook: Callable[..., object] | None, arguments: int
) -> Callable[..., object]:
    """Return a hook that can be called with so many arguments: where it takes only the first, it is given that.

    Raises:
        ConfigError: It takes neither.
        TypeError: It cannot be called at all.
    """
    if hook is None:
        return lambda *_: None
    if not callable(hook):
        raise TypeError(f"{name} must be callable, not {hook!r}")
    try:
        signature = inspect.signature(hook)
    except (ValueError, TypeError):  # written in C, and says nothing of its arguments
        return hook
    if _takes(signature, arguments):
        return hook
    if _takes(signature, 1):
        return lambda milter, *_: hook(milter)
    raise ConfigError(f"{name} is called with the milter, it takes {signature}", source=name)


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _call(name: str, hook: Callable[..., object], *arguments: object) -> None:
    """Call a hook at the end, which nothing that it raises may prevent."""
    try:
        hook(*arguments)
    except BaseException:
        logger.exception("%s failed", name)
