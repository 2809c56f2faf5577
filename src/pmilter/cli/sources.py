"""Where the values of settings come from: the command line, the environment, a TOML file, in this order, else the defaults.

One parser makes the value, whatever it comes from; an error names where the text stands.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from pmilter.cli.misspelt import meant
from pmilter.cli.options import option_table
from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pmilter.cli.options import Option, Setting

_T = TypeVar("_T")

_ON: Final = frozenset({"1", "true", "yes", "on"})
_OFF: Final = frozenset({"0", "false", "no", "off"})

_TYPES: Final = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
"""What people call the types of values in a file."""


class _Given(NamedTuple):
    """A value as it was found."""

    value: Any
    place: str
    """Where it stands, for people."""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Sources(Generic[_T]):
    """Where the values of one table come from; they can be read any number of times.

    Attributes:
        kind: The table, a dataclass made of `option` fields.
        typed: What was typed on the command line, see `pmilter.cli.options.with_settings`.
        environ: The environment.
        file: Path of a TOML file, or None.
    """

    kind: type[_T]
    typed: Mapping[str, Any]
    environ: Mapping[str, str]
    file: Path | None = None

    def read(self) -> _T:
        """Return the settings.

        Raises:
            ConfigError: A text that cannot be a value, a key that there is not, or a file that is not there or no TOML.
            PermissionError: The file may not be read.
        """
        table = option_table(self.kind)
        keys = {} if self.file is None else _read_file(self.file, table)
        values = {}
        for setting in table:
            given = self._find(setting, keys)
            if given is not None:
                values[setting.name] = _make(setting.option, given)
        return self.kind(**values)

    def _find(self, setting: Setting, keys: Mapping[str, _Given]) -> _Given | None:
        option = setting.option
        if setting.name in self.typed:
            return _Given(self.typed[setting.name], option.flag)
        if text := self.environ.get(option.variable):
            return _Given(_from_text(option, text), option.variable)
        return keys.get(option.key)


# --- the file


def _read_file(path: Path, table: list[Setting]) -> dict[str, _Given]:
    """Return what a file gives, by key."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except PermissionError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", source=str(path)) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no TOML file: {error}", source=str(path)) from error
    options = {setting.option.key: setting.option for setting in table}
    given = {}
    for written, value in document.items():
        line = _line_of(written, text)
        place = f"{path}, line {line}: {written}" if line else f"{path}: {written}"
        key = written.replace("_", "-")
        if key not in options:
            raise _unknown(path, line, written, list(options))
        try:
            given[key] = _Given(_checked(options[key], value), place, line)
        except ValueError as error:
            told = f"{place}: {error}{_as_text(options[key], value, line, text)}"
            raise ConfigError(told, source=str(path), line=line) from None
    return given


def _unknown(path: Path, line: int | None, written: str, keys: list[str]) -> ConfigError:
    where = f"{path}, line {line}" if line else str(path)
    shown = {key: repr(key) for key in keys}
    return ConfigError(
        f"{where}: there is no key {written!r}{meant(written.replace('_', '-'), shown)}",
        source=str(path),
        line=line,
    )


def _line_of(key: str, text: str) -> int | None:
    """Return the number of the line that a key of a file stands in, or None where it is written in some other way."""
    pattern = re.compile(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    lines = enumerate(text.splitlines(), 1)
    return next((number for number, line in lines if pattern.match(line)), None)


def _checked(option: Option, value: Any) -> Any:
    """Return a value of a file; lists are for options that can be repeated."""
    kinds = (bool,) if option.switch else option.kinds
    values = value if option.repeated and isinstance(value, list) else [value]
    if not values:
        raise ValueError(
            "an empty list would be the same as no such line, and restrict nothing; name something in it, or leave the line out"
        )
    for one in values:
        if type(one) not in kinds:
            found = _TYPES.get(type(one), "a date or time")
            raise ValueError(f"{found} does not fit, it must be {_wanted(kinds)}")
    return tuple(values) if option.repeated else value


def _wanted(kinds: tuple[type, ...]) -> str:
    """Return what people call types that a value may have."""
    told = [kind for kind in kinds if kind is not int or float not in kinds]
    return " or ".join(_TYPES[kind] for kind in told)


def _as_text(option: Option, value: Any, line: int | None, text: str) -> str:
    """Return how to write a number that should have been text; as it stands in the file, since 0o660 is read as 432."""
    if option.kinds != (str,) or type(value) is not int or line is None:
        return ""
    written = re.search(r"=\s*(\w+)", text.splitlines()[line - 1])
    return f': write "{written[1]}"' if written else ""


# --- the value


def _from_text(option: Option, text: str) -> Any:
    """Return what an environment variable gives, as the command line would."""
    return tuple(re.split(r"[\s,]+", text.strip(" ,"))) if option.repeated else text


def _make(option: Option, given: _Given) -> Any:
    """Make the value of what was given."""
    try:
        if option.switch:
            return _switched(str(given.value))
        if option.repeated:
            return tuple(_parse(option, str(one)) for one in given.value)
        return _parse(option, str(given.value))
    except ValueError as error:
        raise ConfigError(f"{given.place}: {error}", source=given.place, line=given.line) from error


def _parse(option: Option, text: str) -> Any:
    if not option.choices:
        return option.parse(text)
    if text.lower() not in option.choices:
        raise ValueError(f"{text!r} is not one of {', '.join(option.choices)}")
    return option.parse(text.lower())


def _switched(text: str) -> bool:
    if text.lower() not in _ON | _OFF:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in _ON


def differences(before: Any, after: Any) -> Iterator[Setting]:
    """Yield the settings that differ between two instances of one table."""
    for setting in option_table(type(before)):
        if getattr(before, setting.name) != getattr(after, setting.name):
            yield setting
