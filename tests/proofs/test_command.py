from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from proofs.catalogue import PROOFS
from proofs.command import main
from proofs.findings import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from proofs.catalogue import Tell


@dataclass(frozen=True)
class Size:
    messages: int


class Counting:
    """A proof that holds where it is asked for no more than ten messages, and breaks off with none of its cases right."""

    NAME = "counting"
    TITLE = "ten are enough"
    CASES = ("one", "broken")
    SIZES: ClassVar = {"short": Size(1), "full": Size(10)}

    def prove(self, case: str, size: Size, directory: Path, tell: Tell, /) -> Finding:
        if case == "broken":
            raise RuntimeError("no such filter")
        tell(1, 1)
        finding = Finding(self.NAME, case)
        finding.figures["messages"] = size.messages
        finding.check("ten at most", size.messages <= 10, size.messages)
        return finding


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROOFS, "counting", Counting())


def prove(output: Path, *arguments: str) -> tuple[int, Any]:
    status = main(["counting", "--output", str(output), *arguments])
    return status, json.loads((output / "results.json").read_text())


def test_proof_that_holds_is_told_and_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, results = prove(tmp_path, "--cases", "one", "--size", "short")
    assert status == 0
    assert "holds" in capsys.readouterr().out
    [finding] = results["findings"]
    assert (finding["passed"], finding["figures"]) == (True, {"messages": 1})


def test_proof_that_fails_gives_status_1_and_the_counter_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, results = prove(tmp_path, "--cases", "one", "--messages", "11")
    assert status == 1
    assert "NOT TRUE: ten at most: 11" in capsys.readouterr().out
    assert not results["findings"][0]["passed"]


def test_proof_that_breaks_off_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, results = prove(tmp_path)
    assert status == 1
    assert "RuntimeError: no such filter" in capsys.readouterr().out
    assert [finding["passed"] for finding in results["findings"]] == [True, False]


def test_unknown_proof_is_told_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["kils"])
    assert caught.value.code == 2
    assert "no proof is called 'kils'; there are kills, reloads" in capsys.readouterr().err
