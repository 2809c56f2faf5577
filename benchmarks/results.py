"""All figures of a run, and how several rounds become one figure."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.cases import Case
    from benchmarks.interpreters import Interpreter
    from benchmarks.measure import Measurement, Memory
    from benchmarks.postfix import Passage

    Figure = Callable[[Measurement], float]


def throughput(of: Measurement) -> float:
    """Messages a second."""
    return of.messages_a_second


def cpu(of: Measurement) -> float:
    """Microseconds of CPU a message."""
    return of.cpu_us_a_message


def byte_rate(of: Measurement) -> float:
    """Bytes a second that the generator sent."""
    return of.bytes_a_second


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    most: float


def machine() -> dict[str, Any]:
    """Describe what the figures depend on."""
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


@dataclass
class Results:
    """What a run found.

    Attributes:
        settings: The options of the run.
        absent: Contestants that could not be measured, with the reason.
        measurements: Of every round, the failed ones too.
        memories: One for each contestant.
        passages: Through a real Postfix, of every round.
        machine: See `machine`.
        interpreters: For each need of a contestant that is a Python, which one.
    """

    settings: dict[str, Any]
    absent: dict[str, str]
    measurements: list[Measurement] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=machine)
    interpreters: dict[str, Interpreter] = field(default_factory=dict)

    def good(self, case: Case, contestant: str) -> list[Measurement]:
        """Measurements without error, by round."""
        return [
            each
            for each in self.measurements
            if each.case == case and each.contestant == contestant and each.error is None
        ]

    def undisturbed(self) -> Results:
        """Give the same without the rounds in which too much of the machine went to others."""
        quiet = [each for each in self.measurements if not each.disturbed]
        return dataclasses.replace(self, measurements=quiet)

    def cases(self) -> list[Case]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(each.case for each in self.measurements))

    def contestants(self, case: Case) -> list[str]:
        """Those with at least one good measurement."""
        names = dict.fromkeys(
            each.contestant for each in self.measurements if each.case == case and not each.error
        )
        return list(names)

    def errors(self) -> dict[tuple[str, str], str]:
        """The first error of each contestant in each case, and of its memory."""
        found: dict[tuple[str, str], str] = {}
        for each in self.measurements:
            if each.error is not None:
                found.setdefault((each.contestant, str(each.case)), each.error)
        for memory in self.memories:
            if memory.error is not None:
                found[memory.contestant, "memory"] = memory.error
        for passage in self.passages:
            if passage.error is not None:
                found.setdefault((passage.contestant, "through Postfix"), passage.error)
        return found

    def spread(self, case: Case, contestant: str, figure: Figure) -> Spread | None:
        """Median and extremes over the rounds."""
        values = [figure(each) for each in self.good(case, contestant)]
        if not values:
            return None
        return Spread(statistics.median(values), min(values), max(values))

    def ratio(
        self, figure: Figure, top: tuple[Case, str], bottom: tuple[Case, str]
    ) -> float | None:
        """How much of one contestant's figure another one has.

        Taken within each round, where both ran under the same conditions; the median of those.
        """
        below = {each.round: figure(each) for each in self.good(*bottom)}
        ratios = [
            figure(each) / below[each.round]
            for each in self.good(*top)
            if below.get(each.round, 0) > 0
        ]
        return statistics.median(ratios) if ratios else None

    def passage(self, contestant: str) -> Spread | None:
        """Messages a second through Postfix, over the rounds."""
        rates = self._passage_rates(contestant).values()
        return Spread(statistics.median(rates), min(rates), max(rates)) if rates else None

    def passage_ratio(self, top: str, bottom: str) -> float | None:
        """As `ratio`, through Postfix."""
        above, below = self._passage_rates(top), self._passage_rates(bottom)
        ratios = [above[number] / below[number] for number in above.keys() & below.keys()]
        return statistics.median(ratios) if ratios else None

    def _passage_rates(self, contestant: str) -> dict[int, float]:
        return {
            each.round: each.messages_a_second
            for each in self.passages
            if each.contestant == contestant and each.error is None
        }

    def memory(self, contestant: str) -> Memory | None:
        """Memory of a contestant, if it was read."""
        return next((each for each in self.memories if each.contestant == contestant), None)

    def growth_kib(self, contestant: str, connections: int = 1000) -> float | None:
        """KiB that each idle connection costs."""
        memory = self.memory(contestant)
        if memory is None or connections not in memory.kib:
            return None
        return (memory.kib[connections] - memory.kib[0]) / connections

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        content = dataclasses.asdict(self)
        for plain, each in zip(content["measurements"], self.measurements, strict=True):
            plain["case"] = str(each.case)
        path.write_text(json.dumps(content, indent=1) + "\n")
