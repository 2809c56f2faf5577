"""Misbehaving: callbacks that hang, eat memory, raise, exit or crash. All others are served as ever."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.testing.rig.daemon import wait_for
from proofs.bystanders import Bystanders
from proofs.findings import Finding
from proofs.processes import lives, memory
from proofs.service import Service
from proofs.settings import Settings
from proofs.wire import CONTINUE, END, STAGES, TEMPFAIL, Wire, connect_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proofs.catalogue import Tell

NAME: Final = "misbehaving"
TITLE: Final = "callbacks that hang, eat memory, raise, exit or crash harm nobody else"
CASES: Final = (
    "postfork",
    "prefork",
    "prefork-ithread",
    "prefork-asyncio",
    "prefork-selector",
    "run-postfork",
    "run-ithread",
    "run-asyncio",
    "run-asyncio-coroutines",
    "run-selector",
    "run-sequential",
)

COMMAND_TIME: Final = 1.0
EOM_TIME: Final = 1.2
MAX_MEMORY: Final = 64 << 20
SLACK: Final = 1.5
"""Seconds that a busy machine may take for what takes no time. The usual deadlines leave MTAs five."""
KILL_TIME: Final = 2.5
"""Seconds, at most, until a parent sees that a child is over its deadline: 1.5 that it allows, and one look a second."""
RECOVERY: Final = 10.0
"""Seconds in which a new connection must be served: a process that has to be replaced loads the filter anew."""
CLEAN_UP: Final = 15.0
"""Seconds in which a process over its memory limit must be gone: a look, its grace, and the end."""

THREADED: Final = ("postfork", "ithread", "asyncio")
"""Dispatchers that answer for a callback that does not return; for the others, a parent ends the process."""

FATAL: Final = ("end", "crash")
EVERY_BEHAVIOUR: Final = ("fail", "hang", "block", "end", "crash", "eat", "leak")


class Trial(NamedTuple):
    """What goes wrong, and where."""

    behaviour: str
    stage: str

    @property
    def deadline(self) -> float:
        """Seconds that the callback has."""
        return EOM_TIME if self.stage == "eom" else COMMAND_TIME

    def __str__(self) -> str:
        return f"{self.behaviour} at {self.stage}"


@dataclass(frozen=True)
class Size:
    """How much of it.

    Attributes:
        trials: What goes wrong, one after the other.
        bystanders: Connections that go on meanwhile.
    """

    trials: tuple[Trial, ...]
    bystanders: int = 4


EVERYTHING: Final = tuple(
    Trial(behaviour, stage)
    for behaviour in EVERY_BEHAVIOUR
    for stage in STAGES
    if behaviour != "leak" or stage in {"envrcpt", "eom"}
)
SOME: Final = (
    Trial("fail", "envrcpt"),
    Trial("hang", "eom"),
    Trial("block", "header"),
    Trial("end", "body"),
    Trial("crash", "envfrom"),
    Trial("eat", "eom"),
)
SIZES: Final = {"short": Size(SOME), "full": Size(EVERYTHING)}


class Outcome(NamedTuple):
    """What the MTA saw of it."""

    code: bytes
    seconds: float


def prove(case: str, size: Size, directory: Path, tell: Tell) -> Finding:
    """Have everything go wrong in turn."""
    finding = Finding(NAME, case)
    settings, reloads = settings_of(case, size)
    if settings.dispatcher == "sequential":
        size = replace(size, bystanders=0)  # it serves one at a time
    with Service("misbehaving", settings, directory, reloads=reloads) as service:
        court = _Court(settings, service, size)
        for number, trial in enumerate(size.trials):
            tell(number, len(size.trials))
            court.hold(trial)
        court.close(finding)
        finding.check("the service lives on", service.alive, service.log()[-500:])
        if not finding.passed:
            finding.evidence = service.log().splitlines()[-12:]
    return finding


def settings_of(case: str, size: Size) -> tuple[Settings, bool]:
    """Return how a case is served, and whether as `pmilter run` does."""
    name = case.removeprefix("run-")
    settings = Settings(
        dispatcher=name.removesuffix("-coroutines"),
        coroutines=name.endswith("-coroutines"),
        processes=size.bystanders + 3,
        requests=1_000_000,
        max_memory=MAX_MEMORY,
        command_time=COMMAND_TIME,
        eom_time=EOM_TIME,
        progress_time=0.2,
        grace=2.0,
    )
    return settings, name != case


class _Court:
    """Holds trials, and collects what is held against the service."""

    def __init__(self, settings: Settings, service: Service, size: Size) -> None:
        self._settings = settings
        self._service = service
        self._address = service.address
        self._bystanders = size.bystanders
        self._late: list[str] = []
        self._disturbed: list[str] = []
        self._unserved: list[str] = []
        self._fat: list[str] = []
        self._slowest: dict[str, float] = defaultdict(float)

    def hold(self, trial: Trial) -> None:
        """Have one thing go wrong."""
        with Bystanders(self._address, self._bystanders) as bystanders:
            outcome = misbehave(self._address, trial)
            self._note(trial, outcome)
            if trial.behaviour in {"eat", "leak"}:
                self._await_slimness(trial)
            self._await_recovery(trial)
        self._question(trial, outcome, bystanders)

    def close(self, finding: Finding) -> None:
        """Give the verdict."""
        finding.check_none("each stage is answered or closed within its deadline", self._late)
        finding.check_none(
            f"connections of other processes are answered within {SLACK:g} s", self._disturbed
        )
        finding.check_none("new connections are served afterwards", self._unserved)
        finding.check_none("no process stays over its memory limit", self._fat)
        finding.figures |= {f"{name}, s": round(value, 2) for name, value in self._slowest.items()}

    def _note(self, trial: Trial, outcome: Outcome) -> None:
        self._slow(trial.behaviour, outcome.seconds)
        codes, limit = expected(trial, self._settings)
        if outcome.code not in codes or outcome.seconds > limit:
            self._late.append(
                f"{trial}: {outcome.code or 'closed'!r} after {outcome.seconds:.2f} s, "
                f"not one of {codes} within {limit:.2f} s"
            )

    def _slow(self, what: str, seconds: float) -> None:
        self._slowest[what] = max(self._slowest[what], seconds)

    def _await_slimness(self, trial: Trial) -> None:
        def fat() -> list[int]:
            found = map(memory, self._service.descendants())
            return [size for size in found if size > MAX_MEMORY]

        if not wait_for(lambda: not fat(), CLEAN_UP):
            self._fat.append(f"{trial}: {fat()} bytes after {CLEAN_UP:g} s")

    def _await_recovery(self, trial: Trial) -> None:
        begun = time.monotonic()
        try:
            with Wire(self._address, RECOVERY) as wire:
                code = wire.begin()
                code = wire.send_message() if code == CONTINUE else code
        except OSError as error:
            self._unserved.append(f"after {trial}: {error}")
            return
        self._slow("recovery", time.monotonic() - begun)
        if code != CONTINUE:
            self._unserved.append(f"after {trial}: an ordinary message is answered with {code!r}")

    def _question(self, trial: Trial, outcome: Outcome, bystanders: Bystanders) -> None:
        """Look at how the bystanders fared; only those of the one process that has ended may have been cut off."""
        answers = {each.pid: each.cut for each in bystanders.all if each.cut is not None}
        living = {pid: code for pid, code in answers.items() if not wait_for(_gone(pid), SLACK)}
        ends = outcome.code == END or trial.behaviour in {"eat", "leak"}
        if living or len(answers) > (1 if ends else 0):
            self._disturbed.append(f"{trial}: cut off {answers}, of those live {living}")
        for each in bystanders.all:
            if each.cut is None:
                self._slow("bystander", each.slowest)
                if each.slowest > SLACK:
                    self._disturbed.append(f"{trial}: a bystander waited {each.slowest:.2f} s")


def _gone(pid: int) -> Callable[[], bool]:
    return lambda: not lives(pid)


def misbehave(address: str, trial: Trial) -> Outcome:
    """Send a message up to where the filter goes astray; return the answer there."""
    with Wire(address) as wire:
        wire.negotiate()
        hostname = f"{trial.behaviour}.{trial.stage}.example.com"
        for stage, command in {**STAGES, "connect": connect_command(hostname)}.items():
            begun = time.monotonic()
            code, _ = wire.ask(command)
            if stage == trial.stage or code != CONTINUE:
                break
        return Outcome(code, time.monotonic() - begun)


def expected(trial: Trial, settings: Settings) -> tuple[tuple[bytes, ...], float]:
    """Return which answers are right, and the seconds within which one must come."""
    threaded = any(name in settings.dispatcher for name in THREADED)
    killed = trial.deadline + KILL_TIME + SLACK
    return {
        "fail": ((TEMPFAIL,), SLACK),
        "hang": ((TEMPFAIL,), trial.deadline + SLACK) if threaded else ((END,), killed),
        "block": ((END,), killed),
        "end": ((END,), SLACK),
        "crash": ((END,), SLACK),
        "eat": ((TEMPFAIL, END), killed),
        "leak": ((CONTINUE, TEMPFAIL), trial.deadline + SLACK),
    }[trial.behaviour]
