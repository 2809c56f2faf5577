"""What sendmail.cf says: where a filter is, the members of a class, the value of an option.

Lines are read as Sendmail reads them: a line that begins with a blank or tab goes on with the one before, ``#`` begins a comment line,
fields are separated by commas with blanks around them, and only the first letter of a field's key counts. Macros are not expanded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIZE: Final = 16 * 1024 * 1024
"""Largest file that is read, in bytes."""

_CLASS_NAME: Final = re.compile(r"\{([^}]*)\}|(.)", re.DOTALL)
_MAP_FORM: Final = re.compile(r"[^/\s]*@|(?:[a-z0-9_]+):", re.IGNORECASE)
_UNTIL_HASH: Final = frozenset({r"%[^\#]", "%[^#]"})


class Line(NamedTuple):
    """One logical line."""

    number: int
    """Where it begins, counted from 1."""
    text: str
    """Its text, continuations joined by a blank, without blanks at the end."""


def find_connection(name: str, path: str) -> str | None:
    """Return the address (``S=``) that the ``X`` line of a filter gives; the first that has one, or None.

    Args:
        name: Name of the filter, exactly.
        path: The sendmail.cf.

    Raises:
        ConfigError: The file cannot be read.
    """
    for line in read_lines(path):
        if line.text.startswith("X"):
            found, *fields = (field.strip() for field in line.text[1:].split(","))
            if found == name and (address := _field(fields, "S")):
                return address
    return None


def _field(fields: list[str], letter: str) -> str | None:
    for field in fields:
        key, equals, value = field.partition("=")
        if equals and key[:1] == letter and value.strip():
            return value.strip()
    return None


def find_option(name: str, path: str) -> str | None:
    """Return the value of an option as text, or None where no ``O`` line sets it; the first line counts.

    Args:
        name: Name in any case (``"InputMailFilters"``), or the letter of the old short form.
        path: The sendmail.cf.

    Raises:
        ConfigError: The file cannot be read.
    """
    for line in read_lines(path):
        if not line.text.startswith("O"):
            continue
        if line.text[1:2] == " ":
            key, _, value = line.text[2:].partition("=")
            if key.strip().lower() == name.lower():
                return value.strip()
        elif len(name) == 1 and line.text[1:2] == name:
            return line.text[2:].strip()
    return None


def class_members(name: str, path: str) -> list[str]:
    r"""Return the members of a class, from ``C`` and ``F`` lines, in file order and each once.

    ``F`` lines may have ``-o`` before the file, which then may be missing, and a format after it: ``%s`` (the default) takes the first
    word of each line, ``%[^\#]`` all words before a ``#``. Lines that begin with ``#`` do not count.

    Args:
        name: Name with or without braces: ``"w"`` and ``"{w}"`` are the same class.
        path: The sendmail.cf.

    Raises:
        ConfigError: The file, or one that it names, cannot be read; or the class comes from a program or a map.
    """
    wanted = name[1:-1] if name.startswith("{") and name.endswith("}") else name
    members: dict[str, None] = {}
    for line in read_lines(path):
        kind = line.text[:1]
        if kind not in ("C", "F"):
            continue
        match = _CLASS_NAME.match(line.text, 1)
        if match is None or (match[1] if match[2] is None else match[2]) != wanted:
            continue
        rest = line.text[match.end() :].strip()
        words = rest.split() if kind == "C" else _file_members(rest, line.number, path)
        members.update(dict.fromkeys(words))
    return list(members)


def _file_members(rest: str, number: int, path: str) -> list[str]:
    """Return the members that an ``F`` line names."""
    optional = rest.startswith("-o")
    if optional:
        rest = rest.partition(" ")[2].strip()
    if rest.startswith("|"):
        raise ConfigError(
            f"{path}, line {number}: the class comes from a program ({rest}), and programs are not run",
            source=path,
            line=number,
        )
    file, _, scan = rest.partition(" ")
    scan = scan.strip()
    if _MAP_FORM.match(file):
        raise ConfigError(
            f"{path}, line {number}: the class comes from a map ({file}), which is not supported",
            source=path,
            line=number,
        )
    if scan and scan != "%s" and scan not in _UNTIL_HASH:
        raise ConfigError(
            f"{path}, line {number}: the format {scan!r} is not supported; %s and %[^\\#] are",
            source=path,
            line=number,
        )
    if optional and not Path(file).exists():
        return []
    return [word for text in _read(file).splitlines() for word in _words(text, scan)]


def _words(text: str, scan: str) -> list[str]:
    if text.startswith("#"):
        return []
    return text.partition("#")[0].split() if scan in _UNTIL_HASH else text.split()[:1]


def read_lines(path: str) -> Iterator[Line]:
    """Yield the logical lines of a sendmail.cf, without comments and empty ones.

    Raises:
        ConfigError: The file cannot be read.
    """
    begun: Line | None = None
    for number, text in enumerate(_read(path).split("\n"), 1):
        if text[:1] in (" ", "\t") and begun is not None:
            begun = begun._replace(text=f"{begun.text} {text.strip()}".rstrip())
            continue
        if begun is not None:
            yield begun
        begun = None if not text.strip() or text.startswith("#") else Line(number, text.rstrip())
    if begun is not None:
        yield begun


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot read {path}: {reason}; give the right path, or make it readable", source=path
        ) from error
    if len(data) > MAX_SIZE:
        raise ConfigError(
            f"{path} is larger than {MAX_SIZE} bytes: that is no sendmail.cf or class file",
            source=path,
        )
    return data.decode("utf-8", "surrogateescape")
