"""Dispatchers: how connections are given to processes, threads or a loop. They perform effects and hold no milter rule.

Each is loaded when it is first asked for: a filter on threads has no need of asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pmilter.dispatchers.accepting import Listener, Stopped
from pmilter.dispatchers.handling import Handler
from pmilter.dispatchers.registry import MODULES

if TYPE_CHECKING:
    from pmilter.dispatchers.aio import asyncio_dispatcher as asyncio_dispatcher
    from pmilter.dispatchers.ithread import ithread_dispatcher as ithread_dispatcher
    from pmilter.dispatchers.postfork import postfork_dispatcher as postfork_dispatcher
    from pmilter.dispatchers.prefork import prefork_dispatcher as prefork_dispatcher
    from pmilter.dispatchers.selector import selector_dispatcher as selector_dispatcher
    from pmilter.dispatchers.sequential import sequential_dispatcher as sequential_dispatcher

__all__ = [  # noqa: PLE0604  # the factories have the names of the registry
    "Handler",
    "Listener",
    "Stopped",
    *(f"{name}_dispatcher" for name in MODULES),
]


def __getattr__(name: str) -> object:
    """Load a dispatcher's module (PEP 562)."""
    module = MODULES.get(name.removesuffix("_dispatcher"))
    if module is None or not name.endswith("_dispatcher"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)
