"""Finds the dispatcher that a filter is to be served by."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler
    from pmilter.milter import Milter

    Dispatcher = Callable[[Milter, Listener, Handler], None]
    """Serves a filter: takes connections from the listener, has the handler serve them, until accept raises `Stopped`."""

ENVIRONMENT: Final = "PMILTER_DISPATCHER"

MODULES: Final = {
    "asyncio": "pmilter.dispatchers.aio",
    "postfork": "pmilter.dispatchers.postfork",
    "prefork": "pmilter.dispatchers.prefork",
    "ithread": "pmilter.dispatchers.ithread",
    "sequential": "pmilter.dispatchers.sequential",
    "selector": "pmilter.dispatchers.selector",
}
"""Name -> module, which has a function ``<name>_dispatcher``."""

_DEFAULT: Final = "postfork"


def dispatcher_named(name: str, **parameters: Any) -> Dispatcher:
    """Return the dispatcher of a name.

    Args:
        name: Its name.
        **parameters: What its function takes; by default all as it is by default.

    Raises:
        ConfigError: There is none of this name, or a parameter is wrong.
    """
    if name not in MODULES:
        raise ConfigError(
            f"unknown dispatcher {name!r}; there are {', '.join(MODULES)}", source=name
        )
    factory: Callable[..., Dispatcher] = getattr(import_module(MODULES[name]), f"{name}_dispatcher")
    return factory(**parameters)


def choose_dispatcher(milter: Milter) -> Dispatcher:
    """Return the dispatcher that was set, or that the environment names, or the default.

    Raises:
        ConfigError: The environment names one that there is not, or it cannot run this filter's coroutine callbacks.
    """
    name = os.environ.get(ENVIRONMENT) or ("asyncio" if milter.coroutine_stages() else _DEFAULT)
    dispatcher = milter.dispatcher or dispatcher_named(name)
    check_coroutines(
        milter, dispatcher, "its dispatcher" if milter.dispatcher else f"the dispatcher {name}"
    )
    return dispatcher


def check_coroutines(milter: Milter, dispatcher: Dispatcher, name: str) -> None:
    """Check that a dispatcher can run a filter's coroutine callbacks, if it has any.

    Args:
        milter: The filter.
        dispatcher: The dispatcher.
        name: What to call it.

    Raises:
        ConfigError: It cannot.
    """
    stages = milter.coroutine_stages()
    if stages and not getattr(dispatcher, "runs_coroutines", False):
        raise ConfigError(
            f"the {', '.join(stages)} callback is a coroutine function, which {name} cannot run: use the dispatcher asyncio "
            f"(pmilter run --dispatcher asyncio, or {ENVIRONMENT}=asyncio)"
        )
