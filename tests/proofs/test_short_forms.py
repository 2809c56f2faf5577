"""Each proof in its short form, with some of its arrangements; ``python3 tasks.py prove`` does all of it at length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proofs.catalogue import PROOFS

if TYPE_CHECKING:
    from pathlib import Path


def holds(name: str, case: str, directory: Path) -> None:
    """Run a proof in its short form, and fail with what it has found where it does not hold."""
    proof = PROOFS[name]
    finding = proof.prove(case, proof.SIZES["short"], directory, lambda _done, _total: None)
    told = [f"{check.text}: {check.detail}" for check in finding.failures]
    assert finding.passed, "\n".join([*told, *finding.evidence])


@pytest.mark.mta
@pytest.mark.usefixtures("real_postfix")
@pytest.mark.parametrize(
    "case", ["postfork", "prefork", "prefork-ithread", "prefork-selector", "run-prefork-ithread"]
)
def test_killed_children_cost_no_mail(case: str, tmp_path: Path) -> None:
    holds("kills", case, tmp_path)


@pytest.mark.mta
@pytest.mark.usefixtures("real_postfix")
@pytest.mark.parametrize("case", ["postfork", "ithread", "asyncio", "selector", "prefork"])
def test_a_reload_costs_no_answer(case: str, tmp_path: Path) -> None:
    holds("reloads", case, tmp_path)


@pytest.mark.mta
@pytest.mark.usefixtures("real_postfix")
@pytest.mark.parametrize("case", ["ithread", "prefork"])
def test_a_restart_on_a_handed_over_socket_costs_no_answer(case: str, tmp_path: Path) -> None:
    holds("restarts", case, tmp_path)


@pytest.mark.parametrize("case", ["postfork", "prefork-selector", "run-asyncio-coroutines"])
def test_misbehaving_callbacks_harm_nobody_else(case: str, tmp_path: Path) -> None:
    holds("misbehaving", case, tmp_path)


@pytest.mark.parametrize("case", PROOFS["idle"].CASES)
def test_idle_connections_keep_nobody_waiting(case: str, tmp_path: Path) -> None:
    holds("idle", case, tmp_path)


@pytest.mark.parametrize("case", PROOFS["memory"].CASES)
def test_messages_leave_no_trace_in_memory(case: str, tmp_path: Path) -> None:
    holds("memory", case, tmp_path)
    assert (tmp_path / "memory.svg").read_text().startswith("<svg")
