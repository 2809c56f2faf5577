"""Which modules may be compiled, and whether they are: the same source, as docs/acceleration.md tells."""

from __future__ import annotations

from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from typing import Final

MODULES: Final = (
    "pmilter.conversation",
    "pmilter.dispatchers.selector",
    "pmilter.dispatchers.traffic",
    "pmilter.effects",
    "pmilter.facts",
    "pmilter.intake",
    "pmilter.program",
    "pmilter.protocol.filter_session",
    "pmilter.protocol.frames",
    "pmilter.protocol.macros",
    "pmilter.protocol.terms",
    "pmilter.requests",
    "pmilter.spot",
    "pmilter.verdicts",
)
"""The modules that run for every command of every mail. The build reads this list."""


def is_compiled(name: str) -> bool:
    """Return whether a module of ours runs compiled, loading it where that has not been done yet."""
    spec = import_module(name).__spec__
    return spec is not None and isinstance(spec.loader, ExtensionFileLoader)


accelerated: bool
"""True where all of them run compiled."""


def __getattr__(name: str) -> bool:
    """Find out whether the modules are compiled when somebody asks: looking loads them (PEP 562)."""
    if name != "accelerated":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return all(map(is_compiled, MODULES))
