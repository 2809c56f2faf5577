from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import ConfigError
from pmilter.callbacks import (
    SIGNATURES,
    check_callback,
    is_coroutine_callback,
    resolve_callbacks,
)
from pmilter.protocol.rules import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable

ARGUMENTS = {
    "negotiate": 3,
    "connect": 3,
    "helo": 2,
    "envfrom": 2,
    "envrcpt": 2,
    "data": 1,
    "unknown": 2,
    "header": 3,
    "eoh": 1,
    "body": 2,
    "eom": 1,
    "abort": 1,
    "close": 1,
}


def taking(count: int) -> Callable[..., Any]:
    """Return a function of so many positional arguments."""
    functions: list[Callable[..., Any]] = [
        lambda: None,
        lambda a: None,
        lambda a, b: None,
        lambda a, b, c: None,
        lambda a, b, c, d: None,
    ]
    return functions[count]


def test_every_stage_has_a_signature() -> None:
    assert set(SIGNATURES) == set(STAGES) == set(ARGUMENTS)


@pytest.mark.parametrize(("stage", "count"), ARGUMENTS.items())
def test_too_few_and_too_many_parameters_are_refused(stage: str, count: int) -> None:
    for wrong in (count - 1, count + 1):
        with pytest.raises(ConfigError, match=f"^the {stage} callback") as caught:
            check_callback(stage, taking(wrong))
        assert caught.value.source == stage


@pytest.mark.parametrize(
    ("stage", "count"), [(s, n) for s, n in ARGUMENTS.items() if not s.startswith("env")]
)
def test_right_number_of_parameters_passes(stage: str, count: int) -> None:
    check_callback(stage, taking(count))


@pytest.mark.parametrize("stage", ["envfrom", "envrcpt"])
def test_envelope_callback_must_take_parameters_of_the_command(stage: str) -> None:
    with pytest.raises(ConfigError, match=r"\*args"):
        check_callback(stage, lambda ctx, address: None)
    check_callback(stage, lambda ctx, address, *args: None)
    check_callback(stage, lambda *args: None)


class Filter:
    def method(self, ctx: object) -> None: ...

    def __call__(self, ctx: object) -> None: ...

    async def coroutine(self, ctx: object) -> None: ...


class AsyncFilter:
    async def __call__(self, ctx: object) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        Filter().method,
        Filter(),
        Filter().coroutine,
        partial(lambda extra, ctx: None, 1),
        lambda ctx, optional=None: None,
        lambda ctx, **options: None,
    ],
)
def test_any_callable_that_can_take_the_arguments_passes(function: Any) -> None:
    check_callback("eom", function)


@pytest.mark.parametrize("function", [lambda ctx, *, needed: None, lambda: None, Filter.method])
def test_callable_that_cannot_take_them_is_refused(function: Any) -> None:
    with pytest.raises(ConfigError):
        check_callback("eom", function)


def test_what_is_not_callable_is_refused() -> None:
    with pytest.raises(ConfigError, match="the eom callback must be callable"):
        check_callback("eom", "eom_callback")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("function", "is_coroutine"),
    [
        (Filter().coroutine, True),
        (AsyncFilter(), True),
        (partial(Filter().coroutine), True),
        (partial(partial(AsyncFilter())), True),
        (Filter().method, False),
        (Filter(), False),
        (partial(Filter()), False),
        (print, False),
    ],
)
def test_coroutine_functions_are_recognised(function: Any, is_coroutine: bool) -> None:
    assert is_coroutine_callback(function) is is_coroutine


def handle_eom(ctx: object) -> None: ...


def test_callables_names_and_the_look_up_of_the_module() -> None:
    namespace = {
        "__name__": "some.module",
        "my_eom": handle_eom,
        "helo_callback": (helo := taking(2)),
        "eom_callback": taking(1),
        "unrelated": 5,
    }
    body = taking(2)
    found = resolve_callbacks({"body": body, "eom": "my_eom"}, namespace)
    assert found == {"helo": helo, "body": body, "eom": handle_eom}


def test_name_that_is_not_in_the_module_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"eom callback 'gone' is not a function of some\.module"):
        resolve_callbacks({"eom": "gone"}, {"__name__": "some.module"})


def test_unknown_stage_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown stage rcpt; the stages are .*envrcpt"):
        resolve_callbacks({"rcpt": taking(1)}, {})


def test_function_found_by_name_is_checked_too() -> None:
    with pytest.raises(ConfigError, match="the eom callback is called as"):
        resolve_callbacks({}, {"eom_callback": taking(2)})
