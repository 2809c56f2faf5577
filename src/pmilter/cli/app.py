"""Loads a user's filter: ``module:attribute`` or ``path/to/file.py:attribute`` becomes a `Milter`, or a clear error."""

from __future__ import annotations

import os
import pwd
import stat
import sys
import traceback
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from pmilter.errors import ConfigError
from pmilter.milter import Milter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, ModuleType, TracebackType

DEFAULT_ATTRIBUTE: Final = "milter"

GUARD: Final = 'if __name__ == "__main__":'
"""What keeps a line of a program from running while it is loaded."""

_PACKAGE: Final = str(Path(__file__).parent.parent)
"""Where pmilter's own code lies."""


class AppName(NamedTuple):
    """Where a filter is to be found."""

    place: str
    """Dotted name of a module, or path of a Python file."""
    attribute: str
    """Name of the `Milter` in it."""

    @property
    def is_file(self) -> bool:
        """Whether `place` is a path: it looks like one, or is one and cannot be a module."""
        if self.place.endswith(".py") or "/" in self.place:
            return True
        path = Path(self.place)
        return path.is_file() or (path.is_dir() and not self._may_be_module)

    @property
    def _may_be_module(self) -> bool:
        return all(part.isidentifier() for part in self.place.split("."))

    @property
    def directory(self) -> Path:
        """Directory that its imports begin in."""
        return Path(self.place).resolve().parent if self.is_file else Path.cwd()

    def __str__(self) -> str:
        """Return it as a person writes it."""
        return f"{self.place}:{self.attribute}"


def parse_app(text: str) -> AppName:
    """Return what a text names: ``module``, ``module:attribute``, ``path/to/file.py`` or ``path/to/file.py:attribute``.

    Raises:
        ConfigError: It is none of them.
    """
    place, colon, attribute = text.rpartition(":")
    if not colon or attribute.endswith(".py"):
        place, attribute = text, DEFAULT_ATTRIBUTE
    if not place or not attribute.isidentifier():
        raise ConfigError(
            f"{text!r} names no filter: write module:attribute or path/to/file.py:attribute",
            source=text,
        )
    return AppName(place, attribute)


def load_app(text: str, on_setconn: Callable[[str], object] | None = None) -> Milter:
    """Import a user's program, and return its filter.

    The file's directory (for modules: the current one) is put on `sys.path`, as ``python`` does.

    Args:
        text: As for `parse_app`.
        on_setconn: Called with the address, instead of opening a socket there, where the program calls `Milter.setconn` while it is
            imported. By default the socket is opened.

    Raises:
        ConfigError: There is no such file, module or attribute; it cannot be imported; it is no `Milter`, has no callbacks, or
            runs ``main`` while it is imported.
        OSError: The program opens its socket while it is imported, and that failed.
    """
    name = parse_app(text)
    if str(name.directory) not in sys.path:
        sys.path.insert(0, str(name.directory))
    with _main_forbidden(name), _setconn_told(on_setconn):
        module = _import_file(name) if name.is_file else _import_module(name)
    return _find(name, module)


def refuse_setconn(app: str, desc: str) -> NoReturn:
    """Raise for a program that opens a socket beside the one that it is given; for `load_app`.

    Raises:
        ConfigError: As said.
    """
    raise ConfigError(
        f"{app} itself calls setconn({desc!r}) while it is loaded: leave --listen out, or put setconn under '{GUARD}'"
    )


def nothing_to_listen_on(app: str) -> ConfigError:
    """Return the error of a program that opens no socket and is given none."""
    return ConfigError(
        f"{app} has nothing to listen on: give --listen, such as --listen inet:8891@127.0.0.1 "
        "or --listen unix:/run/filter.sock (a setconn under 'if __name__ ...' does not count here)"
    )


# --- the import


@contextmanager
def _main_forbidden(name: AppName) -> Iterator[None]:
    """Have `Milter.main` refuse to serve: an import that does not return would hide every option of the command line."""
    called = False

    def refuse(*_: object, **__: object) -> None:
        nonlocal called
        called = True
        raise ConfigError(
            f"main() is called while the program is loaded; put it under '{GUARD}', "
            "which is how pmilter run can load the file without starting it"
        )

    with _replaced("main", refuse):
        yield
    if called:  # and the program has hidden the error
        raise ConfigError(
            f"{name.place} calls main() while it is loaded; put it under '{GUARD}'",
            source=name.place,
        )


@contextmanager
def _setconn_told(on_setconn: Callable[[str], object] | None) -> Iterator[None]:
    """Have `Milter.setconn` tell of the address instead of opening a socket, where somebody wants to know."""
    if on_setconn is None:
        yield
        return

    def tell(_: Milter, desc: str, *__: object, **___: object) -> None:
        on_setconn(desc)

    with _replaced("setconn", tell):
        yield


