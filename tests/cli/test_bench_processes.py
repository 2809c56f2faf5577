from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from pmilter.address import parse_address
from pmilter.cli.bench_processes import Standing, run_loads
from pmilter.client.load import Plan
from tests.support.rawfilter import RawFilter
from tests.support.waiting import children_of


def plan(address: str, total: int | None = 30, seconds: float | None = None) -> Plan:
    return Plan(
        address=parse_address(address),
        message=b"Subject: x\r\n\r\n",
        warm_up=0,
        total=total,
        seconds=seconds,
    )


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_figures_of_all_processes_are_added(tmp_path: Path) -> None:
    with RawFilter(tmp_path) as filter_:
        outcome = run_loads(plan(filter_.address).shares(3), lambda _: None)
    assert not outcome.interrupted
    assert outcome.figures.messages == 30
    assert outcome.figures.latency["eom"].count == 30


def test_watcher_sees_what_all_have_done(tmp_path: Path) -> None:
    seen: list[Standing] = []
    with RawFilter(tmp_path) as filter_:
        run_loads(plan(filter_.address).shares(2), seen.append)
    assert seen[-1] == Standing(messages=30, failures=0)
    assert seen == sorted(seen)


def test_no_process_and_no_descriptor_is_left(tmp_path: Path) -> None:
    with RawFilter(tmp_path) as filter_:
        before = children_of(os.getpid()), descriptors()
        run_loads(plan(filter_.address).shares(2), lambda _: None)
        assert (children_of(os.getpid()), descriptors()) == before


def test_interrupt_ends_all_with_what_they_have(tmp_path: Path) -> None:
    def watch(standing: Standing) -> None:
        if standing.messages and not interrupts:
            interrupts.append(standing)
            raise KeyboardInterrupt

    interrupts: list[Standing] = []
    with RawFilter(tmp_path) as filter_:
        outcome = run_loads(plan(filter_.address, None, 60).shares(2), watch)
    assert outcome.interrupted
    assert outcome.figures.messages >= interrupts[0].messages


def test_second_interrupt_ends_everything(tmp_path: Path) -> None:
    def watch(standing: Standing) -> None:
        raise KeyboardInterrupt

    with RawFilter(tmp_path) as filter_:
        before = children_of(os.getpid())
        with pytest.raises(KeyboardInterrupt):
            run_loads(plan(filter_.address, None, 60).shares(2), watch)
        assert children_of(os.getpid()) == before


def test_process_that_fails_is_told_of(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="ended without a result"):
        run_loads([plan("fd:filter")], lambda _: None)
    assert "ConfigError" in capfd.readouterr().err


def test_many_connections_get_the_descriptors_that_they_need(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = Plan(
        address=parse_address(f"unix:{tmp_path}/raw"),
        message=b"Subject: x\r\n\r\n",
        warm_up=0,
        total=100,
        seconds=None,
        connections=100,
    )
    with RawFilter(tmp_path):
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
        try:
            outcome = run_loads([many], lambda _: None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert outcome.figures.failures == {}
    assert outcome.figures.messages == 100
