"""The examples of README and tutorial run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Limits
from tests.support.processes import DEADLINE
from tests.support.wire import Wire

if TYPE_CHECKING:
    from pmilter import Milter

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


def test_filter_of_the_page_on_dispatchers_serves_with_all_that_it_says() -> None:
    """Its pieces, one after the other, are one filter, whose last dispatcher is the one of the user's own."""
    namespace: dict[str, Any] = {}
    for _, code in blocks("docs/dispatchers.md"):
        exec(compile(code, "dispatchers.md", "exec"), namespace)
    milter: Milter = namespace["milter"]
    assert milter.plan().limits == Limits.for_sendmail(connections_per_peer=200)
    assert milter.plan().fallback["envrcpt"] == "shutdown"
    assert milter.dispatcher is namespace["dispatcher"]
    milter.setconn("inet:0@127.0.0.1")
    address = str(milter.address)
    thread = threading.Thread(target=milter.main, daemon=True)
    thread.start()
    with Wire(address) as wire:
        wire.play(
            ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> M <a@x>␀\n<< c\n"
            ">> R <nobody@example.com>␀\n<< r\n>> R <b@x>␀\n<< c\n>> E\n<< c\n>> Q\n<< EOF"
        )
    milter.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/tutorial.md",
        "docs/from-perl.md",
        "docs/dispatchers.md",
    ],
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), target
