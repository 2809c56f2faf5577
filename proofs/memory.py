"""Memory: a great many messages straight to the filter. Parent and children take no more of it from some point on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import linear_regression
from typing import TYPE_CHECKING, Final, NamedTuple

from proofs import processes
from proofs.findings import Finding
from proofs.plot import line_chart
from proofs.service import Service
from proofs.settings import Settings
from proofs.wire import CONTINUE, Wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from proofs.catalogue import Tell

NAME: Final = "memory"
TITLE: Final = "a great many messages leave no trace in memory"
CASES: Final = ("ithread", "asyncio", "prefork-selector")

OBJECT: Final = 16
"""Bytes of the smallest object that Python has: whatever keeps one for each message grows faster than this."""
GRAIN: Final = 1 << 20
"""Bytes by which a process's memory may differ from one moment to the next: Python takes and gives back arenas of 1 MiB."""
SAMPLES: Final = 200


@dataclass(frozen=True)
class Size:
    """How much of it.

    Attributes:
        messages: How many, one a connection.
        connections: At a time.
        requests: Connections after which a child of prefork is replaced.
        grains: Arenas by which the memory of a process may differ; more where it still warms up.
    """

    messages: int
    connections: int = 4
    requests: int = 100
    grains: int = 1


SIZES: Final = {"short": Size(1200, grains=4), "full": Size(200_000)}


class Sample(NamedTuple):
    """Memory at one moment, in bytes."""

    messages: int
    parent: int
    children: int

    @property
    def total(self) -> int:
        """Of all processes."""
        return self.parent + self.children


def prove(case: str, size: Size, directory: Path, tell: Tell) -> Finding:
    """Send them all, and look at the memory meanwhile."""
    finding = Finding(NAME, case)
    settings = Settings(dispatcher=case, processes=2, requests=size.requests)
    with Service("tagger", settings, directory) as service:
        begun = time.monotonic()
        samples = send_all(size, service, tell)
        seconds = time.monotonic() - begun
        count = 1 + len(service.descendants())
    finding.figures["messages"] = size.messages
    finding.figures["messages/s"] = round(size.messages / seconds)
    check_flat(finding, samples, count, size.grains)
    save(case, samples, directory)
    return finding


def save(case: str, samples: Sequence[Sample], directory: Path) -> None:
    """Write the samples down, and draw them."""
    rows = [",".join(map(str, each)) for each in (Sample._fields, *samples)]
    (directory / "memory.csv").write_text("\n".join(rows) + "\n")
    chart = line_chart(
        f"Memory of {case} over {samples[-1].messages:,} messages (MiB)",
        [sample.messages for sample in samples],
        {
            "all processes": [sample.total / 2**20 for sample in samples],
            "parent": [sample.parent / 2**20 for sample in samples],
        },
    )
    (directory / "memory.svg").write_text(chart)


def send_all(size: Size, service: Service, tell: Tell) -> list[Sample]:
    """Send so many messages on some connections at a time; return samples taken on the way."""
    sender = _Sender(size, service, tell)
    with ThreadPoolExecutor(size.connections) as pool:
        for each in [pool.submit(sender.run) for _ in range(size.connections)]:
            each.result()
    return sender.samples


class _Sender:
    """Sends until it has been enough; several threads run it at a time."""

    def __init__(self, size: Size, service: Service, tell: Tell) -> None:
        self._address = service.address
        self._messages = size.messages
        self._service = service
        self._tell = tell
        self._step = max(1, size.messages // SAMPLES)
        self._lock = threading.Lock()
        self._sent = 0
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Send messages, one a connection."""
        while self._next():
            with Wire(self._address) as wire:
                code = wire.begin()
                if code == CONTINUE:
                    code = wire.send_message()
                if code != CONTINUE:
                    raise ConnectionError(f"a message is answered with {code!r}")
                wire.quit()

    def _next(self) -> bool:
        with self._lock:
            if self._sent == self._messages:
                return False
            self._sent += 1
            if self._sent % self._step == 0:
                self.samples.append(sample(self._service, self._sent))
                self._tell(self._sent, self._messages)
            return True


def sample(service: Service, messages: int) -> Sample:
    """Look at the memory of a service."""
    below = sum(map(processes.memory, service.descendants()))
    return Sample(messages, processes.memory(service.pid), below)


def check_flat(finding: Finding, samples: Sequence[Sample], count: int, grains: int = 1) -> None:
    """Check that memory grows by less than an object a message over the last half, by a straight line through the samples.

    So many messages are needed for that: over few, what one arena makes is more than an object each.
    """
    half = samples[len(samples) // 2 :]
    messages = half[-1].messages - half[0].messages
    for name, number, values in (
        ("parent", 1, [each.parent for each in half]),
        ("all processes", count, [each.total for each in half]),
    ):
        slope = linear_regression([each.messages for each in half], values).slope
        limit = OBJECT + grains * number * GRAIN / messages
        finding.figures[f"{name}, bytes a message"] = round(slope, 1)
        finding.figures[f"{name}, MiB at the end"] = round(values[-1] / 2**20, 1)
        finding.check(
            f"memory of {name} is flat over the last half: below {limit:.1f} bytes a message",
            slope < limit,
            f"{slope:.1f}",
        )
