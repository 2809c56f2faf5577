from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pmilter.address import parse_address
from pmilter.cli.bench_document import Run, document
from pmilter.client.load import Figures, Plan
from pmilter.protocol.constants import Answer, Status

PLAN = Plan(address=parse_address("/run/filter"), message=b"Subject: x\r\n\r\n", rate=5.0)
DOCS = Path(__file__).parents[2] / "docs" / "bench.md"


def run(**changes: Any) -> Run:
    figures = Figures(
        agreed=(6, 1, 0),
        elapsed=2_000_000_000,
        cpu=500_000_000,
        commands=30,
        sent=900,
        received=100,
    )
    for number in (1, 2, 3, 4):
        figures.message.record(number * 1_000_000)
        figures.latency["eom"].record(number * 10_000)
        figures.note_outcome("eom", Status.ACCEPT)
    figures.note_answer("eom", Answer.ACCEPT, b"")
    figures.changes[Answer.ADDHEADER] = 4
    figures.waiting["negotiate"] = 2
    figures.note_failure("closed", "the filter said \x1b[31m and left")
    usual: dict[str, Any] = {"plan": PLAN, "processes": 1, "figures": figures, "interrupted": False}
    return Run(**(usual | changes))


def shape(value: Any) -> Any:
    """Return a document's types in place of its values; of a list, those of its first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return type(value).__name__


LATENCY = {
    "count": "int", "min": "float", "mean": "float", "p50": "float", "p90": "float", "p99": "float", "p99.9": "float",
    "max": "float",
}  # fmt: skip
SHAPE = {
    "pmilter": "str",
    "load": {
        "address": "str", "dialect": "str", "version": "int", "macros": "bool", "connections": "int",
        "messages_a_connection": "int", "message_bytes": "int", "recipients": "int", "seconds": "float", "total": "NoneType",
        "warm_up": "float", "rate": "float", "timeout": "float", "processes": "int",
    },
    "agreed": {"version": "int", "actions": "int", "steps": "int"},
    "interrupted": "bool",
    "seconds": "float",
    "messages": "int",
    "messages_a_second": "float",
    "commands": "int",
    "commands_a_second": "float",
    "bytes_sent": "int",
    "bytes_received": "int",
    "bytes_a_second": "int",
    "connections": "int",
    "overdue": "int",
    "message_us": {**LATENCY, "histogram": [["float"]]},
    "command_us": {**LATENCY, "histogram": [["float"]]},
    "stages": {"eom": {**LATENCY, "answers": {"continue": "int", "accept": "int"}}},
    "outcomes": [{"stage": "str", "verdict": "str", "messages": "int"}],
    "changes": {"addheader": "int"},
    "progress": "int",
    "failures": {"closed": {"connections": "int", "first": "str"}},
    "waiting": {"negotiate": "int"},
    "own_cpu_share": "float",
    "own_limit": "bool",
}  # fmt: skip


def test_document_has_the_shape_that_programs_rely_on() -> None:
    assert shape(json.loads(json.dumps(document(run())))) == SHAPE


def test_each_of_its_names_is_described() -> None:
    text = DOCS.read_text()
    for name in SHAPE:
        assert f"`{name}`" in text


def test_figures_are_in_the_units_that_their_names_say() -> None:
    found = document(run())
    assert found["seconds"] == 2.0
    assert found["messages_a_second"] == 2.0
    assert found["commands_a_second"] == 15.0
    assert found["bytes_a_second"] == 500
    assert found["message_us"]["min"] == 1000
    assert found["message_us"]["max"] == 4000
    assert found["message_us"]["mean"] == 2500
    assert sum(count for _, _, count in found["message_us"]["histogram"]) == 4
    assert found["stages"]["eom"]["answers"] == {"continue": 3, "accept": 1}


def test_nothing_agreed_is_null() -> None:
    assert document(run(figures=Figures()))["agreed"] is None


def test_text_of_the_filter_is_made_safe() -> None:
    assert document(run())["failures"]["closed"]["first"] == r"the filter said \x1b[31m and left"


def test_own_share_is_that_of_each_process() -> None:
    assert (run().share, run().limited) == (0.25, False)
    busy = Figures(elapsed=10**9, cpu=19 * 10**8)
    assert run(figures=busy, processes=2).share == 0.95
    assert run(figures=busy, processes=2).limited
    assert run(figures=Figures()).share == 0


def test_reasons_are_sentences_in_the_order_of_their_importance() -> None:
    figures = Figures()
    for kind in ("closed", "timeout", "timeout"):
        figures.note_failure(kind, f"{kind}.")
    assert list(run(figures=figures).reasons()) == [
        "timeout. (2 connections failed so)",
        "closed.",
    ]


def test_standstill_is_a_sentence_with_the_remedy() -> None:
    figures = Figures(elapsed=10**10)
    figures.waiting["negotiate"] = 3

    assert run(figures=figures).stalled
    assert list(run(figures=figures).reasons()) == [
        "unix:/run/filter: no message was done in 10 s: 3 connections wait for an answer at negotiate. "
        "Is it a milter that listens there, and has it connections to spare? "
        "For a slow one, give more time with --seconds"
    ]


def test_who_interrupts_is_told_that_there_is_nothing_but_it_is_no_failure_of_the_filter() -> None:
    figures = Figures(elapsed=10**9)
    assert list(run(figures=figures, interrupted=True).reasons()) == [
        "unix:/run/filter: no message was done in 1 s"
    ]
    figures.waiting["negotiate"] = 1
    assert not run(figures=figures, interrupted=True).stalled


def test_interrupt_before_the_measurement_is_told_beside_what_has_failed_by_then() -> None:
    figures = Figures()
    assert run(figures=figures, interrupted=True).unmeasured
    told = "interrupted while warming up: nothing was measured"
    assert list(run(figures=figures, interrupted=True).reasons()) == [told]
    figures.note_failure("closed", "gone")
    assert list(run(figures=figures, interrupted=True).reasons()) == ["gone", told]
    assert not run(figures=figures).unmeasured
    assert not run(figures=Figures(elapsed=1), interrupted=True).unmeasured


def test_connections_that_wait_beside_messages_are_no_standstill() -> None:
    figures = Figures(messages=1)
    figures.waiting["negotiate"] = 3
    assert not run(figures=figures).stalled
    assert list(run(figures=figures).reasons()) == []
