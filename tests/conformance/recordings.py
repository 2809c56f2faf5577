"""The recorded sessions of real MTAs and the list of example frames, as the tests use them."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

DATA = Path(__file__).parent.parent / "data"


class Recording(NamedTuple):
    """One recorded connection between a real MTA and a filter."""

    name: str
    letters: str
    """Codes of all frames in order; those of the filter have a ``<`` before them."""
    events: list[tuple[str, bytes]]
    """(``"mta"`` or ``"filter"``, one whole frame)."""

    def runs(self) -> list[tuple[str, list[bytes]]]:
        """Return the frames between two changes of direction."""
        grouped = groupby(self.events, key=lambda event: event[0])
        return [(side, [frame for _, frame in run]) for side, run in grouped]


def read_recording(path: Path) -> Recording:
    data = json.loads(path.read_text("utf-8"))
    events = [(event["dir"], bytes.fromhex(event["hex"])) for event in data["events"]]
    return Recording(path.stem, data["letters"], events)


RECORDINGS = [read_recording(path) for path in sorted((DATA / "captures").glob("*.json"))]

EXAMPLES: list[dict[str, Any]] = json.loads((DATA / "wire-examples.json").read_text("utf-8"))
"""Objects with ``name``, ``direction``, ``hex``, ``fields`` and ``note``."""
