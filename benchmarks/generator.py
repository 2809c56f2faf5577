"""Runs the load generator and reads its figures."""

from __future__ import annotations

import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

from benchmarks.processes import on_core

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANSWER_LIMIT = 10.0  # seconds without an answer
HOLD_LIMIT = 120.0  # seconds that idle connections are held at most


class LoadError(Exception):
    """The filter did not answer as it should, or the generator itself failed."""


def run_load(
    generator: Path,
    address: str,
    workload: str,
    *,
    connections: int,
    seconds: float,
    core: int | None = None,
    answer_limit: float = ANSWER_LIMIT,
) -> dict[str, Any]:
    """Put load on a filter; raises LoadError if one byte of the answers is wrong."""
    command = [
        str(generator),
        f"--connections={connections}",
        f"--seconds={seconds}",
        f"--timeout={answer_limit}",
        address,
        workload,
    ]
    limit = seconds + 5 * answer_limit + 10
    with on_core(core):
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    try:
        figures: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise LoadError(f"load: status {done.returncode}: {done.stderr.strip()[:200]}") from None
    if "error" in figures:
        raise LoadError(figures["error"])
    return figures


@contextlib.contextmanager
def idle_connections(generator: Path, address: str, count: int) -> Iterator[int]:
    """Hold connections that have negotiated; gives how many the filter really took."""
    command = [
        str(generator),
        "--idle",
        f"--connections={count}",
        f"--seconds={HOLD_LIMIT}",
        "--timeout=3",
        address,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        if holder.stdin is None or holder.stdout is None:
            raise AssertionError("Popen was asked for both pipes")
        try:
            line = holder.stdout.readline()
            if not line:
                raise LoadError("load --idle ended without a word")
            yield int(json.loads(line)["held"])
        finally:
            holder.stdin.close()
            holder.wait(timeout=10)
