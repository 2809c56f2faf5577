"""The page about ``pmilter run``: its table is made from the options, its examples work.

After a change of the options: ``python -m tests.docs.test_run_page`` writes the table anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmilter.cli.options import Setting, option_table
from pmilter.cli.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "run.md"
BEGIN, END = "<!-- options -->\n", "<!-- end of options -->\n"


def table() -> str:
    """Return the reference of all options."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    for heading, group in groupby(option_table(SETTINGS), lambda setting: setting.option.heading):
        yield f"\n### {heading}\n"
        yield "| option | variable | meaning | default | reload |"
        yield "| --- | --- | --- | --- | --- |"
        yield from map(_row, group)


def _row(setting: Setting) -> str:
    option = setting.option
    spelled = f"{option.flag} {option.form}".rstrip()
    short = "".join(f"`{flag}`, " for flag in option.flags[:-1])
    cells = (
        f"{short}`{spelled}`",
        f"`{option.variable}`",
        option.help,
        setting.otherwise or "",
        "" if option.restart else "yes",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _parts() -> tuple[str, str, str]:
    head, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, tail = rest.partition(END)
    return head, old, tail


def blocks(language: str) -> list[str]:
    """Return the page's examples in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def check(*arguments: str) -> dict[str, object]:
    """Return what ``pmilter run --check --json`` finds."""
    command = [sys.executable, "-m", "pmilter", "run", *arguments, "--check", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_table_is_made_from_the_options() -> None:
    assert _parts()[1] == table()


def test_file_of_the_page_is_taken(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    file = tmp_path / "tagger.toml"
    file.write_text(text)

    found = check("examples/tagger.py", "--config", str(file))

    assert found["dispatcher"] == "selector"
    assert found["workers"] == 4
    limits, fallback = found["limits"], found["fallback"]
    assert isinstance(limits, dict)
    assert isinstance(fallback, dict)
    assert (limits["command_time"], limits["eom_time"], limits["recipients"]) == (8, 280, 1000)
    assert (fallback["connect"], fallback["eom"]) == ("continue", "tempfail")


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines()])
def test_command_lines_of_the_page_are_taken(line: str, tmp_path: Path) -> None:
    words = line.split("#")[0].split()
    if words[:2] != ["pmilter", "run"]:
        pytest.skip("no command of ours")
    (tmp_path / "tagger.toml").write_text(blocks("toml")[0])
    known = {"tagger.py": "examples/tagger.py", "tagger.toml": str(tmp_path / "tagger.toml")}
    arguments = [known.get(word, word) for word in words[2:] if word not in {"--check", "--json"}]

    assert check(*arguments)["name"] == "tagger"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target


if __name__ == "__main__":
    head, _, tail = _parts()
    PAGE.write_text(head + BEGIN + table() + END + tail)
