"""Waiting for what another process does, where nothing tells of it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

_PAUSE = 0.01


def until(condition: Callable[[], object], told: Callable[[], object] = lambda: None) -> None:
    """Return as soon as something is true; fail where it does not become so in time.

    Args:
        condition: Tells.
        told: What to show with the failure.
    """
    never = threading.Event()
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, told()
        never.wait(_PAUSE)


def children_of(pid: int) -> set[int]:
    """Return the children that a process has now, those included that have ended and were not reaped."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in children.split()}
