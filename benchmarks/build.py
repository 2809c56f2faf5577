"""Makes or finds the programs that the suite runs; says why where one cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
BUILD = HERE / "build"
# The interpreter of an environment in which the compiled form of pmilter is installed.
COMPILED_PYTHON = "PMILTER_COMPILED_PYTHON"
COMPILED = HERE.parent / "build" / "compiled" / "bin" / "python"

GCC = ["gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wshadow"]


class Absent(Exception):
    """A contestant that cannot be measured here; the text is the reason."""


def run(command: list[str], **settings: object) -> str:
    """Run to the end and return what it printed; raises Absent with its last line of errors."""
    environment = {**os.environ, **{key: str(value) for key, value in settings.items()}}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=600, check=True
        )
    except FileNotFoundError:
        raise Absent(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).strip().splitlines() or ["no message"]
        raise Absent(f"{' '.join(command[:3])} ... failed: {lines[-1]}") from error
    return done.stdout


def program(name: str) -> Path:
    """Find an installed program; raises Absent."""
    found = shutil.which(name)
    if found is None:
        raise Absent(f"{name} is not installed")
    return Path(found)


def compile_c(name: str, sources: list[Path], *libraries: str) -> Path:
    """Compile to ``build/NAME`` unless that is newer than its sources."""
    made = BUILD / name
    inputs = [*sources, *(header for file in sources for header in file.parent.glob("*.h"))]
    if not made.exists() or made.stat().st_mtime < max(file.stat().st_mtime for file in inputs):
        BUILD.mkdir(exist_ok=True)
        # Another run may be using the old one, or making the same one now.
        fresh = BUILD / f"{name}.{os.getpid()}"
        run([*GCC, "-o", str(fresh), *map(str, sources), *libraries])
        fresh.replace(made)
    return made


def load_generator() -> Path:
    """Build the load generator."""
    return compile_c("load", sorted((HERE / "load").glob("*.c")))


def _ceiling() -> Path:
    return compile_c("ceiling", [HERE / "peers/ceiling.c"], "-pthread")


def _libmilter() -> Path:
    if not Path("/usr/include/libmilter/mfapi.h").exists():
        raise Absent("libmilter-dev is not installed")
    return compile_c("libmilter", [HERE / "peers/libmilter.c"], "-lmilter", "-pthread")


def _pymilter() -> Path:
    """Debian's package is for Debian's interpreter only."""
    python = Path("/usr/bin/python3")
    run([str(python), "-c", "import Milter"])
    return python


def _perl() -> Path:
    perl = program("perl")
    run([str(perl), "-MSendmail::PMilter", "-e", "1"])
    return perl


def _gomilter() -> Path:
    """Debian packages the library as source for builds without modules."""
    made = BUILD / "gomilter"
    BUILD.mkdir(exist_ok=True)
    run(
        ["go", "build", "-o", str(made), str(HERE / "peers/gomilter/main.go")],
        GO111MODULE="off",
        GOPATH="/usr/share/gocode",
        GOCACHE=BUILD / "gocache",
    )
    return made


def _venv() -> Path:
    """Make an environment of our own for what comes from PyPI."""
    requirements = HERE / "requirements.txt"
    folder = BUILD / "venv"
    python = folder / "bin" / "python"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        venv.create(folder, clear=True, with_pip=True)
        run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
        stamp.write_text(requirements.read_text())
    return python


def _is_accelerated(python: Path, **settings: object) -> bool:
    code = "import pmilter; print(bool(getattr(pmilter, 'accelerated', False)))"
    return run([str(python), "-c", code], **settings).strip() == "True"


def _pmilter() -> Path:
    """This interpreter, with the sources of this tree and nothing compiled."""
    python = Path(sys.executable)
    if _is_accelerated(python, PYTHONPATH=SOURCE):
        raise Absent("this tree has compiled modules; the pure figures need a tree without")
    return python


def _pmilter_with_uvloop() -> Path:
    _pmilter()
    return _venv()


def outdated(installed: Path, source: Path) -> list[str]:
    """Name the files of an installed package that are not, or no longer, those of the source."""
    folders = (installed, source)
    names = {
        file.relative_to(folder)
        for folder in folders
        for suffix in ("py", "c")
        for file in folder.rglob(f"*.{suffix}")
    }
    return sorted(str(name) for name in names if _differs(name, installed, source))


def _differs(name: Path, installed: Path, source: Path) -> bool:
    there, here = installed / name, source / name
    if there.exists() and here.exists():
        return there.read_bytes() != here.read_bytes()
    if name.suffix == ".c" and here.exists():  # not installed beside what was compiled from it
        return here.stat().st_mtime > (installed / "__init__.py").stat().st_mtime
    return True


def _pmilter_compiled() -> Path:
    chosen = Path(os.environ.get(COMPILED_PYTHON, COMPILED))
    if not chosen.exists():
        raise Absent(
            f"{chosen} is not there; tasks.py compiled makes it, or {COMPILED_PYTHON} names another"
        )
    if not _is_accelerated(chosen, PYTHONPATH=""):
        raise Absent(f"pmilter is not compiled in {chosen}")
    where = run([str(chosen), "-c", "import pmilter; print(pmilter.__path__[0])"], PYTHONPATH="")
    if files := outdated(Path(where.strip()), SOURCE / "pmilter"):
        raise Absent(
            f"{chosen} was made of another source ({files[0]} differs, of {len(files)}); "
            "make it anew: python3 tasks.py compiled"
        )
    return chosen


BUILDERS: dict[str, Callable[[], Path]] = {
    "ceiling": _ceiling,
    "libmilter": _libmilter,
    "pymilter": _pymilter,
    "perl": _perl,
    "gomilter": _gomilter,
    "venv": _venv,
    "pmilter": _pmilter,
    "pmilter with uvloop": _pmilter_with_uvloop,
    "pmilter compiled": _pmilter_compiled,
}


def build_all(needs: set[str]) -> dict[str, Path | Absent]:
    """Build each need once; what cannot be had is there as the reason."""
    built: dict[str, Path | Absent] = {}
    for need in sorted(needs):
        try:
            built[need] = BUILDERS[need]()
        except Absent as absent:
            built[need] = absent
    return built
