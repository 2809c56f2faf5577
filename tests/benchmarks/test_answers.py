"""Who was asked what, compared with what the workload asks."""

from __future__ import annotations

import pytest

from benchmarks import answers
from benchmarks.catalogue import Contestant, choose_contestants
from benchmarks.measure import Measurement
from benchmarks.results import Results
from benchmarks.targets import NOOP

FULL = f"C=c H=c M=c R=c R=c T=c {'L=c ' * 20}N=c B=c E=a"
NO_DATA = FULL.replace("T=c ", "")
OLD_VERSIONS = choose_contestants(["perl-*", "go-milter"])


@pytest.fixture
def strict() -> Contestant:
    return Contestant("strict", "peer", "none", "")


@pytest.mark.parametrize(
    ("workload", "written"),
    [
        pytest.param("noop", FULL, id="everything"),
        pytest.param("tagger", FULL.replace("E=a", "E=hma"), id="changes"),
        pytest.param("small", "R=c R=c E=a", id="two callbacks"),
        pytest.param("noreply", FULL.replace("=c", "="), id="no answers"),
        # 1 MiB is 16 chunks of 65,535 bytes and a rest.
        pytest.param("large1", FULL.replace("B=c", " ".join(["B=c"] * 17)), id="many chunks"),
    ],
)
def test_the_script_of_a_workload(workload: str, written: str) -> None:
    assert answers.script(workload) == written


def test_runs_are_shortened() -> None:
    assert answers.shorten("L=c L=c L=c N=c") == "3 L=c N=c"


def test_surplus_and_missing_commands_are_named() -> None:
    assert answers.difference("M=c E=a", "L=c L=c E=a") == "without M=c, also 2 L=c"


def test_who_was_asked_everything_differs_in_nothing(strict: Contestant) -> None:
    assert answers.undeclared(strict, "noop", FULL) == ""


@pytest.mark.parametrize("letters", [NO_DATA, f"{FULL} E=a", FULL.replace("B=c", "B=")])
def test_whatever_is_not_declared_is_told(strict: Contestant, letters: str) -> None:
    assert answers.undeclared(strict, "noop", letters) != ""


@pytest.mark.parametrize("contestant", OLD_VERSIONS, ids=lambda each: each.name)
def test_libraries_with_old_versions_lack_data_and_must_lack_it(contestant: Contestant) -> None:
    assert answers.undeclared(contestant, "noop", NO_DATA) == ""
    assert answers.undeclared(contestant, "noop", FULL) == "also T=c"
    assert answers.undeclared(contestant, "noop", NO_DATA.replace("H=c ", "")) == "without H=c"


def test_what_cannot_be_negotiated_away_is_asked_besides() -> None:
    (perl,) = choose_contestants(["perl-prefork"])
    assert answers.undeclared(perl, "small", "C=c M=c R=c R=c E=a") == ""


def test_who_was_asked_less_is_named_in_the_report() -> None:
    found = Measurement("go-milter", NOOP, 1, "unix", figures={"letters": NO_DATA})
    results = Results(settings={}, absent={}, measurements=[found])
    assert answers.differences(results, NOOP) == {"go-milter": "without T=c"}
