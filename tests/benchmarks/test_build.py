"""What the suite makes or finds."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.build import COMPILED_PYTHON, Absent, build_all, outdated

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An installed package and its source, the same in both; C stands in the source only."""
    installed, source = tmp_path / "installed", tmp_path / "source"
    for folder in (installed, source):
        (folder / "part").mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "part" / "module.py").write_text("a = 1")
    (source / "fast.c").write_text("")
    os.utime(source / "fast.c", (0, 0))
    return installed, source


def test_a_package_of_the_same_source_is_not_outdated(folders: tuple[Path, Path]) -> None:
    assert outdated(*folders) == []


def test_changed_new_and_removed_files_are_outdated(folders: tuple[Path, Path]) -> None:
    installed, source = folders
    (source / "part" / "module.py").write_text("a = 2")
    (source / "new.py").write_text("")
    (installed / "removed.py").write_text("")
    assert outdated(installed, source) == ["new.py", "part/module.py", "removed.py"]


def test_newer_c_is_outdated(folders: tuple[Path, Path]) -> None:
    installed, source = folders
    later = (installed / "__init__.py").stat().st_mtime + 1
    os.utime(source / "fast.c", (later, later))
    assert outdated(installed, source) == ["fast.c"]


def test_c_that_is_installed_is_compared(folders: tuple[Path, Path]) -> None:
    installed, source = folders
    (installed / "fast.c").write_text("")
    os.utime(source / "fast.c")
    assert outdated(installed, source) == []
    (source / "fast.c").write_text("int a;")
    assert outdated(installed, source) == ["fast.c"]


def test_a_compiled_form_of_another_source_is_absent_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pmilter"
    package.mkdir()
    (package / "__init__.py").write_text("accelerated = True")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncd {tmp_path} && exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(COMPILED_PYTHON, str(python))
    absent = build_all({"pmilter compiled"})["pmilter compiled"]
    assert isinstance(absent, Absent)
    assert "was made of another source (__init__.py differs" in str(absent)
    assert "make it anew: python3 tasks.py compiled" in str(absent)
