"""Logs what a stranger can cause, without letting them fill the log."""

from __future__ import annotations

import logging
import time
from mmap import mmap
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

logger: Final = logging.getLogger("pmilter")

PAUSE: Final = 60.0
"""Seconds between two lines."""

_STATE: Final = Struct("=dQ")


class SparingLog:
    """Logs a warning at most once a minute, and says with it how many were left out since the last one.

    Children that were forked after it was made share it, so that they log no more together than one process does.

    Args:
        clock: Seconds, the same for all processes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shared = mmap(-1, _STATE.size)
        _STATE.pack_into(self._shared, 0, float("-inf"), 0)

    def warning(self, message: str, *arguments: object) -> None:
        """Log, or count what is left out."""
        quiet_until, left_out = _STATE.unpack_from(self._shared)
        now = self._clock()
        if now < quiet_until:
            _STATE.pack_into(self._shared, 0, quiet_until, left_out + 1)
            return
        _STATE.pack_into(self._shared, 0, now + PAUSE, 0)
        if left_out:
            message += " (%d such lines were left out before this one)"
            arguments += (left_out,)
        logger.warning(message, *arguments)
