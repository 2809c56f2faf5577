from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pmilter.address import parse_address
from pmilter.cli.bench_document import Run
from pmilter.cli.bench_report import Report, format_time, notes
from pmilter.client.load import Figures, Plan
from pmilter.protocol.constants import Action, Answer, Status, Step


def run(figures: Figures | None = None, **changes: Any) -> Run:
    plan = Plan(
        address=parse_address("/run/filter"),
        message=b"Subject: x\r\n\r\n",
        rate=changes.pop("rate", None),
    )
    usual: dict[str, Any] = {"plan": plan, "processes": 1, "interrupted": False}
    usual["figures"] = figures or measured()
    return Run(**(usual | changes))


def measured() -> Figures:
    figures = Figures(elapsed=2_000_000_000, cpu=100_000_000, connections=3, commands=30, sent=9000)
    figures.agreed = 6, Action.ADDHDRS, Step.NOBODY | Step.NR_HDR
    figures.latency["negotiate"].record(90_000)
    for number in range(8):
        figures.message.record(1_500_000 if number else 3_100_000)
        figures.latency["envrcpt"].record(20_000)
        figures.note_outcome("eom", Status.ACCEPT)
    figures.note_answer("envrcpt", Answer.REPLYCODE, b"550 no")
    figures.note_outcome("envrcpt", Status.REJECT)
    figures.changes[Answer.ADDHEADER] = 8
    figures.progress = 2
    return figures


def printed(shown: Run, encoding: str = "utf-8", **options: Any) -> list[str]:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    Report(Console(file=out, width=100, **options)).print(shown)
    out.flush()
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


def test_totals_are_shown_with_their_rates() -> None:
    lines = printed(run())
    assert "messages       9         4" in lines
    assert "commands      30        15" in lines
    assert "in 2.00 s, on 3 connections" in lines


def test_agreement_is_told_in_words() -> None:
    lines = printed(run())
    assert "The filter may call addheader, insheader." in lines
    assert "It does not want to be asked at body." in lines
    assert "It never has an answer at header, so that the MTA need not wait there." in lines


def test_latencies_are_shown_by_stage() -> None:
    lines = printed(run())
    [envrcpt] = [line for line in lines if line.startswith("  envrcpt")]
    assert envrcpt.split() == ["envrcpt", "8", *["20.0", "µs"] * 6]
    assert not [line for line in lines if line.startswith("  header")]


def test_histogram_is_drawn_to_scale() -> None:
    lines = printed(run())
    drawing = lines[lines.index("Messages by their time") + 2 :][:3]
    assert [line.split() for line in drawing] == [
        ["1.57", "ms", "█" * 40, "87.5%", "7"],
        ["2.10", "ms", "0.0%", "0"],
        ["3.15", "ms", "█████▊", "12.5%", "1"],
    ]


def test_terminal_without_unicode_gets_plain_signs() -> None:
    lines = printed(run(), encoding="ascii")
    assert any("#" * 40 in line for line in lines)
    assert any("20.0 us" in line for line in lines)


def test_verdicts_are_shown_with_their_shares() -> None:
    lines = [line.split() for line in printed(run())]
    assert ["envrcpt", "continue", "7", "87.5%"] in lines
    assert ["envrcpt", "replycode", "5xx", "1", "12.5%"] in lines
    assert ["addheader", "8"] in lines
    assert ["progress", "2"] in lines
    assert ["accept", "eom", "8", "88.9%"] in lines
    assert ["reject", "envrcpt", "1", "11.1%"] in lines


def test_wide_range_is_drawn_with_fewer_bars() -> None:
    figures = measured()
    for power in range(10, 36):
        figures.message.record(1 << power)
    lines = printed(run(figures))
    start = lines.index("Messages by their time") + 2
    assert lines.index("", start) - start <= 27


def test_nothing_is_shown_of_a_load_that_never_began() -> None:
    assert printed(run(Figures())) == []


def test_rate_that_was_asked_for_is_named() -> None:
    assert printed(run(rate=1500.0))[1].endswith(
        "10 messages on each, 1,500 messages begun a second"
    )


def test_colours_are_for_terminals() -> None:
    assert any("\x1b[" in line for line in printed(run(), force_terminal=True))
    assert not any("\x1b[" in line for line in printed(run()))


def test_notes_tell_what_the_load_itself_took() -> None:
    assert list(notes(run())) == ["The load itself took 5% of a core."]


def test_notes_tell_when_the_tool_is_the_limit_and_what_to_do() -> None:
    [note] = notes(run(Figures(elapsed=10**9, cpu=95 * 10**7)))
    assert "the figures are the limit of this tool" in note
    assert "--processes 2" in note


def test_notes_tell_of_an_interrupt_and_of_messages_that_never_began() -> None:
    found = list(notes(run(Figures(elapsed=10**9, overdue=70), interrupted=True, rate=100.0)))
    assert found[0] == "Interrupted: these are the results so far."
    assert "did not keep up with 100 messages a second: at the end 70 messages" in found[1]


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0, "0.00 µs"),
        (1234, "1.23 µs"),
        (12_340, "12.3 µs"),
        (123_456, "123 µs"),
        (999_499, "999 µs"),
        (999_500, "1.00 ms"),
        (99_949_999, "99.9 ms"),
        (999_500_000, "1.00 s"),
        (71_000_000_000, "71.0 s"),
    ],
)
def test_times_have_three_digits(duration: int, text: str) -> None:
    assert format_time(duration) == text
