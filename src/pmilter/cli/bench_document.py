"""The results of a load for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pmilter._version import __version__
from pmilter.client.load import FAILURES, STAGES
from pmilter.protocol.rules import GRANTS
from pmilter.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter.client.load import Figures, Histogram, Plan

PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}

BUSY: Final = 0.9
"""Share of a core above which a process of the load, and not the filter, may be what limits the figures."""


class Run(NamedTuple):
    """A load that is over."""

    plan: Plan
    processes: int
    figures: Figures
    interrupted: bool

    @property
    def share(self) -> float:
        """The share of a core that each process of the load has used."""
        return self.figures.cpu / max(1, self.figures.elapsed) / self.processes

    @property
    def limited(self) -> bool:
        """Whether the load may have been what limits the figures."""
        return self.share > BUSY

    @property
    def stalled(self) -> bool:
        """Whether the filter let all of the time pass without an answer, so that not one message was done."""
        return bool(self.figures.waiting) and not self.figures.messages and not self.interrupted

    @property
    def unmeasured(self) -> bool:
        """Whether it was interrupted before the measurement began."""
        return self.interrupted and not self.figures.elapsed

    def reasons(self) -> Iterator[str]:
        """Return what went wrong, a sentence for each kind of failure, and one where nothing was measured or no message done."""
        for kind in FAILURES:
            if count := self.figures.failures[kind]:
                times = "" if count == 1 else f" ({count:,} connections failed so)"
                yield printable(self.figures.reasons[kind]) + times
        if self.unmeasured:
            yield "interrupted while warming up: nothing was measured"
        elif not self.figures.messages and not self.figures.failures:
            yield f"{self.plan.address}: no message was done in {self.figures.seconds:.3g} s{self._standstill()}"

    def _standstill(self) -> str:
        """Return where connections wait for an answer, and what may help."""
        if not self.figures.waiting:
            return ""
        ((stage, count),) = self.figures.waiting.most_common(1)
        who = "1 connection waits" if count == 1 else f"{count:,} connections wait"
        return (
            f": {who} for an answer at {stage}. Is it a milter that listens there, and has it connections to spare? "
            "For a slow one, give more time with --seconds"
        )


def document(run: Run) -> dict[str, Any]:
    """Return all results as JSON has them; docs/bench.md describes them."""
    figures = run.figures
    return {
        "pmilter": __version__,
        "load": _load(run),
        "agreed": _agreed(figures),
        "interrupted": run.interrupted,
        "seconds": round(figures.elapsed / 1e9, 6),
        "messages": figures.messages,
        "messages_a_second": round(figures.messages / figures.seconds, 2),
        "commands": figures.commands,
        "commands_a_second": round(figures.commands / figures.seconds, 2),
        "bytes_sent": figures.sent,
        "bytes_received": figures.received,
        "bytes_a_second": round((figures.sent + figures.received) / figures.seconds),
        "connections": figures.connections,
        "overdue": figures.overdue,
        "message_us": _latency(figures.message, buckets=True),
        "command_us": _latency(figures.command, buckets=True),
        "stages": _stages(figures),
        "outcomes": [
            {"stage": stage, "verdict": verdict, "messages": count}
            for (stage, verdict), count in figures.outcomes.most_common()
        ],
        "changes": {GRANTS[code].name: count for code, count in figures.changes.most_common()},
        "progress": figures.progress,
        "failures": {
            kind: {"connections": figures.failures[kind], "first": printable(figures.reasons[kind])}
            for kind in FAILURES
            if figures.failures[kind]
        },
        "waiting": dict(figures.waiting),
        "own_cpu_share": round(run.share, 3),
        "own_limit": run.limited,
    }


def _load(run: Run) -> dict[str, Any]:
    plan = run.plan
    return {
        "address": str(plan.address),
        "dialect": plan.dialect.name,
        "version": plan.version,
        "macros": plan.macros,
        "connections": plan.connections,
        "messages_a_connection": plan.messages,
        "message_bytes": len(plan.message),
        "recipients": plan.recipients,
        "seconds": plan.seconds,
        "total": plan.total,
        "warm_up": plan.warm_up,
        "rate": plan.rate,
        "timeout": plan.timeout,
        "processes": run.processes,
    }


def _agreed(figures: Figures) -> dict[str, int] | None:
    if figures.agreed is None:
        return None
    return dict(zip(("version", "actions", "steps"), figures.agreed, strict=True))


def _stages(figures: Figures) -> dict[str, Any]:
    answers = figures.all_answers()
    return {
        stage: {**_latency(figures.latency[stage]), "answers": answers.get(stage, {})}
        for stage in STAGES
        if figures.latency[stage].total
    }


def _latency(histogram: Histogram, *, buckets: bool = False) -> dict[str, Any]:
    """Return a histogram in microseconds."""
    count = histogram.count
    figures: dict[str, Any] = {
        "count": count,
        "min": histogram.least / 1000,
        "mean": round(histogram.total / max(1, count) / 1000, 3),
        **{name: histogram.percentile(part) / 1000 for name, part in PERCENTILES.items()},
        "max": histogram.most / 1000,
    }
    if buckets:
        figures["histogram"] = [
            [bar.above / 1000, bar.up_to / 1000, bar.number] for bar in histogram.bars(2)
        ]
    return figures
