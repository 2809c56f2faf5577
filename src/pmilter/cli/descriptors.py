"""Sees to the descriptors 0 to 2, before anything else is opened."""

from __future__ import annotations

import os
import sys
from typing import Final

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def hold_standard_descriptors() -> None:
    """Open /dev/null on those of the descriptors 0 to 2 that are closed.

    Else the first sockets and files would take their numbers, and whatever is printed would go into them.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one, and programs that the filter starts shall have it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003  # the standard library's own signature
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
