"""The results of a load for people: figures, latencies in tables, and a drawn histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from pmilter.cli.bench_document import BUSY, PERCENTILES
from pmilter.cli.rendering import explain
from pmilter.client.load import STAGES
from pmilter.protocol.constants import Action, Step
from pmilter.protocol.messages import Options
from pmilter.protocol.rules import GRANTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from pmilter.cli.bench_document import Run
    from pmilter.client.load import Histogram

_BAR: Final = 40
"""Columns of the longest bar."""

_MOST_BARS: Final = 24

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"

_STYLES: Final = {"accept": "green", "continue": "green", "skip": "green"}
"""Answer or verdict -> style; the others refuse."""


class Report:
    """Writes results to a console.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ascii = console.options.ascii_only

    def print(self, run: Run) -> None:
        """Write all of it, leaving out what there is nothing of."""
        figures = run.figures
        if not figures.connections:
            return
        self._head(run)
        self._totals(run)
        self._latencies(run)
        self._drawing("Messages by their time", figures.message)
        self._drawing("Commands by their time", figures.command)
        self._answers(run)
        self._outcomes(run)
        self._console.print()
        for note in notes(run):
            self._console.print(Text(note, "yellow"), soft_wrap=True)

    def _head(self, run: Run) -> None:
        plan = run.plan
        self._title(f"pmilter bench {plan.address}")
        rate = f", {plan.rate:,g} messages begun a second" if plan.rate else ""
        self._line(
            f"as {plan.dialect.name.capitalize()}, {_plural(plan.connections, 'connection')}, "
            f"{_plural(plan.messages, 'message')} on each{rate}"
        )
        self._line(
            f"a message has {_plural(len(plan.message), 'byte')} and {_plural(plan.recipients, 'recipient')}"
        )
        if run.figures.agreed is not None:
            version, actions, steps = run.figures.agreed
            for sentence in explain(Options(version, Action(actions), Step(steps))):
                self._line(sentence)

    def _totals(self, run: Run) -> None:
        figures = run.figures
        seconds = figures.seconds
        table = self._table(None, "", "in all", "a second")
        for name, count in (
            ("messages", figures.messages),
            ("commands", figures.commands),
            ("bytes", figures.sent + figures.received),
        ):
            table.add_row(name, f"{count:,}", f"{count / seconds:,.0f}")
        self._console.print(table)
        self._line(f"in {seconds:,.2f} s, on {_plural(figures.connections, 'connection')}")

    def _latencies(self, run: Run) -> None:
        figures = run.figures
        table = self._table("How long the MTA waits", "for", "times", "min", *PERCENTILES, "max")
        self._latency(table, "a message", figures.message, "bold")
        self._latency(table, "a command", figures.command, "bold")
        for stage in STAGES:
            self._latency(table, f"  {stage}", figures.latency[stage])
        self._console.print(table)

    def _latency(self, table: Table, name: str, histogram: Histogram, style: str = "") -> None:
        if histogram.total:
            parts = (histogram.percentile(part) for part in PERCENTILES.values())
            shown = (self._time(one) for one in (histogram.least, *parts, histogram.most))
            table.add_row(name, f"{histogram.count:,}", *shown, style=style)

    def _drawing(self, title: str, histogram: Histogram) -> None:
        count = histogram.count
        if not count:
            return
        table = self._table(title, "up to", "", "", "")
        table.columns[1].justify = "left"
        bars = histogram.bars(2)
        bars = bars if len(bars) <= _MOST_BARS else histogram.bars(1)
        longest = max(bar.number for bar in bars)
        for bar in bars:
            table.add_row(
                self._time(bar.up_to),
                Text(self._bar(bar.number / longest), "cyan"),
                f"{bar.number / count:.1%}",
                f"{bar.number:,}",
            )
        self._console.print(table)

    def _bar(self, part: float) -> str:
        if self._ascii:
            return "#" * max(part > 0, round(part * _BAR))
        eighths = max(part > 0, round(part * _BAR * 8))
        return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()

    def _answers(self, run: Run) -> None:
        table = self._table("What the filter answers", "at", "answer", "times", "")
        table.columns[1].justify = "left"
        for stage, answers in run.figures.all_answers().items():
            whole = sum(answers.values())
            for name, count in answers.items():
                style = _STYLES.get(name, "red")
                table.add_row(stage, Text(name, style), f"{count:,}", f"{count / whole:.1%}")
        for code, count in run.figures.changes.most_common():
            table.add_row("", Text(GRANTS[code].name, "yellow"), f"{count:,}", "")
        if run.figures.progress:
            table.add_row("", "progress", f"{run.figures.progress:,}", "")
        self._console.print(table)

    def _outcomes(self, run: Run) -> None:
        table = self._table("What becomes of the messages", "verdict", "at", "messages", "")
        table.columns[1].justify = "left"
        for (stage, verdict), count in run.figures.outcomes.most_common():
            share = f"{count / run.figures.messages:.1%}"
            table.add_row(Text(verdict, _STYLES.get(verdict, "red")), stage, f"{count:,}", share)
        if table.row_count:
            self._console.print(table)

    # --- lines

    def _table(self, title: str | None, first: str, *others: str) -> Table:
        if title is not None:
            self._console.print()
            self._title(title)
        else:
            self._console.print()
        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=True, header_style="dim"
        )
        table.add_column(first, no_wrap=True)
        for name in others:
            table.add_column(name, justify="right", no_wrap=True)
        return table

    def _time(self, duration: int) -> str:
        return format_time(duration, micro="us" if self._ascii else "µs")

    def _title(self, text: str) -> None:
        self._console.print(Text(text, "bold"), soft_wrap=True)

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


def notes(run: Run) -> Iterator[str]:
    """Return what one should know before trusting the figures."""
    figures = run.figures
    if run.interrupted:
        yield "Interrupted: these are the results so far."
    if figures.overdue:
        yield (
            f"The filter did not keep up with {run.plan.rate:,g} messages a second: at the end "
            f"{_plural(figures.overdue, 'message')} should have begun and had no free connection. "
            "Their waiting is not in the table."
        )
    if not run.limited:
        yield f"The load itself took {run.share:.0%} of a core."
        return
    yield (
        f"The load itself took {run.share:.0%} of a core, more than {BUSY:.0%}: the figures are the limit of this tool, "
        f"not of the filter. Try --processes {run.processes + 1}, if there is a core to spare."
    )


def format_time(duration: int, micro: str = "µs") -> str:
    """Return nanoseconds as people write them, to three digits.

    Args:
        duration: The time.
        micro: How to write microseconds.
    """
    for size, unit in ((1e9, "s"), (1e6, "ms")):
        if duration >= size * 0.9995:
            return f"{_three_digits(duration / size)} {unit}"
    return f"{_three_digits(duration / 1e3)} {micro}"


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
