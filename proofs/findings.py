"""What a proof has found: checks that passed or failed, figures, and what to look at where one failed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 3
"""Counter-examples that are told of each check."""


@dataclass(frozen=True)
class Check:
    """One statement, and whether it held.

    Attributes:
        text: What must be true.
        passed: Whether it was.
        detail: Counter-examples, or the figure that was too large.
    """

    text: str
    passed: bool
    detail: str = ""


@dataclass
class Finding:
    """One proof in one case.

    Attributes:
        proof: Its name.
        case: What it was tried with: the arrangement of the filter.
        checks: The statements.
        figures: What was counted and measured, name to value, units in the names.
        evidence: Lines of logs that tell of what failed.
        seconds: How long it took.
    """

    proof: str
    case: str
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all checks did, and there was one."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    def check(self, text: str, passed: bool, detail: object = "") -> None:  # noqa: FBT001  # a statement and whether it holds
        """Note whether a statement held."""
        self.checks.append(Check(text, passed, "" if passed else str(detail)))

    def check_none(self, text: str, examples: Iterable[object]) -> None:
        """Note that there is nothing of a kind; what there is, is the counter-example."""
        found = [str(example) for example in examples]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        self.check(text, not found, "; ".join(found[:SHOWN]) + more)

    def as_json(self) -> dict[str, Any]:
        """Return it for the result file."""
        return {**asdict(self), "passed": self.passed}
