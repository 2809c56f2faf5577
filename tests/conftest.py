"""Tests that only the source can pass are left out where pmilter runs compiled: `docs/acceleration.md`."""

from __future__ import annotations

import pytest

import pmilter


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that is marked as one for the source alone, with its reason."""
    marker = item.get_closest_marker("source_only")
    if marker is not None and pmilter.accelerated:
        pytest.skip(marker.args[0])
