from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from pmilter.dispatchers.signals import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Undo what the command does to the process that it expects to have for itself."""
    path, modules, level = list(sys.path), set(sys.modules), logging.getLogger("pmilter").level
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("pmilter").setLevel(level)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("pmilter", "rich", "click", "pygments")):
            del sys.modules[name]
