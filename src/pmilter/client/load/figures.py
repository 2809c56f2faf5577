"""What a load has measured, and how the figures of several that ran at the same time become one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from pmilter.client.load.histogram import Histogram
from pmilter.protocol.constants import Answer, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

STAGES: Final = (
    "negotiate",
    "connect",
    "helo",
    "envfrom",
    "envrcpt",
    "data",
    "header",
    "eoh",
    "body",
    "eom",
)
"""Stages that a load waits at, in their order. At negotiate, the time to connect counts too."""

FAILURES: Final = ("unreachable", "protocol", "timeout", "closed", "limit")
"""What can go wrong with a connection: it cannot be made; the filter breaks the protocol, is silent, closes, or sends too much."""


def _latencies() -> dict[str, Histogram]:
    return {stage: Histogram() for stage in STAGES}


@dataclass(slots=True)
class Figures:
    """What was measured; durations in nanoseconds.

    Attributes:
        agreed: Version, actions and steps that were agreed on the first connection; None where nothing was.
        elapsed: From the beginning of the measurement to the end of the last message, or of the time where no message ended.
        cpu: CPU time that the load itself has used.
        messages: Messages that came to their end, or that an earlier verdict on the connection has decided.
        connections: Connections that negotiated.
        commands: Commands sent, macros not counted.
        sent: Bytes sent.
        received: Bytes received.
        progress: Progress frames.
        overdue: At a given rate: messages that should have begun and could not, since no connection was free.
        latency: Stage -> time to the answer of a command.
        message: Time from a message's first command, at a given rate from when it should have been sent, to its last answer.
        answers: (Stage, answer) -> how many; CONTINUE is not among them.
        outcomes: (Stage, verdict) -> messages that ended so.
        changes: Code of a change -> how many.
        failures: One of `FAILURES` -> connections that ended so.
        reasons: One of `FAILURES` -> what the first one said.
        waiting: Stage -> connections that had not got as far as a message when time was over, and waited for an answer there.
    """

    agreed: tuple[int, int, int] | None = None
    elapsed: int = 0
    cpu: int = 0
    messages: int = 0
    connections: int = 0
    commands: int = 0
    sent: int = 0
    received: int = 0
    progress: int = 0
    overdue: int = 0
    latency: dict[str, Histogram] = field(default_factory=_latencies)
    message: Histogram = field(default_factory=Histogram)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        """Begin anew, but for what was agreed and what went wrong; the histograms stay the same objects."""
        for histogram in (self.message, *self.latency.values()):
            histogram.clear()
        for name in _NUMBERS:
            setattr(self, name, 0)
        for counter in (self.answers, self.outcomes, self.changes, self.waiting):
            counter.clear()

    # --- what is counted

    def note_answer(self, stage: str, code: int, payload: bytes) -> None:
        """Count an answer other than CONTINUE."""
        self.answers[stage, answer_name(code, payload)] += 1

    def note_outcome(self, stage: str, status: Status) -> None:
        """Count a message."""
        self.messages += 1
        self.outcomes[stage, status.name.lower()] += 1

    def note_failure(self, kind: str, reason: str) -> None:
        """Count a connection that failed."""
        self.failures[kind] += 1
        self.reasons.setdefault(kind, reason)

    # --- what follows from it

    @property
    def command(self) -> Histogram:
        """Time to the answer of a command, all stages but the negotiation together."""
        together = Histogram()
        for stage, histogram in self.latency.items():
            if stage != "negotiate":
                together.add(histogram)
        return together

    @property
    def seconds(self) -> float:
        """The measured time, never 0."""
        return max(self.elapsed, 1) / 1e9

    def all_answers(self) -> dict[str, dict[str, int]]:
        """Return stage -> answer -> how many, stages without any left out; the most frequent ones first."""
        table = {}
        for stage in STAGES[1:]:
            others = {name: n for (at, name), n in self.answers.items() if at == stage}
            went_on = self.latency[stage].count - sum(others.values())
            counts = Counter({"continue": max(0, went_on), **others})
            if found := {name: n for name, n in counts.most_common() if n}:
                table[stage] = found
        return table

    # --- several at a time

    def add(self, other: Figures) -> None:
        """Take in what was measured at the same time by another load."""
        self.agreed = self.agreed or other.agreed
        self.elapsed = max(self.elapsed, other.elapsed)
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for stage, histogram in other.latency.items():
            self.latency[stage].add(histogram)
        self.message.add(other.message)
        self.answers += other.answers
        self.outcomes += other.outcomes
        self.changes += other.changes
        self.failures += other.failures
        self.waiting += other.waiting
        self.reasons = {**other.reasons, **self.reasons}

    def pack(self) -> dict[str, Any]:
        """Return all as JSON has it."""
        return {
            "agreed": self.agreed,
            **{name: getattr(self, name) for name in _NUMBERS},
            "latency": {stage: histogram.pack() for stage, histogram in self.latency.items()},
            "message": self.message.pack(),
            "answers": [[*key, count] for key, count in self.answers.items()],
            "outcomes": [[*key, count] for key, count in self.outcomes.items()],
            "changes": list(self.changes.items()),
            "failures": dict(self.failures),
            "reasons": self.reasons,
            "waiting": dict(self.waiting),
        }

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Figures:
        """Return what `pack` packed."""
        return cls(
            agreed=packed["agreed"] and tuple(packed["agreed"]),
            **{name: packed[name] for name in _NUMBERS},
            latency={stage: Histogram.unpack(one) for stage, one in packed["latency"].items()},
            message=Histogram.unpack(packed["message"]),
            answers=Counter({(stage, name): n for stage, name, n in packed["answers"]}),
            outcomes=Counter({(stage, name): n for stage, name, n in packed["outcomes"]}),
            changes=Counter(dict(packed["changes"])),
            failures=Counter(packed["failures"]),
            reasons=packed["reasons"],
            waiting=Counter(packed["waiting"]),
        )


_NUMBERS: Final = tuple(one.name for one in fields(Figures) if one.type == "int")
_SUMS: Final = tuple(name for name in _NUMBERS if name != "elapsed")


def answer_name(code: int, payload: bytes) -> str:
    """Return what to call an answer; one in the filter's own words with the class of its reply code."""
    name = Answer(code).name.lower()
    if code != Answer.REPLYCODE:
        return name
    return f"{name} 421" if payload.startswith(b"421") else f"{name} {payload[:1].decode()}xx"
