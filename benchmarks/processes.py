"""CPU time and memory of a server's processes, as the operating system counts them (Linux).

A server is started as the leader of a session of its own, so its processes are those of that
session, also the ones whose parent has gone.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

# Fields of /proc/PID/stat, counted from the state, which follows the name in brackets.
_SESSION = 3
_TIMES = slice(11, 15)  # utime, stime, and both of the children that were waited for


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Let what is started in here keep to one core; `None` is all of them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _stat_fields(pid: int) -> list[str]:
    # The name may hold blanks and brackets, so the fields are counted from its last bracket.
    return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()


def of_session(leader: int) -> dict[int, list[str]]:
    """Stat fields of each process of the session."""
    found = {}
    for pid in (int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()):
        try:
            fields = _stat_fields(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended in between
        if int(fields[_SESSION]) == leader:
            found[pid] = fields
    return found


def _ticks(leader: int) -> int:
    stats = of_session(leader).values()
    return sum(int(ticks) for fields in stats for ticks in fields[_TIMES])


def cpu_seconds(leader: int, patience: float = 1.0) -> float:
    """User plus system time so far, of children that have ended too.

    Waits until nothing moves between two readings, so that children which are just ending are
    counted once; after `patience` seconds the last reading is taken.
    """
    deadline = time.monotonic() + patience
    before = -1
    ticks = _ticks(leader)
    while ticks != before and time.monotonic() < deadline:
        time.sleep(0.03)
        before, ticks = ticks, _ticks(leader)
    return ticks / TICKS_A_SECOND


def memory_kib(leader: int) -> int:
    """Proportional set size: what is shared between processes counts once."""
    total = 0
    for pid in of_session(leader):
        try:
            rollup = (PROC / str(pid) / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:")
    return total


@dataclass(frozen=True)
class Clock:
    """The machine's own account of its cores, in seconds."""

    total: float
    busy: float  # with processes, or taken by a hypervisor

    @classmethod
    def read(cls) -> Clock:
        """Read the account."""
        words = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, waiting, irq, softirq, stolen = map(int, words)
        busy = user + nice + system + stolen
        total = busy + idle + waiting + irq + softirq
        return cls(total / TICKS_A_SECOND, busy / TICKS_A_SECOND)

    def noise_until(self, later: Clock, used: float) -> float:
        """The share of the cores that went to others, if we used so many seconds ourselves."""
        others = later.busy - self.busy - used
        return max(0.0, others / max(0.01, later.total - self.total))
