from __future__ import annotations

import subprocess
import sys

import pytest

from pmilter import __version__
from pmilter.cli.entry import VERBS, main, perform


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(["--version"]) == 0
    assert capsys.readouterr() == (f"pmilter {__version__}\n", "")


def test_help_names_all_verbs_and_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(["--help"]) == 0

    text = capsys.readouterr().out
    assert "pmilter for Python" in text
    for verb in VERBS:
        assert f"\n  {verb} " in text
    assert "70 internal error" in text


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert perform([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: pmilter {verb} ")


def test_nothing_at_all_is_answered_with_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert perform([]) == 2
    assert capsys.readouterr().err.startswith("Usage: pmilter ")


def test_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(["rum"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("pmilter: No such command 'rum'")


def test_main_ends_the_process_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pmilter", "run"])

    with pytest.raises(SystemExit) as caught:
        main()

    assert caught.value.code == 2


def test_package_can_be_run_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pmilter", "--version"], capture_output=True, text=True, check=True
    )

    assert (done.stdout, done.stderr) == (f"pmilter {__version__}\n", "")


def test_version_loads_neither_a_verb_nor_rich() -> None:
    program = "import sys; from pmilter.cli.entry import perform; perform(['--version']); print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "'pmilter.cli.entry'" in done.stdout
    for module in ("pmilter.cli.run", "pmilter.milter", "rich", "asyncio"):
        assert f"'{module}'" not in done.stdout
