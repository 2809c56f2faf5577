"""Idle: thousands of connections that say nothing. New ones are served at once, those over the cap are refused as they should be."""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proofs.findings import Finding
from proofs.processes import memory
from proofs.service import Service
from proofs.settings import Settings
from proofs.wire import (
    CONTINUE,
    END,
    NO_CONNECT,
    ONLY_CONNECT,
    STAGES,
    TEMPFAIL,
    Wire,
    connect_command,
)

if TYPE_CHECKING:
    from pathlib import Path

    from proofs.catalogue import Tell

NAME: Final = "idle"
TITLE: Final = "thousands of idle connections: their memory, and how fast a new one is served"
CASES: Final = ("asyncio", "selector", "ithread")

AT_ONCE: Final = 1.0
"""Seconds in which a whole message of a new connection must be through; on a quiet machine it is some milliseconds."""
REFUSAL_TIME: Final = 5.0
SPARE_PLACES: Final = 2
"""Places for new connections: one, and one that may just be being given back."""
SPARE: Final = 200
"""Descriptors that a process needs for itself."""


@dataclass(frozen=True)
class Size:
    """How much of it.

    Attributes:
        connections: Idle ones, on a loop.
        threads: Idle ones with a thread each.
        newcomers: New connections meanwhile, one after the other.
    """

    connections: int
    threads: int
    newcomers: int = 20


SIZES: Final = {"short": Size(200, 50, 5), "full": Size(10_000, 1000)}


def prove(case: str, size: Size, directory: Path, tell: Tell) -> Finding:
    """Open them all, and see who is still served."""
    finding = Finding(NAME, case)
    wanted = size.threads if case == "ithread" else size.connections
    count = min(wanted, most_files() - SPARE)
    finding.figures["idle connections"] = count
    if count < wanted:
        finding.figures["wanted, but for the descriptor limit"] = wanted
    settings = Settings(dispatcher=case, connections=count + SPARE_PLACES)
    with Service("tagger", settings, directory) as service, ExitStack() as stack:
        newcomer(service.address)
        before = memory(service.pid)
        idle = [
            stack.enter_context(open_idle(service.address, n, count, tell)) for n in range(count)
        ]
        grown = memory(service.pid) - before
        finding.figures["bytes a connection, without the kernel's"] = round(grown / count)
        check_newcomers(finding, service.address, size.newcomers)
        check_cap(finding, service.address)
        answers = (wire.ask(STAGES["envfrom"])[0] for wire in idle)
        others = (code for code in answers if code != CONTINUE)
        finding.check_none("all idle ones are still served", others)
        finding.check("the service lives on", service.alive, service.log()[-500:])
        if not finding.passed:
            finding.evidence = service.log().splitlines()[-12:]
    return finding


def open_idle(address: str, number: int, count: int, tell: Tell) -> Wire:
    """Return a connection that has said who it is, and no more."""
    wire = Wire(address)
    code = wire.begin()
    if code != CONTINUE:
        raise ConnectionError(f"connection {number + 1} is answered with {code!r}")
    tell(number + 1, count)
    return wire


def most_files() -> int:
    """Allow this process and those that it starts as many descriptors as the system lets it, and return the number."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def newcomer(address: str) -> tuple[bytes, float]:
    """Send a message on a new connection; return the answer, and the seconds for all of it."""
    begun = time.monotonic()
    with Wire(address) as wire:
        code = wire.begin()
        if code == CONTINUE:
            code = wire.send_message()
        seconds = time.monotonic() - begun
        wire.quit()
    return code, seconds


def check_newcomers(finding: Finding, address: str, count: int) -> None:
    """Check that new connections are served at once."""
    outcomes = [newcomer(address) for _ in range(count)]
    times = sorted(seconds for _, seconds in outcomes)
    finding.figures["new connection with a message, ms, median"] = round(
        times[len(times) // 2] * 1000, 1
    )
    finding.figures["slowest"] = round(times[-1] * 1000, 1)
    finding.check_none(
        f"a new connection's message is through within {AT_ONCE:g} s",
        (each for each in outcomes if each[0] != CONTINUE or each[1] > AT_ONCE),
    )


def check_cap(finding: Finding, address: str) -> None:
    """Check that one over the cap is told to try again later, and that its place counts again once there is room."""
    with ExitStack() as stack:
        seated = [await_place(address, stack) for _ in range(SPARE_PLACES)]
        finding.check("all places are given", None not in seated)
        check_refusal(finding, address)
        for wire in seated:
            if wire is not None:
                wire.quit()
        again = await_place(address, stack)
        finding.check(f"room again: served within {AT_ONCE:g} s", again is not None)


def await_place(address: str, stack: ExitStack) -> Wire | None:
    """Return a new connection that is served; None where all are refused for too long."""
    deadline = time.monotonic() + AT_ONCE
    while time.monotonic() < deadline:
        wire = stack.enter_context(Wire(address))
        if wire.begin() == CONTINUE:
            return wire
        wire.close()
    return None


def check_refusal(finding: Finding, address: str) -> None:
    """Check that a connection is refused as it should be."""
    begun = time.monotonic()
    with Wire(address, 2 * REFUSAL_TIME) as over:
        steps = over.negotiate().steps
        only = steps & ONLY_CONNECT == ONLY_CONNECT and not steps & NO_CONNECT
        finding.check("over the cap: only connect is negotiated", only, hex(steps))
        code, _ = over.ask(connect_command("client.example.com"))
        finding.check("over the cap: connect is answered TEMPFAIL", code == TEMPFAIL, code)
        code, _ = over.ask(b"")
        finding.check("over the cap: then closed", code == END, code)
    seconds = time.monotonic() - begun
    finding.check(f"over the cap: within {REFUSAL_TIME:g} s", seconds < REFUSAL_TIME, seconds)
