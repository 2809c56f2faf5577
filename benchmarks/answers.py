"""Whether every contestant was asked all that the workload has to ask, and gave all the answers.

The generator has compared every byte with what it expected. What can still differ is which commands
were sent: a filter that negotiated some away, or an older version, was asked less.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.cases import FILTER_OF

if TYPE_CHECKING:
    from benchmarks.cases import Case
    from benchmarks.catalogue import Contestant
    from benchmarks.results import Results

# Chunks of body; where nothing is said, one.
CHUNKS = {"large1": 17, "large20": 321}


def script(workload: str) -> str:
    """Letters of a session to the end of its first message, if the filter asks for all it should.

    A command and its answer are ``M=c``; a command without an answer is ``M=``.
    """
    kind = FILTER_OF[workload]
    if kind == "small":
        return "R=c R=c E=a"
    commands = ["C", "H", "M", "R", "R", "T", *["L"] * 20, "N", *["B"] * CHUNKS.get(workload, 1)]
    answer = "" if kind == "noreply" else "c"
    return " ".join(f"{each}={answer}" for each in commands) + (
        " E=hma" if kind == "tagger" else " E=a"
    )


def shorten(letters: str) -> str:
    """Write ``L=c L=c L=c`` as ``3 L=c``."""
    runs = ((word, len(list(same))) for word, same in itertools.groupby(letters.split()))
    return " ".join(f"{count} {word}" if count > 1 else word for word, count in runs)


def difference(usual: str, letters: str) -> str:
    """Say which commands were not asked, or asked besides; empty if there is no difference."""
    expected, got = Counter(usual.split()), Counter(letters.split())
    parts = [f"without {shorten(' '.join((expected - got).elements()))}"] if expected - got else []
    if got - expected:
        parts.append(f"also {shorten(' '.join((got - expected).elements()))}")
    return ", ".join(parts)


def undeclared(contestant: Contestant, workload: str, letters: str) -> str:
    """Say what differs from the script in another way than the contestant is known to differ."""
    words = script(workload).split()
    besides = [word for word in contestant.besides if word not in words]
    kept = [word for word in words if word not in contestant.lacks]
    return difference(" ".join(kept + besides), letters)


def differences(results: Results, case: Case) -> dict[str, str]:
    """Contestants that were not asked what the script says, and in what they differ."""
    usual = script(case.workload)
    found = {}
    for name in results.contestants(case):
        for each in results.good(case, name):
            if text := difference(usual, each.figures["letters"]):
                found[name] = text
    return found
