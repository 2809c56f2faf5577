"""The processes of a service, as the operating system shows them (Linux)."""

from __future__ import annotations

from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the children that a process has now; none where it has gone."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:  # it has just ended
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    below = children(pid)
    return below + [each for child in below for each in descendants(child)]


def lives(pid: int) -> bool:
    """Return whether a process still runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def memory(pid: int) -> int:
    """Return the bytes that a process takes (its proportional set size: what several share counts once); 0 where it has gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line[:4] == "Pss:") * 1024
