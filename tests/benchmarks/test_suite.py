"""The command itself, in its short form. A figure is never a test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from benchmarks import suite
from benchmarks.build import BUILDERS
from benchmarks.cases import SHORT, Case
from benchmarks.catalogue import CONTESTANTS, Contestant, choose_contestants
from benchmarks.measure import Setting, measure, measure_memory

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
