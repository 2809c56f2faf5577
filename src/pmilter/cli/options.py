"""The settings of a verb as one table, and the command-line options that are made from it.

The table is a frozen dataclass, a field a setting; what the command line needs to know of it is the field's metadata:

    listen: Address | None = field(default=None, metadata=option("--listen", help="Where to listen."))
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY: Final = "option"

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class Option:
    """What there is to know of one setting beside its name and default, which are the dataclass field's.

    Attributes:
        flags: How it is spelled on the command line.
        help: What it does, for people.
        metavar: What its value is called in the help.
        parse: Makes the value of its text; raises ValueError for a text that cannot be one.
        choices: All values that it may have; empty where there are too many to list.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = "TEXT"
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()


def option(*flags: str, **details: Any) -> dict[str, Option]:
    """Return the metadata of one setting's dataclass field; arguments as for `Option`."""
    return {_KEY: Option(flags, **details)}


def option_table(kind: type[Any]) -> list[tuple[str, Option, Any]]:
    """Return the settings in a dataclass as (name, option, default), in order."""
    return [(one.name, one.metadata[_KEY], one.default) for one in fields(kind)]


def with_settings(kind: type[_T]) -> Callable[[_Function], _Function]:
    """Return a decorator that gives a click command the options of a dataclass.

    The function is called with one more argument, ``settings``, which is an instance of the dataclass.

    Args:
        kind: A dataclass made of `option` fields.
    """
    table = option_table(kind)

    def decorate(function: _Function) -> _Function:
        @wraps(function)
        def gathered(**values: Any) -> Any:
            settings = kind(**{name: values.pop(name) for name, _, _ in table})
            return function(settings=settings, **values)

        command: Any = gathered
        for name, one, default in reversed(table):
            command = _click_option(name, one, default)(command)
        return command  # type: ignore[no-any-return]  # what click gives back is the function that it was given

    return decorate


def _click_option(name: str, one: Option, default: Any) -> Callable[[Any], Any]:
    kind = click.Choice(one.choices, case_sensitive=False) if one.choices else str
    return click.option(
        *one.flags,
        name,
        type=kind,
        callback=partial(_parse, one),
        default=default,
        show_default=default is not None,
        help=one.help,
        metavar=None if one.choices else one.metavar,
    )


def _parse(one: Option, _context: click.Context, _parameter: click.Parameter, text: Any) -> Any:
    """Make the value of a setting of what was typed."""
    try:
        return None if text is None else one.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
