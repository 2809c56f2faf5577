"""Which Python ran what."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from benchmarks.interpreters import Interpreter, describe, identify, survey, warnings

ONE = Interpreter("3.11.7", "3.11.7 (main, Jan 1 2026) [gcc 12]", "/opt/python")
OTHER = Interpreter("3.11.7", "3.11.7 (main, Jan 1 2026) [clang 18]", "/opt/python")


def test_a_python_is_asked_for_its_build() -> None:
    found = identify(Path(sys.executable))
    assert found.version == platform.python_version()
    assert found.build == sys.version
    assert found.prefix == str(Path(sys.base_prefix).resolve())


def test_only_what_is_a_python_and_answers_is_surveyed(tmp_path: Path) -> None:
    programs = {
        "venv": tmp_path / "missing",
        "ceiling": Path(sys.executable),
        "pmilter": Path(sys.executable),
    }
    assert list(survey(programs)) == ["pmilter"]


def test_the_line_says_what_ran_under_which() -> None:
    assert describe({"pmilter": ONE, "venv": ONE}) == (
        "source form: Python 3.11.7 in /opt/python; "
        "libraries from PyPI: Python 3.11.7 in /opt/python"
    )


def test_another_build_of_the_same_version_is_warned_of() -> None:
    (warning,) = warnings({"pmilter": ONE, "pmilter compiled": OTHER})
    assert warning.startswith("the compiled form ran under another build of Python")
    assert "python3 tasks.py compiled" in warning
    (warning,) = warnings({"pmilter": ONE, "pmilter with uvloop": OTHER})
    assert "remove benchmarks/build/venv" in warning


def test_the_same_build_is_not_warned_of() -> None:
    assert warnings({"pmilter": ONE, "pmilter compiled": ONE, "pymilter": OTHER}) == []
    assert warnings({"pmilter compiled": OTHER}) == []
