from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Undo what the command does to the process that it expects to have for itself."""
    path, modules, level = list(sys.path), set(sys.modules), logging.getLogger("pmilter").level
    yield
    logging.getLogger("pmilter").setLevel(level)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("pmilter", "rich", "click", "pygments")):
            del sys.modules[name]
