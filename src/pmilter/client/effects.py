"""What the MTA's side wants done: a generator yields these, and whoever has the connection performs them.

`Send` and `Receive` are those of the filter's side. `Receive` has a time limit where the dialogue was given one.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from pmilter.effects import Receive, Send


class Close:
    """Close the connection; nothing is sent or received after it. Resume with anything."""

    __slots__ = ()


Effect = Receive | Send | Close

_T = TypeVar("_T")

Steps = Generator[Effect, Any, _T]
"""A generator that yields effects, takes their outcomes (of `Receive`: the bytes), and returns a value."""