@contextmanager
def _replaced(method: str, substitute: Callable[..., None]) -> Iterator[None]:
    """Have all filters do something else in a method."""
    original = getattr(Milter, method)
    setattr(Milter, method, substitute)
    try:
        yield
    finally:
        setattr(Milter, method, original)


def _import_file(name: AppName) -> ModuleType:
    path = Path(name.place)
    _check_file(name)
    # A module that is loaded already keeps its name: the program may be called email.py.
    stem = path.stem if path.stem not in sys.modules else f"pmilter_app_{path.stem}"
    spec = spec_from_file_location(stem, path)
    if spec is None:  # by its name it is none of Python's
        spec = spec_from_file_location(stem, path, loader=_ScriptLoader(stem, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[stem] = module
    try:
        with _explained(name):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[stem]
        raise
    return module


_DIRECTORY: Final = "is a directory, not a file: name the file in it that has the filter"


class _ScriptLoader(SourceFileLoader):
    """Loads source whatever the name of its file, and keeps no compiled form of it: that of ``x`` would be taken for that of ``x.py``."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _check_file(name: AppName) -> None:
    """Check that there is a file, and that it may be read.

    Raises:
        ConfigError: No.
    """
    try:
        path = Path(name.place)
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
        what = _DIRECTORY if stat.S_ISDIR(mode) else "no regular file"
    except PermissionError:
        what = f"user {_user()} may not read it; mind the directories above it too"
    except OSError:
        what = "no such file"
    raise ConfigError(f"{name.place}: {what}", source=name.place)


def _user() -> str:
    """Return the name of the user who runs this, or the number of one without a name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _import_module(name: AppName) -> ModuleType:
    with _explained(name):
        return import_module(name.place)


# --- what went wrong with it


@contextmanager
def _explained(name: AppName) -> Iterator[None]:
    """Turn whatever a program raises while it is imported into one line that names its own file and line."""
    try:
        yield
    except SystemExit as error:
        raise _import_error(
            name, error, f"it exits while it is loaded; put the code that does under '{GUARD}'"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and _raised_by_us(error.__traceback__):
            raise  # its socket could not be opened
        raise _import_error(name, error, _reason(name, error)) from error


def _reason(name: AppName, error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        itself = not name.is_file and f"{name.place}.".startswith(f"{error.name}.")
        elsewhere = "run pmilter in its directory, or give the path of its file"
        return f"there is no module {error.name!r}; {elsewhere if itself else f'install it for {sys.executable}'}"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}"


def _import_error(name: AppName, error: BaseException, reason: str) -> ConfigError:
    file, line = _origin(name, error)
    where = f"{file}, line {line}" if line else file
    return ConfigError(f"cannot load {where}: {reason}", source=file, line=line)


def _origin(name: AppName, error: BaseException) -> tuple[str, int | None]:
    """Return the file and line of the user's program where an import failed, as far as that can be told."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((str(error.filename), error.lineno))
    own = [(file, line) for file, line in places if _is_users(name, file)]
    file, line = own[-1] if own else (name.place, None)
    return (name.place if file == str(Path(name.place).absolute()) else file), line


def _is_users(name: AppName, file: str) -> bool:
    path = Path(file)
    if path.is_relative_to(_PACKAGE) or "site-packages" in path.parts:
        return False
    return path == Path(name.place).absolute() or path.is_relative_to(name.directory)


def _raised_by_us(trace: TracebackType | None) -> bool:
    return traceback.extract_tb(trace)[-1].filename.startswith(_PACKAGE)


# --- the filter in it


def _find(name: AppName, module: ModuleType) -> Milter:
    try:
        found = getattr(module, name.attribute)
    except AttributeError:
        raise ConfigError(
            f"{name.place} has no {name.attribute!r}; {_candidates(name, module)}",
            source=name.place,
        ) from None
    if not isinstance(found, Milter):
        kind = type(found).__name__
        raise ConfigError(
            f"{name} is no Milter but of type {kind}; {_candidates(name, module)}",
            source=name.place,
        )
    if not found.plan().callbacks:
        raise ConfigError(
            f"{name} has no callbacks: define some with @{name.attribute}.on(...) or {name.attribute}.register(...)",
            source=name.place,
        )
    return found


def _candidates(name: AppName, module: ModuleType) -> str:
    names = [key for key, value in vars(module).items() if isinstance(value, Milter)]
    if not names:
        return f"define {DEFAULT_ATTRIBUTE} = pmilter.Milter(...) in it"
    return "write " + " or ".join(f"{name.place}:{key}" for key in names)
