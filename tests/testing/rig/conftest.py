from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmilter.testing.rig.daemon import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A short temporary directory that every user may enter, for UNIX sockets; pytest keeps tmp_path to itself."""
    with tempfile.TemporaryDirectory(prefix="wire-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def unused() -> Iterator[str]:
    """The address of a filter that is not there, and that nobody else takes meanwhile."""
    with reserved_port() as port:
        yield f"inet:{port}@127.0.0.1"
