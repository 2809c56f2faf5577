"""Kills: children of the filter are KILLed at random while mail goes through Postfix. No message may be lost or pass unfiltered."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pmilter.testing.rig import Postfix
from pmilter.testing.rig.daemon import reserved_port
from proofs.account import all_delivered, close_account, evidence
from proofs.findings import Finding
from proofs.load import Load
from proofs.service import Service
from proofs.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from proofs.catalogue import Tell

NAME: Final = "kills"
TITLE: Final = "children are killed at random while mail goes through Postfix"
CASES: Final = (
    "postfork",
    "prefork",
    "prefork-ithread",
    "prefork-asyncio",
    "prefork-selector",
    "run-prefork-ithread",
)


@dataclass(frozen=True)
class Size:
    """How much of it.

    Attributes:
        messages: How many are sent.
        concurrency: SMTP connections at a time.
        messages_a_kill: How many come to an end for each child that is killed, on average.
        seed: Of the dice.
    """

    messages: int
    concurrency: int = 50
    messages_a_kill: int = 15
    seed: int = 1


SIZES: Final = {"short": Size(100, 20, 5), "full": Size(3000)}


class Killer:
    """Kills a child of a service now and then."""

    def __init__(self, service: Service, size: Size) -> None:
        self._service = service
        self._dice = random.Random(size.seed)
        self._chance = 1 / size.messages_a_kill
        self.kills = 0

    def perhaps_kill(self) -> None:
        """Throw the dice."""
        if self._dice.random() < self._chance:
            self.kill_one()

    def kill_one(self) -> None:
        """Kill one of the processes below the topmost, whatever it does."""
        victims = self._service.descendants()
        self._dice.shuffle(victims)
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has just ended by itself
                continue
            self.kills += 1
            return


def prove(case: str, size: Size, directory: Path, tell: Tell) -> Finding:
    """Kill, and close the account."""
    finding = Finding(NAME, case)
    settings = Settings(dispatcher=case.removeprefix("run-"), processes=8, pause=0.005)
    with reserved_port() as port:
        address = f"inet:{port}@127.0.0.1"
        service = Service(
            "tagger", settings, directory, address=address, reloads=case.startswith("run-")
        )
        with service, Postfix(address) as mta:
            kill_under_load(finding, mta, service, size, tell)
    return finding


def kill_under_load(
    finding: Finding, mta: Postfix, service: Service, size: Size, tell: Tell
) -> None:
    """Send mail while children are killed; check that nothing has become of it but what should."""
    killer = Killer(service, size)

    def note(count: int) -> None:
        tell(count, size.messages)
        killer.perhaps_kill()

    with Load(
        mta.smtp_address, concurrency=size.concurrency, messages=size.messages, on_attempt=note
    ) as load:
        attempts = load.finish()
    delivered = all_delivered(mta, sum(each.accepted for each in attempts))
    finding.figures["killed"] = killer.kills
    close_account(finding, attempts, delivered)
    finding.check("children were killed", killer.kills > 0, "none")
    finding.check("some messages came through", bool(delivered), f"none of {len(attempts)}")
    finding.check("the service lives on", service.alive, service.log()[-500:])
    if not finding.passed:
        finding.evidence = evidence(mta.log(), service.log())
