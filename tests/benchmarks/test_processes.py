"""What is asked of the operating system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.processes import on_core

CODE = "import os; print(*sorted(os.sched_getaffinity(0)))"


def cores_of_a_child() -> set[int]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return {int(word) for word in done.stdout.split()}


def test_what_is_started_on_a_core_stays_there() -> None:
    core = max(os.sched_getaffinity(0))
    with on_core(core):
        assert cores_of_a_child() == {core}


def test_without_a_core_all_are_free() -> None:
    with on_core(None):
        assert cores_of_a_child() == os.sched_getaffinity(0)


def test_afterwards_all_cores_are_free_again() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), on_core(min(before)):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before
