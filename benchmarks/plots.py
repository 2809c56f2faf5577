"""Bar charts as SVG, written by hand: that is less than a plotting library would be to install."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from benchmarks.catalogue import CONTESTANTS
from benchmarks.results import Spread, cpu, throughput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.cases import Case
    from benchmarks.results import Figure, Results

COLOURS = {"ceiling": "#8d99ae", "peer": "#e09f3e", "ours": "#2a6f97"}
MEANINGS = {"ceiling": "C, answers without looking", "peer": "other libraries", "ours": "pmilter"}
GROUP_OF = {contestant.name: contestant.group for contestant in CONTESTANTS}

# Pixels.
LABELS, PANEL, NUMBERS, ROW, BAR, HEAD = 190, 260, 70, 24, 15, 78


@dataclass(frozen=True)
class Panel:
    """One column of bars.

    Attributes:
        title: What they show, with the unit.
        bars: A figure for each label; where there is none, none is drawn.
    """

    title: str
    bars: dict[str, Spread]

    @property
    def scale(self) -> float:
        """The value of a bar of full length."""
        return max((bar.most for bar in self.bars.values()), default=0) or 1


def _text(x: float, y: float, text: str, *, anchor: str = "start", css: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'
    )


def _bar(x: float, y: float, of: Spread, scale: float, colour: str) -> list[str]:
    """Draw a bar of the median, a whisker from the least to the most, and the number."""
    pixels = PANEL / scale
    middle = y + BAR / 2
    least, most = x + of.least * pixels, x + of.most * pixels
    digits = 0 if of.median >= 100 else 1
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{of.median * pixels:.1f}" height="{BAR}" '
        f'rx="2" fill="{colour}"/>'
    ]
    if most > least:
        parts.append(
            f'<path d="M{least:.1f} {middle:.1f}H{most:.1f}M{least:.1f} {middle - 3:.1f}v6'
            f'M{most:.1f} {middle - 3:.1f}v6" stroke="#333" fill="none"/>'
        )
    parts.append(_text(most + 6, y + BAR - 3, f"{of.median:,.{digits}f}", css="number"))
    return parts


def _legend(groups: Sequence[str]) -> list[str]:
    parts = []
    for place, group in enumerate(groups):
        x = LABELS + place * 200
        parts.append(f'<rect x="{x}" y="36" width="11" height="11" fill="{COLOURS[group]}"/>')
        parts.append(_text(x + 16, 46, MEANINGS[group], css="legend"))
    return parts


def chart(title: str, labels: list[str], panels: list[Panel]) -> str:
    """Draw a row for each label, with a bar in each panel that has any."""
    panels = [panel for panel in panels if panel.bars]
    width = LABELS + len(panels) * (PANEL + NUMBERS)
    height = HEAD + ROW * len(labels) + 14
    groups = [group for group in COLOURS if group in {GROUP_OF[label] for label in labels}]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        "<style>text{font:12px system-ui,sans-serif;fill:#222}.title{font-size:16px;"
        "font-weight:600}.head{font-weight:600}.number,.legend{fill:#555}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(12, 24, title, css="title"),
        *_legend(groups),
    ]
    for column, panel in enumerate(panels):
        x = LABELS + column * (PANEL + NUMBERS)
        parts.append(_text(x, HEAD - 10, panel.title, css="head"))
        parts.append(f'<path d="M{x} {HEAD - 4}V{height - 10}" stroke="#bbb"/>')
    for row, label in enumerate(labels):
        y = HEAD + row * ROW
        parts.append(_text(LABELS - 8, y + BAR - 3, label, anchor="end"))
        for column, panel in enumerate(panels):
            if label in panel.bars:
                x = LABELS + column * (PANEL + NUMBERS)
                colour = COLOURS[GROUP_OF[label]]
                parts += _bar(x, y, panel.bars[label], panel.scale, colour)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bars(results: Results, case: Case, figure: Figure) -> dict[str, Spread]:
    spreads = {name: results.spread(case, name, figure) for name in results.contestants(case)}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def case_chart(results: Results, case: Case) -> str:
    """Draw throughput and CPU of a case, best first."""
    speeds = _bars(results, case, throughput)
    labels = sorted(speeds, key=lambda name: speeds[name].median, reverse=True)
    panels = [
        Panel("messages a second (more is better)", speeds),
        Panel("CPU µs a message (less is better)", _bars(results, case, cpu)),
    ]
    return chart(str(case), labels, panels)


def memory_chart(results: Results) -> str:
    """Draw the memory with and without idle connections, least first."""

    def single(value: float) -> Spread:
        return Spread(value, value, value)

    alone = {each.contestant: single(each.kib[0] / 1024) for each in results.memories if each.kib}
    growths = {name: results.growth_kib(name) for name in alone}
    growing = {name: single(max(0, kib)) for name, kib in growths.items() if kib is not None}
    labels = sorted(alone, key=lambda name: alone[name].median)
    panels = [
        Panel("MiB without a connection", alone),
        Panel("KiB for each of 1,000 idle connections", growing),
    ]
    return chart("memory (PSS of all processes)", labels, panels)


def save_all(results: Results, folder: Path) -> list[Path]:
    """Write a chart for each case, and one of memory."""
    charts = {
        str(case).replace("/", "-"): case_chart(results, case)
        for case in results.cases()
        if results.contestants(case)
    }
    if any(memory.kib for memory in results.memories):
        charts["memory"] = memory_chart(results)
    paths = []
    for name, drawing in charts.items():
        path = folder / f"{name}.svg"
        path.write_text(drawing)
        paths.append(path)
    return paths
