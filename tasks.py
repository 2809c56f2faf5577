#!/usr/bin/env python3
"""Tasks with one-word names; each does its own set-up from a fresh clone.

    python3 tasks.py demo        see a filter at work
    python3 tasks.py test        everything: lint, types, all tests, real Postfix and Sendmail included
    python3 tasks.py compiled    tests against the compiled form, see docs/acceleration.md
    python3 tasks.py prove       what pmilter promises, tried at length under load; `prove kills` only that

Needs Python 3.11 or newer with pip and venv, and for real MTAs a Debian with apt. What is installed goes to .venv, but for
Debian's packages, which `tools/install-mtas.sh` installs with root's rights.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).resolve().parent
VENV: Final = ROOT / ".venv"
PYTHON: Final = VENV / "bin" / "python"
STAMP: Final = VENV / "installed"
COMPILED: Final = ROOT / "build" / "compiled"
"""An environment of its own for the compiled form: nothing compiled ever stands in the source."""
COMPILED_TESTS: Final = (
    "tests/test_*.py",
    "tests/protocol",
    "tests/conformance",
    "tests/properties",
    "tests/dispatchers/test_conformance.py",
    "tests/dispatchers/test_selector.py",
    "tests/dispatchers/test_traffic.py",
)
"""What can tell the compiled form from the source."""


def run(*command: str | Path, **environment: str) -> None:
    """Run a command in the project's folder; end with its status where it fails."""
    words = [str(word) for word in command]
    print("$", *words, flush=True)
    status = subprocess.run(words, cwd=ROOT, env=os.environ | environment, check=False).returncode
    if status:
        sys.exit(status)


def setup() -> None:
    """Make .venv and install pmilter and the tools into it, where that is not done yet."""
    wanted = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + sys.version.encode()
    ).hexdigest()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    venv.create(VENV, with_pip=True, symlinks=os.name != "nt")  # as `python -m venv` does
    run(PYTHON, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--editable", ".", "--group", "dev")
    STAMP.write_text(wanted)


def demo() -> None:
    """Show a filter at work on four messages."""
    setup()
    run(PYTHON, "-m", "pmilter", "demo")


def mtas() -> None:
    """Install what tests with a real Postfix and a real Sendmail need."""
    run("sh", "tools/install-mtas.sh")


def lint() -> None:
    """Check style and format."""
    setup()
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")


def format() -> None:  # noqa: A001  # the task's name
    """Format the code."""
    setup()
    run(PYTHON, "-m", "ruff", "format", ".")
    run(PYTHON, "-m", "ruff", "check", "--fix", ".")


def types() -> None:
    """Check types."""
    setup()
    run(PYTHON, "-m", "mypy")


def unit() -> None:
    """Run the tests that need no real MTA."""
    setup()
    run(PYTHON, "-m", "pytest", "-m", "not mta")


def test() -> None:
    """Run everything: lint, types, all tests. A real MTA that is missing is a failure, not a skip."""
    lint()
    types()
    mtas()
    run(PYTHON, "-m", "pytest", "-n", "2", PMILTER_REQUIRE_MTA="1")
    if can_compile():
        compiled()


def can_compile() -> bool:
    """Return whether there are a C compiler and this Python's headers."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which("cc") is not None and headers.exists()


def compiled() -> None:
    """Build the compiled form, and run against it the tests that could tell."""
    python = COMPILED / "bin" / "python"
    venv.create(COMPILED, with_pip=True, clear=True)
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")
    install = (python, "-m", "pip", "install", "--quiet", ".[testing]", "--group", "dev")
    run(*install, PMILTER_ACCELERATE="1")
    run(python, "-c", "import pmilter; assert pmilter.accelerated")
    tests = sorted(path for pattern in COMPILED_TESTS for path in ROOT.glob(pattern))
    run(python, "-m", "pytest", "-n", "2", "-m", "not mta", *tests)


def bench() -> None:
    """Measure against other milter libraries; takes long. Results go to benchmarks/results."""
    setup()
    run(PYTHON, "-m", "benchmarks")


def prove(*arguments: str) -> None:
    """Try under load what pmilter promises; takes long. Names and options follow: prove kills -- --size short."""
    setup()
    mtas()
    run(PYTHON, "-m", "proofs", *(word for word in arguments if word != "--"))


TASKS: Final[dict[str, Callable[[], None]]] = {
    task.__name__: task
    for task in (setup, demo, mtas, lint, format, types, unit, compiled, test, bench)
}


def main() -> None:
    """Run the tasks that are named; what follows `prove` is for the proofs."""
    names = sys.argv[1:]
    if names[:1] == [prove.__name__]:
        prove(*names[1:])
        return
    if not names or any(name not in TASKS for name in names):
        lines = (
            f"  {name:8} {(task.__doc__ or '').splitlines()[0]}" for name, task in TASKS.items()
        )
        told = f"  {prove.__name__:8} {(prove.__doc__ or '').splitlines()[0]}"
        sys.exit("\n".join(["usage: python3 tasks.py TASK...", *lines, told]))
    for name in names:
        TASKS[name]()


if __name__ == "__main__":
    main()
