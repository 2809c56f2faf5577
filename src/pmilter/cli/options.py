"""The settings of a verb as one table, from which come its options, environment variables, file, help and reference page.

The table is a frozen dataclass, a field a setting; what there is to know of it beside name and default is the field's metadata:

    listen: Address | None = field(default=None, metadata=option("--listen", help="Where to listen."))
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import wraps
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY: Final = "option"
VARIABLE_PREFIX: Final = "PMILTER_"


@dataclass(frozen=True, slots=True)
class Option:
    """What there is to know of one setting beside its name and default, which are the dataclass field's.

    Attributes:
        flags: How it is spelled on the command line.
        help: What it does, for people.
        metavar: What its value is called in the help.
        parse: Makes the value of its text; raises ValueError for a text that cannot be one.
        choices: All values that it may have; empty where there are too many to list.
        kinds: Types that its value may have in a file.
        repeated: It may be given several times; its value is a tuple.
        switch: It is on or off, and has no text.
        restart: A process that serves cannot change it.
        heading: What it is listed under.
        otherwise: What holds where it is not given, for people.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = "TEXT"
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] = ()
    kinds: tuple[type, ...] = (str,)
    repeated: bool = False
    switch: bool = False
    restart: bool = False
    heading: str = "Options"
    otherwise: str | None = None

    @property
    def flag(self) -> str:
        """Its long spelling on the command line."""
        return self.flags[-1]

    @property
    def key(self) -> str:
        """What it is called in a file."""
        return self.flag.removeprefix("--")

    @property
    def variable(self) -> str:
        """The environment variable that it is taken from."""
        return VARIABLE_PREFIX + self.key.upper().replace("-", "_")

    @property
    def form(self) -> str:
        """What its value looks like, for people; empty for a switch."""
        if self.switch:
            return ""
        return f"[{'|'.join(self.choices)}]" if self.choices else self.metavar


class Setting(NamedTuple):
    """One row of a table."""

    name: str
    """Name of the dataclass field."""
    option: Option
    default: Any

    @property
    def otherwise(self) -> str | None:
        """What holds where it is not given, for people, or None where its help says so."""
        if self.option.otherwise is None and self.default not in {None, ()}:
            return str(self.default)
        return self.option.otherwise


def option(*flags: str, **details: Any) -> dict[str, Option]:
    """Return the metadata of one setting's dataclass field; arguments as for `Option`."""
    return {_KEY: Option(flags, **details)}


def option_table(kind: type[Any]) -> list[Setting]:
    """Return the settings in a dataclass, in order."""
    return [Setting(one.name, one.metadata[_KEY], one.default) for one in fields(kind)]


def with_settings(kind: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a click command the options of a dataclass.

    The function is called with one more argument, ``typed``: the values on the command line by name of the setting, as texts, tuples
    of texts, or True and False for switches. What was not typed is not in it.

    Args:
        kind: A dataclass made of `option` fields.
    """
    table = option_table(kind)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def gathered(**values: Any) -> Any:
            given = {setting.name: values.pop(setting.name) for setting in table}
            typed = {name: value for name, value in given.items() if value not in {None, ()}}
            return function(typed=typed, **values)

        command: Any = gathered
        for setting in reversed(table):
            command = _click_option(setting)(command)
        return command  # type: ignore[no-any-return]  # what click gives back is the function that it was given

    return decorate


def _click_option(setting: Setting) -> Callable[[Any], Any]:
    one = setting.option
    if one.switch:
        spelled = f"{one.flag}/--no-{one.key}"
        return click.option(
            *one.flags[:-1], spelled, setting.name, default=None, help=_help(setting)
        )
    return click.option(
        *one.flags,
        setting.name,
        type=str,
        default=None,
        multiple=one.repeated,
        help=_help(setting),
        metavar=one.form,
    )


def _help(setting: Setting) -> str:
    return setting.option.help + (f"  [default: {setting.otherwise}]" if setting.otherwise else "")


class SettingsCommand(click.Command):
    """A command whose help lists the settings of a table under their headings.

    Args:
        table: The settings.
        arguments, others: As for `click.Command`.
    """

    def __init__(self, *arguments: Any, table: list[Setting], **others: Any) -> None:
        super().__init__(*arguments, **others)
        self._headings = {setting.name: setting.option.heading for setting in table}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the settings under their headings, then the other options."""
        parameters = sorted(self.get_params(ctx), key=lambda one: one.name not in self._headings)
        for heading, group in groupby(parameters, self._heading):
            rows = [row for one in group if (row := one.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def _heading(self, parameter: click.Parameter) -> str:
        return self._headings.get(str(parameter.name), "Other options")
