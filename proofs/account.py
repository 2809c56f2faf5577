"""Closes the account: what senders know of each message beside what has been delivered."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pmilter.errors import MilterTimeout
from pmilter.testing.rig.daemon import wait_for
from proofs.load import recipient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pmilter.testing.rig import Delivered, Instance
    from proofs.findings import Finding
    from proofs.load import Attempt

MARK = "X-Proof"
DELIVERY_TIME = 120.0
"""Seconds for the MTA to deliver what it has accepted, after the load."""

_NUMBER = re.compile(r"m(\d+)@example\.org")
_WARNING = re.compile(r"warning: .*milter|milter-reject|fatal|panic|timeout", re.IGNORECASE)
_EVIDENCE = 12
"""Lines of a log that are kept."""


def all_delivered(mta: Instance, expected: int) -> list[Delivered]:
    """Return everything that was delivered, when nothing is on its way any more or the time for that is over."""
    found: list[Delivered] = []
    try:
        found += mta.delivered(expected, DELIVERY_TIME)
    except MilterTimeout:
        pass  # the account will tell which are missing
    wait_for(lambda: not mta.queued(), 5.0)
    while True:
        try:
            found += mta.delivered(1, timeout=0)
        except MilterTimeout:
            return found


def close_account(
    finding: Finding, attempts: Sequence[Attempt], delivered: Sequence[Delivered]
) -> None:
    """Check that each message was either delivered once, filtered, or its sender told to try again."""
    accepted = {each.number for each in attempts if each.accepted}
    refused = [each for each in attempts if each.refused_for_now]
    copies = _by_number(delivered)
    finding.figures |= {
        "messages": len(attempts),
        "accepted": len(accepted),
        "refused for now": len(refused),
        "delivered": len(delivered),
    }
    if refused:
        finding.figures["refused at"] = dict(Counter(str(each.stage) for each in refused))
    finding.check_none(
        "every sender has an answer: accepted, or refused for now",
        (each for each in attempts if not (each.accepted or each.refused_for_now)),
    )
    finding.check_none("none lost: accepted, so delivered", sorted(accepted - set(copies)))
    finding.check_none("none delivered that was not accepted", sorted(set(copies) - accepted))
    twice = sorted(number for number, found in copies.items() if len(found) > 1)
    finding.check_none("none delivered twice", twice)
    finding.check_none(
        "each has the filter's mark, once, and its own",
        (
            f"message {number}: {one.header(MARK)}"
            for number, found in copies.items()
            for one in found
            if not _is_marked(number, one)
        ),
    )


def check_no_failure(finding: Finding, attempts: Sequence[Attempt]) -> None:
    """Check that no message was refused at all."""
    finding.check_none(
        "not one temporary failure",
        (f"{each.number} at {each.stage}: {each.reply}" for each in attempts if not each.accepted),
    )


def loaders(delivered: Sequence[Delivered]) -> set[str]:
    """Return which processes had loaded the filters that tagged the messages."""
    return {mark.rpartition(" ")[2] for one in delivered for mark in one.header(MARK)}


def evidence(mta_log: str, service_log: str) -> list[str]:
    """Return the lines of both logs that may tell what went wrong."""
    warnings = [line for line in mta_log.splitlines() if _WARNING.search(line)]
    return [*warnings[:_EVIDENCE], *service_log.splitlines()[-_EVIDENCE:]]


def _by_number(delivered: Sequence[Delivered]) -> dict[int, list[Delivered]]:
    """Return the copies of each message; 0 stands for those that nobody has sent."""
    copies: dict[int, list[Delivered]] = defaultdict(list)
    for one in delivered:
        match = _NUMBER.fullmatch(",".join(one.recipients))
        number = int(match[1]) if match else 0
        known = one.header("Message-ID") == [f"<{number}@proofs.example.com>"]
        copies[number if known else 0].append(one)
    return copies


def _is_marked(number: int, one: Delivered) -> bool:
    marks = one.header(MARK)
    return len(marks) == 1 and marks[0].startswith(f"<{recipient(number)}> ")
