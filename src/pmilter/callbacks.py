"""Checks on the functions that become callbacks, so that mistakes show at the start and not with the first mail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pmilter.errors import ConfigError
from pmilter.protocol.rules import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ENVELOPE: Final = frozenset({"envfrom", "envrcpt"})

SIGNATURES: Final[dict[str, tuple[str, ...]]] = {
    "negotiate": ("ctx", "offer", "choice"),
    "connect": ("ctx", "hostname", "address"),
    "helo": ("ctx", "name"),
    "envfrom": ("ctx", "address", "*args"),
    "envrcpt": ("ctx", "address", "*args"),
    "data": ("ctx",),
    "unknown": ("ctx", "command"),
    "header": ("ctx", "name", "value"),
    "eoh": ("ctx",),
    "body": ("ctx", "chunk"),
    "eom": ("ctx",),
    "abort": ("ctx",),
    "close": ("ctx",),
}
"""What each stage's callback is called with."""


def check_callback(stage: str, function: Callable[..., Any]) -> None:
    """Raise where a callable cannot take a stage's arguments; what has no readable signature passes.

    Raises:
        ConfigError: It is not callable, or takes other arguments.
    """
    if not callable(function):
        raise ConfigError(f"the {stage} callback must be callable, not {function!r}", source=stage)
    import inspect  # costs as much as all of pmilter, and no filter needs it before it is defined

    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return
    counts = (2, 300) if stage in _ENVELOPE else (len(SIGNATURES[stage]),)
    try:
        for count in counts:
            signature.bind(*[None] * count)
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        wanted = ", ".join(SIGNATURES[stage])
        raise ConfigError(
            f"the {stage} callback is called as {name}({wanted}), it takes {signature}",
            source=stage,
        ) from error


def is_coroutine_callback(function: Callable[..., Any]) -> bool:
    """Return whether a callback is a coroutine function, also where it is a callable object or a partial of one."""
    import inspect  # as above

    while hasattr(function, "func"):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004  # not whether it can be called, but what that runs
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def resolve_callbacks(
    callbacks: Mapping[str, Callable[..., Any] | str], namespace: Mapping[str, Any]
) -> dict[str, Callable[..., Any]]:
    """Return callables by stage: those given, names looked up in a module, and ``<stage>_callback`` of that module.

    Args:
        callbacks: Stage -> callable or name.
        namespace: The module's globals.

    Raises:
        ConfigError: An unknown stage, a name that is not in the module, or a function that takes other arguments.
    """
    if unknown := set(callbacks) - set(STAGES):
        raise ConfigError(
            f"unknown stage {', '.join(sorted(map(str, unknown)))}; the stages are {', '.join(STAGES)}"
        )
    functions: dict[str, Callable[..., Any]] = {}
    for stage in STAGES:
        if stage in callbacks:
            functions[stage] = _resolve(stage, callbacks[stage], namespace)
        elif (found := namespace.get(f"{stage}_callback")) is not None:
            functions[stage] = found
    for stage, function in functions.items():
        check_callback(stage, function)
    return functions


def _resolve(
    stage: str, given: Callable[..., Any] | str, namespace: Mapping[str, Any]
) -> Callable[..., Any]:
    if not isinstance(given, str):
        return given
    function: Callable[..., Any] | None = namespace.get(given)
    if function is None:
        module = namespace.get("__name__", "the caller's module")
        raise ConfigError(
            f"the {stage} callback {given!r} is not a function of {module}", source=given
        )
    return function
