"""Which Python each contestant that is written in Python runs under."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.build import Absent, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SOURCE_FORM = "pmilter"
# What runs there, for each need that is a Python.
NAMES = {
    SOURCE_FORM: "source form",
    "pmilter with uvloop": "source form on uvloop",
    "pmilter compiled": "compiled form",
    "venv": "libraries from PyPI",
    "pymilter": "pymilter",
}
REMEDIES = {
    "pmilter with uvloop": "remove benchmarks/build/venv, and it is made anew with this Python",
    "pmilter compiled": "make it anew with this Python: python3 tasks.py compiled",
}
CODE = """
import json, os, sys
print(json.dumps([sys.version.split()[0], sys.version, os.path.realpath(sys.base_prefix)]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A build of Python.

    Attributes:
        version: Such as 3.11.7.
        build: What it says of itself: version, date, compiler.
        prefix: Where it is installed, not the environment that uses it.
    """

    version: str
    build: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.version} in {self.prefix}"


def identify(python: Path) -> Interpreter:
    """Ask a Python which build it is; raises Absent."""
    return Interpreter(*json.loads(run([str(python), "-I", "-c", CODE])))


def survey(programs: Mapping[str, Path]) -> dict[str, Interpreter]:
    """Identify the Python of each need that is one."""
    found = {}
    for need in NAMES.keys() & programs.keys():
        with contextlib.suppress(Absent):  # its contestants do not start, and say why
            found[need] = identify(programs[need])
    return {need: found[need] for need in NAMES if need in found}


def describe(interpreters: Mapping[str, Interpreter]) -> str:
    """Say in a line what ran under which."""
    return "; ".join(f"{NAMES[need]}: Python {each}" for need, each in interpreters.items())


def warnings(interpreters: Mapping[str, Interpreter]) -> list[str]:
    """Name what is ours and ran under another build than the source form, with the remedy."""
    usual = interpreters.get(SOURCE_FORM)
    return [
        f"the {NAMES[need]} ran under another build of Python than the source form, so their "
        f"figures cannot be compared; {remedy}"
        for need, remedy in REMEDIES.items()
        if usual is not None and interpreters.get(need, usual) != usual
    ]
