"""How figures become ratios, verdicts and tables."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from benchmarks import plots, tables
from benchmarks.answers import script
from benchmarks.cases import USUAL, Case, choose_cases, parse_case
from benchmarks.catalogue import CONTESTANTS, choose_contestants
from benchmarks.interpreters import Interpreter
from benchmarks.measure import Measurement, Memory
from benchmarks.postfix import Passage
from benchmarks.results import Results, cpu, throughput
from benchmarks.targets import NOOP, TARGETS, Target

if TYPE_CHECKING:
    from pathlib import Path

TIMES = {"p50": 1.0, "p99": 2.0, "p99.9": 3.0}


def measured(name: str, number: int, rate: float, letters: str = script("noop")) -> Measurement:
    figures = {
        "letters": letters,
        "digest": "0123456789abcdef",
        "setup_us": TIMES,
        "command_us": TIMES,
        "message_us": TIMES,
    }
    return Measurement(
        name, NOOP, number, "unix", None, rate, 1000 * rate, 1e6 / rate, figures=figures
    )


def two_rounds() -> Results:
    """In the second round the machine was half as fast."""
    rates = {"libmilter": (3000, 1500), "pmilter-selector": (9000, 4500), "pymilter": (2400, 1500)}
    return Results(
        settings={"rounds": 2},
        absent={"go-milter": "go is not installed"},
        measurements=[
            measured(name, number, rate)
            for name, both in rates.items()
            for number, rate in enumerate(both, 1)
        ],
        memories=[
            Memory("pmilter-selector", {0: 9000, 1000: 14000}),
            Memory("libmilter", {}, "it did not start"),
        ],
        passages=[
            Passage("no filter", 1, 400),
            Passage("libmilter", 1, 200),
            Passage("pmilter-selector", 1, 210),
            Passage("libmilter", 2, error="451 4.7.1"),
            Passage("pmilter-selector", 2, 300),
        ],
        machine={},
    )


def test_ratios_are_taken_within_a_round() -> None:
    results = two_rounds()
    assert results.ratio(throughput, (NOOP, "pmilter-selector"), (NOOP, "libmilter")) == 3.0
    assert results.ratio(cpu, (NOOP, "pmilter-selector"), (NOOP, "libmilter")) == pytest.approx(
        1 / 3
    )
    assert results.ratio(throughput, (NOOP, "pymilter"), (NOOP, "libmilter")) == pytest.approx(0.9)


def test_there_is_no_ratio_without_the_other() -> None:
    assert two_rounds().ratio(throughput, (NOOP, "libmilter"), (NOOP, "go-milter")) is None


def test_failed_measurements_count_for_nothing() -> None:
    results = two_rounds()
    results.measurements.append(Measurement("libmilter", NOOP, 3, "unix", error="no answer to E"))
    spread = results.spread(NOOP, "libmilter", throughput)
    assert spread is not None
    assert (spread.median, spread.least, spread.most) == (2250, 1500, 3000)
    assert results.errors()["libmilter", str(NOOP)] == "no answer to E"


def test_growth_is_given_for_each_connection() -> None:
    assert two_rounds().growth_kib("pmilter-selector") == 5.0
    assert two_rounds().growth_kib("libmilter") is None


@pytest.mark.parametrize(
    ("bound", "at_least", "verdict"),
    [(2.5, True, "pass"), (3.5, True, "miss"), (2.5, False, "miss"), (3.5, False, "pass")],
)
def test_a_target_is_held_against_its_bound(bound: float, at_least: bool, verdict: str) -> None:
    target = Target("what", bound, lambda _: 3.0, at_least)
    assert target.verdict(two_rounds()) == (3.0, verdict)


def test_targets_without_figures_are_not_measured() -> None:
    empty = Results(settings={}, absent={}, machine={})
    assert {target.verdict(empty) for target in TARGETS} == {(None, "not measured")}


def test_the_report_tells_ratios_verdicts_and_reasons() -> None:
    report = tables.report(two_rounds())
    assert "| pmilter-selector | 6,750 (4,500-9,000) | 3.00 |" in report
    assert "| best pure, one process: throughput / libmilter | ≥ 2.2 | 3.00 | pass |" in report
    assert "- go-milter: go is not installed" in report
    assert "- libmilter, memory: it did not start" in report
    assert "| pmilter-selector | 255 (210-300) | 1.05 |" in report
    assert "- libmilter, through Postfix: 451 4.7.1" in report


def test_plots_are_well_formed(tmp_path: Path) -> None:
    paths = plots.save_all(two_rounds(), tmp_path)
    assert sorted(path.name for path in paths) == ["memory.svg", "noop-unix-16.svg"]
    for path in paths:
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_results_are_saved_as_json(tmp_path: Path) -> None:
    two_rounds().save(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["measurements"][0]["case"] == "noop/unix/16"
    assert content["memories"][0]["kib"] == {"0": 9000, "1000": 14000}


def test_disturbed_rounds_are_marked_in_the_table_and_in_targets() -> None:
    results = two_rounds()
    results.measurements[2] = replace(measured("pmilter-selector", 1, 12000), disturbed=True)
    report = tables.report(results)
    assert "| pmilter-selector † | 8,250 (4,500-12,000) | 3.50 |" in report
    assert "| libmilter | 2,250 (1,500-3,000) | 1.00 |" in report
    assert "| best pure, one process: throughput / libmilter | ≥ 2.2 | 3.50 | pass † |" in report
    assert "| ithread: throughput / pymilter | ≥ 1.2 | - | not measured |" in report
    assert report.count("† In a round others took more of the cores than the limit") == 2


def test_nothing_is_marked_where_nothing_was_disturbed() -> None:
    assert "†" not in tables.report(two_rounds())


def test_the_report_says_which_interpreter_ran_what() -> None:
    results = two_rounds()
    results.interpreters["pmilter"] = Interpreter("3.11.7", "3.11.7 (gcc)", "/opt/python")
    results.interpreters["pmilter compiled"] = Interpreter("3.11.2", "3.11.2 (gcc)", "/usr")
    report = tables.report(results)
    assert (
        "Source form: Python 3.11.7 in /opt/python; compiled form: Python 3.11.2 in /usr." in report
    )
    assert "**Warning: the compiled form ran under another build of Python" in report


def test_a_panel_without_a_bar_is_not_drawn() -> None:
    results = two_rounds()
    assert "idle connections" in plots.memory_chart(results)
    results.memories = [Memory("pmilter-selector", {0: 9000, 16: 9100})]
    assert "idle connections" not in plots.memory_chart(results)


def test_cases_are_chosen_by_pattern_or_in_full() -> None:
    assert choose_cases(USUAL, ["tagger/*"]) == (
        Case("tagger", "unix", 16),
        Case("tagger", "tcp", 16),
    )
    assert choose_cases(USUAL, ["small/tcp/3"]) == (Case("small", "tcp", 3),)


@pytest.mark.parametrize("text", ["noop", "noop/unix", "noop/unix/many", "none/unix/1", "noop/x/1"])
def test_other_cases_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_case(text)


def test_contestants_are_chosen_by_name_pattern_or_group() -> None:
    assert [each.name for each in choose_contestants(["libmilter", "ceiling"])] == [
        "libmilter",
        "ceiling-epoll",
        "ceiling-thread",
    ]
    assert set(choose_contestants(["*"])) == set(CONTESTANTS)
    with pytest.raises(ValueError, match="no contestant fits 'nobody'"):
        choose_contestants(["nobody"])
