"""Reloads: the filter's program is exchanged again and again while mail goes through Postfix. No message may be refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pmilter.testing.rig import Postfix
from pmilter.testing.rig.daemon import reserved_port
from proofs.account import all_delivered, check_no_failure, close_account, evidence, loaders
from proofs.findings import Finding
from proofs.load import Load
from proofs.service import Service
from proofs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proofs.catalogue import Tell

NAME: Final = "reloads"
TITLE: Final = "SIGHUP reloads while mail goes through Postfix"
CASES: Final = (
    "postfork",
    "ithread",
    "asyncio",
    "selector",
    "sequential",
    "prefork",
    "prefork-ithread",
    "prefork-asyncio",
    "prefork-selector",
)


@dataclass(frozen=True)
class Size:
    """How much of it.

    Attributes:
        messages: How many are sent at least.
        changes: Reloads, or stops and starts, evenly spread.
        concurrency: SMTP connections at a time.
    """

    messages: int
    changes: int
    concurrency: int = 50


SIZES: Final = {"short": Size(60, 2, 20), "full": Size(3000, 10)}


def prove(case: str, size: Size, directory: Path, tell: Tell) -> Finding:
    """Reload, and close the account."""
    finding = Finding(NAME, case)
    settings = settings_of(case)
    with reserved_port() as port:
        address = f"inet:{port}@127.0.0.1"
        service = Service("tagger", settings, directory, address=address, reloads=True)
        with service, Postfix(address) as mta:
            change_under_load(finding, mta, service, service.reload, size, tell)
    return finding


def settings_of(case: str) -> Settings:
    """Return how a case is served."""
    return Settings(dispatcher=case, processes=8, requests=200, pause=0.005)


def change_under_load(
    finding: Finding,
    mta: Postfix,
    service: Service,
    change: Callable[[], object],
    size: Size,
    tell: Tell,
) -> None:
    """Change something about the service again and again while mail goes through; check that nobody notices."""
    step = size.messages // (size.changes + 1)
    with Load(
        mta.smtp_address,
        concurrency=size.concurrency,
        messages=size.messages,
        on_attempt=lambda count: tell(min(count, size.messages), size.messages),
    ) as load:
        for _ in range(size.changes):
            load.wait(step)
            change()
        load.wait(step)
        attempts = load.finish()
    delivered = all_delivered(mta, sum(each.accepted for each in attempts))
    finding.figures["changes"] = size.changes
    close_account(finding, attempts, delivered)
    check_no_failure(finding, attempts)
    programs = len(loaders(delivered))
    finding.check(
        "each program that was loaded has filtered mail",
        programs == size.changes + 1,
        f"{programs} of {size.changes + 1}",
    )
    finding.check("the service lives on", service.alive, service.log()[-500:])
    if not finding.passed:
        finding.evidence = evidence(mta.log(), service.log())
