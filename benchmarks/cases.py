"""What is measured: a workload, over a kind of socket, on a number of connections."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import Literal

Family = Literal["unix", "tcp"]
FAMILIES: dict[str, Family] = {"unix": "unix", "tcp": "tcp"}

# The filter that a workload is for. What the workloads send is written in load/workload.c.
FILTER_OF = {
    "noop": "noop",
    "tagger": "tagger",
    "small": "small",
    "noreply": "noreply",
    "short": "noop",
    "large1": "noop",
    "large20": "noop",
}

MEANING = {
    "noop": "ten messages a connection, 2 recipients, 20 headers, 8 KiB of body; all callbacks",
    "tagger": "the same, and the filter adds a header and changes one",
    "small": "the same mail, but the filter asked for envrcpt and eom only",
    "noreply": "the same mail, all callbacks, but only end of message is answered",
    "short": "all callbacks, one message a connection",
    "large1": "all callbacks, 1 MiB of body in chunks of 65,535 bytes",
    "large20": "all callbacks, 20 MiB of body in chunks of 65,535 bytes",
}


@dataclass(frozen=True, order=True)
class Case:
    """One thing to measure; written ``noop/unix/16``."""

    workload: str
    family: Family
    connections: int

    def __str__(self) -> str:
        return f"{self.workload}/{self.family}/{self.connections}"

    @property
    def filter(self) -> str:
        """The kind of filter that must run."""
        return FILTER_OF[self.workload]


def parse_case(text: str) -> Case:
    """Read what `Case` prints; raises ValueError."""
    workload, _, rest = text.partition("/")
    family, _, connections = rest.partition("/")
    if workload not in FILTER_OF or not connections.isdecimal():
        raise ValueError(f"not a case: {text!r}; write one like noop/unix/16")
    if family not in FAMILIES:
        raise ValueError(f"not a family of sockets: {family!r}; unix or tcp")
    return Case(workload, FAMILIES[family], int(connections))


def _cases(text: str) -> tuple[Case, ...]:
    return tuple(parse_case(word) for word in text.split())


USUAL = _cases(
    "noop/unix/16 noop/tcp/16 noop/unix/256 tagger/unix/16 tagger/tcp/16 small/unix/16 "
    "noreply/unix/16 noreply/tcp/16 short/unix/16 large1/unix/16 large20/unix/4"
)
SHORT = _cases("noop/unix/4 tagger/tcp/4 small/unix/4 noreply/unix/4 short/tcp/4 large1/unix/2")


def choose_cases(among: tuple[Case, ...], patterns: list[str]) -> tuple[Case, ...]:
    """Pick by shell patterns (``noop/*``); a case spelled in full need not be among the usual."""
    chosen: dict[Case, None] = {}
    for pattern in patterns:
        found = [case for case in among if fnmatch.fnmatchcase(str(case), pattern)]
        for case in found or [parse_case(pattern)]:
            chosen[case] = None
    return tuple(chosen)
