"""The command itself, in its short form. A figure is never a test."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from benchmarks import suite
from benchmarks.build import BUILDERS
from benchmarks.cases import SHORT, Case
from benchmarks.catalogue import CONTESTANTS, Contestant, choose_contestants
from benchmarks.measure import Measurement, Setting, measure, measure_memory
from benchmarks.results import Results

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def setting(generator: Path) -> Setting:
    programs = {"ceiling": BUILDERS["ceiling"]()}
    return Setting(generator, programs, seconds=0.05, server_core=None, load_core=None, tries=1)


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_every_workload_runs_against_the_ceiling(setting: Setting, case: Case) -> None:
    (contestant,) = choose_contestants(["ceiling-epoll"])
    found = measure(setting, contestant, case, 1)
    assert found.error is None
    assert found.family == case.family
    assert found.messages_a_second > 0
    assert found.figures["negotiated"]["version"] == 6


def test_memory_is_read_with_more_and_more_connections(setting: Setting) -> None:
    (contestant,) = choose_contestants(["ceiling-thread"])
    memory = measure_memory(setting, contestant, (1, 8))
    assert memory.error is None
    assert sorted(memory.kib) == [0, 1, 8]
    assert 0 < memory.kib[0] < memory.kib[8]


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(setting: Setting) -> None:
    broken = Contestant("broken", "ceiling", "ceiling", "{program} epoll {address} nonsense")
    found = measure(setting, broken, Case("noop", "tcp", 1), 1)
    assert found.error is not None
    assert "broken ended with status 2: usage: ceiling" in found.error


NOT_SMALL = ("C=c", "H=c", "M=c", "T=c", "L=c", "N=c", "B=c")


def test_a_server_that_negotiates_steps_away_is_an_error(setting: Setting) -> None:
    lazy = Contestant("lazy", "ceiling", "ceiling", "{program} epoll {address} small")
    found = measure(setting, lazy, Case("noop", "unix", 1), 1)
    assert found.error is not None
    assert "not asked what the workload asks: without C=c H=c M=c T=c 20 L=c N=c B=c" in found.error
    assert found.messages_a_second == 0


def test_only_ours_and_the_ceilings_decide_the_exit_status() -> None:
    contestants = choose_contestants(["pmilter-selector", "go-milter"])
    failed = [
        Measurement(each.name, SHORT[0], 1, "unix", error="without M=c") for each in contestants
    ]
    results = Results(settings={}, absent={}, measurements=failed)
    assert suite.failed_that_must_work(results, contestants) == [
        "pmilter-selector, noop/unix/4: without M=c"
    ]


def test_what_a_server_is_known_to_lack_is_no_error(setting: Setting) -> None:
    lacking = Contestant(
        "lacking", "peer", "ceiling", "{program} epoll {address} small", lacks=NOT_SMALL
    )
    found = measure(setting, lacking, Case("noop", "unix", 1), 1)
    assert found.error is None
    assert found.messages_a_second > 0


def test_cores_are_given_without_a_program_for_it(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is none
    core = min(os.sched_getaffinity(0))
    (contestant,) = choose_contestants(["ceiling-epoll"])
    pinned = replace(setting, server_core=core, load_core=core)
    assert measure(pinned, contestant, Case("noop", "unix", 1), 1).error is None


def test_a_measurement_that_stays_above_the_limit_of_noise_says_so(setting: Setting) -> None:
    (contestant,) = choose_contestants(["ceiling-epoll"])
    everything_is_noise = replace(setting, noise_limit=-1)
    nothing_is_noise = replace(setting, noise_limit=2)
    case = Case("noop", "unix", 1)
    assert measure(everything_is_noise, contestant, case, 1).disturbed
    assert not measure(nothing_is_noise, contestant, case, 1).disturbed


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (3700, "62 min")]
)
def test_the_time_that_is_left_is_told_in_seconds_below_two_minutes(
    seconds: float, written: str
) -> None:
    assert suite.duration(seconds) == written


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rounds", "-1"), ("--rounds", "0"), ("--rounds", "many"),
        ("--seconds", "-1"), ("--seconds", "nan"), ("--noise-limit", "2"),
    ],
)  # fmt: skip
def test_numbers_out_of_bounds_are_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        suite.main([option, value])
    assert ended.value.code == 2
    assert f"argument {option}: '{value}' is no number from" in capsys.readouterr().err


def test_rounds_are_interleaved_and_begin_with_another_each_time() -> None:
    contestants = choose_contestants(["ceiling", "libmilter"])
    plan = suite.Plan(cases=SHORT[:1], contestants=contestants, rounds=2, idle_counts=())
    names = [(number, contestant.name) for number, _, contestant in plan.turns()]
    assert names == [
        (1, "ceiling-epoll"), (1, "ceiling-thread"), (1, "libmilter"),
        (2, "ceiling-thread"), (2, "libmilter"), (2, "ceiling-epoll"),
    ]  # fmt: skip


def test_filters_that_a_library_cannot_express_are_left_out() -> None:
    perl = choose_contestants(["perl-prefork"])
    plan = suite.Plan(cases=SHORT, contestants=perl, rounds=1, idle_counts=())
    assert "noreply" not in {case.workload for _, case, _ in plan.turns()}


@pytest.mark.usefixtures("generator")
def test_the_short_form_writes_figures_tables_and_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = suite.main(
        ["--short", "--peers", "ceiling-epoll", "--cases", "noop/unix/4", "--output", str(tmp_path)]
    )
    assert status == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json", "report.md", "noop-unix-4.svg", "memory.svg",
    }  # fmt: skip
    (measurement,) = json.loads((tmp_path / "results.json").read_text())["measurements"]
    assert measurement["error"] is None
    assert "round 1 noop/unix/4 ceiling-epoll" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--peers", "nobody"], ["--cases", "nonsense"]])
def test_usage_errors_end_with_two(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    peers = [] if "--peers" in wrong else ["--peers", "ceiling"]
    assert suite.main([*wrong, *peers]) == 2
    assert wrong[1] in capsys.readouterr().err


def test_every_contestant_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(contestant.name in printed for contestant in CONTESTANTS)
