"""The proofs that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from proofs import idle, kills, memory, misbehaving, reloads, restarts

if TYPE_CHECKING:
    from pathlib import Path

    from proofs.findings import Finding

Tell = Callable[[int, int], object]
"""Told how far a proof is: steps done, steps in all."""


class Proof(Protocol):
    """A module that proves something."""

    NAME: str
    TITLE: str
    CASES: Sequence[str]
    SIZES: Mapping[str, Any]

    def prove(self, case: str, size: Any, directory: Path, tell: Tell, /) -> Finding:
        """Try it in one case, at some size; put logs and plots into a directory."""
        ...


PROOFS: Final[dict[str, Proof]] = {
    module.NAME: module for module in (kills, reloads, restarts, misbehaving, idle, memory)
}
