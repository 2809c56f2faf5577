#!/usr/bin/env python3
"""Tasks with one-word names; each does its own set-up from a fresh clone.

    python3 tasks.py demo        see a filter at work
    python3 tasks.py test        everything: lint, types, all tests, real Postfix and Sendmail included

Needs Python 3.11 or newer with pip and venv, and for real MTAs a Debian with apt. What is installed goes to .venv, but for
Debian's packages, which `tools/install-mtas.sh` installs with root's rights.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).resolve().parent
VENV: Final = ROOT / ".venv"
PYTHON: Final = VENV / "bin" / "python"
STAMP: Final = VENV / "installed"


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
    venv.create(VENV, with_pip=True)
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


def bench() -> None:
    """Measure against other milter libraries; takes long. Results go to benchmarks/results."""
    setup()
    run(PYTHON, "-m", "benchmarks")


TASKS: Final[dict[str, Callable[[], None]]] = {
    task.__name__: task for task in (setup, demo, mtas, lint, format, types, unit, test, bench)
}


def main() -> None:
    """Run the tasks that are named."""
    names = sys.argv[1:]
    if not names or any(name not in TASKS for name in names):
        lines = (
            f"  {name:8} {(task.__doc__ or '').splitlines()[0]}" for name, task in TASKS.items()
        )
        sys.exit("\n".join(["usage: python3 tasks.py TASK...", *lines]))
    for name in names:
        TASKS[name]()


if __name__ == "__main__":
    main()
