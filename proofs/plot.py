"""A line chart as SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLOURS = ("#2a6f97", "#e09f3e")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 320, 60, 60, 40  # pixels


def line_chart(title: str, places: Sequence[float], lines: Mapping[str, Sequence[float]]) -> str:
    """Draw a line for each name; the vertical axis begins at 0, lest noise looks like growth."""
    top = 1.1 * max(max(values) for values in lines.values())
    right = places[-1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">',
        "<style>text{font:12px system-ui,sans-serif}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(12, 22, title),
        _text(8, TOP, f"{top:,.0f}"),
        _text(8, HEIGHT - BOTTOM, "0"),
        _text(WIDTH - 100, HEIGHT - 12, f"{right:,.0f} messages"),
        f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 12}" stroke="#999" fill="none"/>',
    ]
    for number, (name, values) in enumerate(lines.items()):
        points = " ".join(
            f"{LEFT + x / right * (WIDTH - LEFT - 12):.1f},"
            f"{HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM):.1f}"
            for x, y in zip(places, values, strict=True)
        )
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{points}" stroke="{colour}" fill="none"/>')
        parts.append(_text(LEFT + 160 * number, 44, name, colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, colour: str = "#222") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}">{escape(text)}</text>'
