"""Whether all contestants gave the same answers to the same commands.

The generator has compared every byte with what it expected. What can still differ is which commands
were sent: a filter that negotiated some away, or an older version, was asked less.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.cases import Case
    from benchmarks.results import Results


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


def usual_letters(results: Results, case: Case) -> str:
    """Answers of the contestant that was asked most."""
    all_letters = [
        each.figures["letters"]
        for name in results.contestants(case)
        for each in results.good(case, name)
    ]
    return max(all_letters, key=len, default="")


def differences(results: Results, case: Case) -> dict[str, str]:
    """Contestants that were not asked the same as the others, and in what."""
    usual = usual_letters(results, case)
    found = {}
    for name in results.contestants(case):
        for each in results.good(case, name):
            if text := difference(usual, each.figures["letters"]):
                found[name] = text
    return found
