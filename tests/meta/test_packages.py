"""What is in the packages, and what is told where one cannot be built. Nothing here needs a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from tests.meta.imports import ROOT, SOURCE
from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    from pathlib import Path

SWITCH = "PMILTER_ACCELERATE"

FOLDERS = ("src", "tests", "docs", "examples", "benchmarks", "proofs", "tools")
"""What a source package holds as a whole: tests read all of them."""

MADE = {"__pycache__", "build", "results"}
"""Folders that tools make."""


def files_in(*folders: str) -> set[str]:
    """Return the files of some of the project's folders, relative to it."""
    found = (path.relative_to(ROOT) for name in folders for path in (ROOT / name).rglob("*"))
    return {str(path) for path in found if not MADE & set(path.parts) and (ROOT / path).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(SWITCH, raising=False)
        directory = str(tmp_path_factory.mktemp("wheel"))
        made = next(WheelBuilder(str(ROOT)).build(directory=directory, versions=["standard"]))
    with zipfile.ZipFile(made) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    directory = str(tmp_path_factory.mktemp("sdist"))
    made = next(SdistBuilder(str(ROOT)).build(directory=directory, versions=["standard"]))
    with tarfile.open(made) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_wheel_has_the_whole_package_but_for_what_only_the_compiled_form_is_made_of(
    wheel: set[str],
) -> None:
    package = {name.removeprefix("src/") for name in files_in("src")}
    assert {"pmilter/testing/rig/shim.c", "pmilter/py.typed"} <= wheel
    assert {name for name in wheel if name.startswith("pmilter/")} == package - {
        "pmilter/dispatchers/_traffic.c"
    }


def test_source_package_has_what_building_and_testing_need(sdist: set[str]) -> None:
    single = {
        "pyproject.toml",
        "hatch_build.py",
        "tasks.py",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
    }
    assert single <= sdist
    assert {name for name in sdist if name.startswith(FOLDERS)} == files_in(*FOLDERS)


def test_source_package_has_nothing_that_tools_have_made(sdist: set[str]) -> None:
    assert [name for name in sdist if MADE & set(name.split("/"))] == []


# --- the compiled form, where it cannot be built


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with our build and next to nothing to compile."""
    package = tmp_path / "project" / "src" / "pmilter"
    package.mkdir(parents=True)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "project")
    shutil.copy(SOURCE / "_version.py", package)
    (package / "__init__.py").touch()
    (package / "small.py").write_text("ONE = 1\n")
    (package / "acceleration.py").write_text('MODULES = ("pmilter.small",)\n')
    return tmp_path / "project"


def failing_build(project: Path, **environment: str) -> str:
    """Build the compiled form as pip does, where that must fail and leave nothing; return what is told."""
    temporary = project.parent / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", "from hatchling.build import build_wheel; build_wheel('dist')"],
        cwd=project,
        env=os.environ | {SWITCH: "1", "TMPDIR": str(temporary)} | environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE * 6,  # mypyc is at work
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert list(temporary.glob("pmilter-*")) == []
    return done.stderr


def test_who_has_no_compiler_is_told_what_is_needed_and_how_to_do_without(project: Path) -> None:
    told = failing_build(project, CC="/nonexistent/cc")
    assert "cannot compile (error: " in told
    assert "/nonexistent/cc" in told
    assert "needs a C compiler and the headers of this Python" in told
    assert f"without {SWITCH} a pure pmilter is built" in told
    assert "Traceback" not in told


def test_other_failures_of_the_build_are_told_as_they_are_and_leave_nothing(project: Path) -> None:
    (project / "src" / "pmilter" / "acceleration.py").unlink()
    assert "FileNotFoundError" in failing_build(project)
