"""Puts settings into force on a filter; what is not given stays as the program has it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from pmilter.cli.values import NEVER
from pmilter.dispatchers.registry import check_coroutines, dispatcher_named
from pmilter.errors import ConfigError
from pmilter.protocol.rules import STAGES

if TYPE_CHECKING:
    from pmilter.cli.settings import RunSettings
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter

ASYNCIO: Final = "asyncio"


def apply(settings: RunSettings, milter: Milter) -> None:
    """Put settings into force on a filter that does not serve yet.

    Raises:
        ConfigError: They do not go together, or not with this filter.
    """
    plan = milter.plan()
    milter.set_limits(plan.limits.replace(**settings.limits()))
    if settings.fallback:
        milter.set_fallback(dict(plan.fallback) | _fallbacks(settings))
    if settings.allow:
        milter.allow_peers(*settings.allow)
    if settings.timeout is not None:
        milter.settimeout(None if settings.timeout is NEVER else settings.timeout)
    milter.set_dispatcher(_dispatcher(settings, milter))


def _fallbacks(settings: RunSettings) -> dict[str, Any]:
    """Return the fallback of each stage that has one in the settings; those for one stage go before those for all."""
    everywhere = [one.answer for one in settings.fallback if one.stage is None]
    chosen = dict.fromkeys(STAGES, everywhere[-1]) if everywhere else {}
    return chosen | {one.stage: one.answer for one in settings.fallback if one.stage is not None}


# --- the dispatcher


def dispatcher_name(settings: RunSettings, milter: Milter) -> str | None:
    """Return the name of the dispatcher that serves, or that the workers serve with; None for the program's own."""
    if settings.dispatcher is not None:
        return settings.dispatcher
    if milter.dispatcher is not None:
        return None
    return ASYNCIO if milter.coroutine_stages() else "postfork"


def _dispatcher(settings: RunSettings, milter: Milter) -> Dispatcher:
    name = dispatcher_name(settings, milter)
    if settings.uvloop and name != ASYNCIO:
        found = name or "the one that the program has set"
        raise ConfigError(f"--uvloop is for the dispatcher asyncio, not for {found}")
    if name is None:
        assert milter.dispatcher is not None
        inner = milter.dispatcher
    else:
        inner = dispatcher_named(name, **_parameters(settings, name))
    check_coroutines(milter, inner, f"the dispatcher {name or 'that the program has set'}")
    if not settings.workers:
        return inner
    return _in_workers(settings, None if name == "prefork" else inner)


def _parameters(settings: RunSettings, name: str) -> dict[str, Any]:
    if name == ASYNCIO:
        return {"uvloop": bool(settings.uvloop)}
    if name in {"postfork", "prefork"}:
        return {"max_memory": settings.max_memory}
    return {}


def _in_workers(settings: RunSettings, inner: Dispatcher | None) -> Dispatcher:
    """Return a dispatcher that serves in a fixed number of processes, as another does in one; None: as prefork by itself."""
    if settings.max_children:
        raise ConfigError(
            "--max-children does not go with --workers: their number is that of the processes, and --connections is the most "
            "connections of each"
        )
    return dispatcher_named(
        "prefork",
        worker=inner,
        max_children=settings.workers,
        max_requests_per_child=settings.max_requests or sys.maxsize,
        max_memory=settings.max_memory,
    )
