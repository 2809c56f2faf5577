"""The examples of README and tutorial run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python(?: file=(\S+))?\n(.*?)```", re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The Python blocks of a page, with the file names that they are to be saved under."""
    return BLOCK.findall((ROOT / page).read_text())


def run_pytest(folder: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tutorial_filter_passes_its_own_tests(tmp_path: Path) -> None:
    for name, code in blocks("docs/tutorial.md"):
        (tmp_path / name).write_text(code)
    assert "2 passed" in run_pytest(tmp_path)


def test_readme_filter_passes_its_own_test(tmp_path: Path) -> None:
    codes = [code for _, code in blocks("README.md")]
    (tmp_path / "tagger.py").write_text(next(code for code in codes if "Milter(" in code))
    (tmp_path / "test_tagger.py").write_text(next(code for code in codes if "Mta(" in code))
    assert "1 passed" in run_pytest(tmp_path)


@pytest.mark.mta
def test_readme_filter_passes_its_test_with_a_real_postfix(tmp_path: Path) -> None:
    codes = [code for _, code in blocks("README.md")]
    (tmp_path / "tagger.py").write_text(next(code for code in codes if "Milter(" in code))
    test = next(code for code in codes if "(postfix)" in code)
    (tmp_path / "test_tagger.py").write_text("from tagger import milter\n" + test)
    output = run_pytest(tmp_path)
    assert "1 passed" in output or "1 skipped" in output


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/tutorial.md", "docs/from-perl.md"]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), target
