r"""What sendmail.cf says: where a filter is, the members of a class, the value of an option.

Lines are read as Sendmail 8.17 reads them. A line that begins with a blank or tab goes on with the one before. A line that
begins with ``#`` is a comment with all that continues it; a ``#`` further on begins one up to the end of that physical
line, unless it is written ``\#`` or belongs to a macro (``$#``). White space is that of ASCII.

Macros are not expanded, since most have a value in a running Sendmail only: ``$j`` stays ``$j``, and ``$$`` stays ``$$``. For
the same reason the names of the machine, which Sendmail itself adds to class ``w``, are not known here. No program is run, no
map is opened. Text is decoded as UTF-8 with ``surrogateescape``. Files are read at each call; any thread may call.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIZE: Final = 16 * 1024 * 1024
"""Largest file that is read, in bytes."""

_WHITE: Final = " \t\n\v\f\r"
_WORD: Final = re.compile(r"\S+", re.ASCII)
_LOGICAL_LINE: Final = re.compile(r"[^\n]+(?:\n[ \t][^\n]*)*")
_COMMENT: Final = re.compile(r"(\$[=~&?]?.)|\\(#)|#[^\n]*")
_FOLD: Final = re.compile(r"\n[ \t]+")
_FILTER: Final = re.compile(r"X([^\s,]+)(.*)", re.ASCII)
_FIELD: Final = re.compile(r'(?:\\.?|"(?:\\.|[^"\\])*"?|[^,"\\])+')
_QUOTING: Final = re.compile(r'\\(.)|"')
_OPTION: Final = re.compile(r"O(?: ([^=]+)=?|([^ ]))(.*)")
_CLASS: Final = re.compile(r"([CF])(\{[^}]+\}|[^{])(.*)")
_CLASS_COPY: Final = re.compile(r"\$=(\{[^}]+\}|.)")
_CLASS_FILE: Final = re.compile(r'\s*(-o\S*)?\s*((?:\\ |"[^"]*"?|[^\s"])*)\s*(.*)', re.ASCII)
_MAP_FORM: Final = re.compile(r"[^/\s]*@|\w+:", re.ASCII)
_SCAN_SET: Final = re.compile(r"%\[\^([^]-]+)\]")

# The options that have kept the letter from before there were names: `OA/x` is `O AliasFile=/x`.
_NAMES_OF_LETTERS: Final[dict[str, str]] = dict(
    re.findall(
        r"(\S) (\S+)",
        """7 SevenBitInput 8 EightBitMode A AliasFile a AliasWait B BlankSub b MinFreeBlocks C CheckpointInterval
        c HoldExpensive d DeliveryMode E ErrorHeader e ErrorMode F TempFileMode f SaveFromLine G MatchGECOS H HelpFile
        h MaxHopCount I ResolverOptions i IgnoreDots J ForwardPath j SendMimeErrors K ConnectionCacheTimeout
        k ConnectionCacheSize L LogLevel l UseErrorsTo m MeToo n CheckAliases O DaemonPortOptions o OldStyleHeaders
        P PostmasterCopy p PrivacyOptions Q QueueDirectory q QueueFactor R DontPruneRoutes r Timeout S StatusFile
        s SuperSafe T QueueTimeout t TimeZoneSpec U UserDatabaseSpec u DefaultUser V FallbackMXhost v Verbose
        w TryNullMXList X RefuseLA x QueueLA Y ForkEachJob y RecipientFactor Z RetryFactor z ClassFactor""",
    )
)


class Line(NamedTuple):
    """One logical line."""

    source: str
    """The file that it stands in."""
    number: int
    """Where it begins, counted from 1."""
    text: str
    """Its text, continuations joined by a blank, without comments and without blanks at the end."""

    def error(self, problem: str) -> ConfigError:
        """Return the error that says what is wrong with this line."""
        message = f"{self.source}, line {self.number}: {problem}"
        return ConfigError(message, source=self.source, line=self.number)


class _ClassLine(NamedTuple):
    """A `C` or `T` line with its words, or an `F` line with its file; `name` has no braces."""

    line: Line
    name: str
    words: list[str]
    file: str | None


def find_connection(name: str, path: str) -> str | None:
    """Return the address (``S=``) that the ``X`` line of a filter gives; the first that has one, or None.

    Fields are separated by commas with any blanks; of a key only the first letter counts (``Socket=`` is ``S=``); double quotes
    or a backslash protect a comma; empty fields do not matter. A field without ``=``, for which Sendmail refuses the whole line,
    ends the reading of that line.

    Args:
        name: Name of the filter, exactly.
        path: The sendmail.cf.

    Raises:
        ConfigError: The file cannot be read.
    """
    for line in read_lines(path):
        match = _FILTER.fullmatch(line.text)
        if match and match[1] == name and (address := _socket(match[2])):
            return address
    return None


def _socket(fields: str) -> str | None:
    for field in _FIELD.findall(fields):
        key, equals, value = field.strip(_WHITE).partition("=")
        if key and not equals:
            break
        address = _QUOTING.sub(lambda match: match[1] or "", value).strip(_WHITE)
        if key.startswith("S") and address:
            return address
    return None


def find_option(name: str, path: str) -> str | None:
    """Return the value of an option as text, or None where no ``O`` line sets it; the first line counts.

    Both forms are read: ``O AliasFile=/etc/aliases``, blanks around ``=`` or not, and the old ``OA/etc/aliases``. Abbreviated
    names, which Sendmail takes as well, are not resolved.

    Args:
        name: Name in any case (``"InputMailFilters"``), or the letter of the old form, whose case counts. Either finds both
            forms.
        path: The sendmail.cf.

    Raises:
        ConfigError: The file cannot be read.
    """
    wanted = _option_name(name)
    for line in read_lines(path):
        match = _OPTION.fullmatch(line.text)
        if match and _option_name(match[1] or match[2]) == wanted:
            return match[3].strip(_WHITE)
    return None


def _option_name(text: str) -> str:
    name = text.strip(_WHITE)
    return _NAMES_OF_LETTERS.get(name, name).lower()


def class_members(name: str, path: str) -> list[str]:
    r"""Return the members of a class, from ``C`` and ``F`` lines, in file order and each once.

    ``T`` lines belong to class ``t``; ``$=x`` in a ``C`` line stands for what class ``x`` has so far. ``F`` lines may have ``-o``
    before the file, which then may be missing, and a format after it: ``%s`` (the default) takes the first word of each line,
    ``%[^\#]`` all words before a ``#``, and so with other characters. Lines that begin with ``#`` do not count. Sendmail
    ignores case when it looks into a class; here each spelling is kept.

    Args:
        name: Name with or without braces: ``"w"`` and ``"{w}"`` are the same class.
        path: The sendmail.cf. File names in it that are not absolute start at the current directory.

    Raises:
        ConfigError: The file, or one that it names, cannot be read; the class comes from a program or a map; or the format is
            another one.
    """
    wanted = _bare(name)
    classes: dict[str, dict[str, None]] = {}
    for declaration in _declarations(wanted, path):
        words = _members(declaration, classes)
        classes.setdefault(declaration.name, {}).update(dict.fromkeys(words))
    return list(classes.get(wanted, {}))


def _bare(name: str) -> str:
    return name[1:-1] if name.startswith("{") and name.endswith("}") else name


def _declarations(name: str, path: str) -> list[_ClassLine]:
    """Return the lines that make up class `name`, in file order.

    They are sought backwards: a line that copies another class needs the lines of that class before it, and no later ones.
    """
    wanted = {name}
    found = []
    for declaration in reversed([*_class_lines(path)]):
        if declaration.name in wanted:
            found.append(declaration)
            wanted.update(map(_copied_class, declaration.words))
    return found[::-1]


def _class_lines(path: str) -> Iterator[_ClassLine]:
    for line in read_lines(path):
        text = f"Ct {line.text[1:]}" if line.text.startswith("T") else line.text
        if match := _CLASS.fullmatch(text):
            kind, name, rest = match.groups()
            words, file = (_WORD.findall(rest), None) if kind == "C" else ([], rest)
            yield _ClassLine(line, _bare(name), words, file)


def _copied_class(word: str) -> str:
    """Return the class that a word ``$=x`` stands for; ``""``, the name of no class, for any other word."""
    match = _CLASS_COPY.fullmatch(word)
    return _bare(match[1]) if match else ""


def _members(declaration: _ClassLine, so_far: dict[str, dict[str, None]]) -> list[str]:
    if declaration.file is not None:
        return _file_members(declaration.line, declaration.file)
    members: list[str] = []
    for word in declaration.words:
        copied = _copied_class(word)
        members += so_far.get(copied, {}) if copied else [word]
    return members


def _file_members(line: Line, specification: str) -> list[str]:
    match = _CLASS_FILE.fullmatch(specification)
    assert match, "the pattern fits every line"
    optional, file, scan = match.groups()
    _refuse_other_sources(line, file)
    scan_set = _SCAN_SET.fullmatch(scan)
    if not scan_set and scan not in ("", "%s"):
        raise line.error(f"the format {scan!r} is not supported; %s and %[^\\#] are")
    rows = [row for row in _class_file(line, file, optional=bool(optional)) if row[:1] != "#"]
    if not scan_set:
        return [word for row in rows for word in _WORD.findall(row)[:1]]
    end = re.compile(f"[{re.escape(scan_set[1])}]")
    return [word for row in rows for word in _WORD.findall(end.split(row, maxsplit=1)[0])]


def _refuse_other_sources(line: Line, file: str) -> None:
    if not file:
        raise line.error("it names no file; write the path after the class")
    if file.startswith("|"):
        raise line.error(f"the class comes from a program ({file}), and programs are not run")
    if _MAP_FORM.match(file):
        raise line.error(f"the class comes from a map ({file}), which is not supported")


def _class_file(line: Line, quoted: str, *, optional: bool) -> list[str]:
    file = quoted.replace("\\ ", " ").replace('"', "")
    try:
        return _read(file).split("\n")
    except (OSError, ValueError) as error:
        if optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise line.error(f"cannot read {file}: {_reason(error)}; make it readable") from error


def read_lines(path: str) -> Iterator[Line]:
    """Yield the logical lines of a sendmail.cf, without comments and empty ones.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        text = _read(path)
    except (OSError, ValueError) as error:
        problem = f"cannot read {path}: {_reason(error)}; give the right path, or make it readable"
        raise ConfigError(problem, source=path) from error
    number, counted = 1, 0
    for match in _LOGICAL_LINE.finditer(text):
        number += text.count("\n", counted, match.start())
        counted = match.start()
        if not match[0].startswith("#"):
            yield Line(path, number, _visible(match[0]))


def _visible(line: str) -> str:
    """Return a logical line without comments and folds."""
    text = _COMMENT.sub(lambda match: match[1] or match[2] or "", line)
    return _FOLD.sub(" ", text).rstrip(_WHITE)


def _read(path: str) -> str:
    with Path(path).open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise OSError(
            errno.EFBIG, f"it is larger than {MAX_SIZE} bytes: that is no sendmail.cf or class file"
        )
    return data.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
