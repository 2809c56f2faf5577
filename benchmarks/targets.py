"""The ratios that pmilter sets out to reach, and whether a run reached them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.cases import parse_case
from benchmarks.results import byte_rate, cpu, throughput

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.results import Figure, Results

    Reading = Callable[[Results], float | None]

NOOP = parse_case("noop/unix/16")
TAGGER_UNIX = parse_case("tagger/unix/16")
TAGGER_TCP = parse_case("tagger/tcp/16")
LARGE = parse_case("large20/unix/4")

# One process, nothing compiled.
PURE = tuple(
    f"pmilter-{name}" for name in ("selector", "asyncio-async", "asyncio", "ithread", "sequential")
)


@dataclass(frozen=True)
class Target:
    """A line of the table of targets.

    Attributes:
        what: For people.
        bound: What the reading is held against.
        read: Gives the reading, or `None` where the run has not what it takes.
        at_least: The bound is the least that is wanted, else the most.
    """

    what: str
    bound: float
    read: Reading
    at_least: bool = True

    def verdict(self, results: Results) -> tuple[float | None, str]:
        """Give the reading and "pass", "miss" or "not measured"."""
        value = self.read(results)
        if value is None:
            return None, "not measured"
        reached = value >= self.bound if self.at_least else value <= self.bound
        return value, "pass" if reached else "miss"

    def rests_on_disturbed(self, results: Results) -> bool:
        """Whether the reading would be another without the rounds that were disturbed."""
        return self.read(results) != self.read(results.undisturbed())


def best_pure(results: Results) -> str:
    """The fastest of our dispatchers that use one process and no compiler."""

    def speed(name: str) -> float:
        spread = results.spread(NOOP, name, throughput)
        return spread.median if spread else -math.inf

    return max(PURE, key=speed)


def best_to(figure: Figure, other: str) -> Reading:
    """Compare the best pure dispatcher with another contestant."""
    return lambda results: results.ratio(figure, (NOOP, best_pure(results)), (NOOP, other))


def noop(figure: Figure, name: str, other: str) -> Reading:
    """Compare two contestants where all callbacks run."""
    return lambda results: results.ratio(figure, (NOOP, name), (NOOP, other))


def tagger_over_tcp(results: Results) -> float | None:
    """Compare our own figure over TCP with that over a UNIX socket."""
    name = best_pure(results)
    return results.ratio(throughput, (TAGGER_TCP, name), (TAGGER_UNIX, name))


def large_bodies(results: Results) -> float | None:
    """Compare the bytes that go through."""
    return results.ratio(byte_rate, (LARGE, best_pure(results)), (LARGE, "libmilter"))


TARGETS = (
    Target("best pure, one process: throughput / libmilter", 2.2, best_to(throughput, "libmilter")),
    Target("same: CPU a message / libmilter", 0.45, best_to(cpu, "libmilter"), at_least=False),
    Target("same: throughput / best Go peer", 1.2, best_to(throughput, "go-milter")),
    Target("same: throughput / C epoll ceiling", 0.50, best_to(throughput, "ceiling-epoll")),
    Target(
        "compiled: throughput / C epoll ceiling",
        0.75,
        noop(throughput, "pmilter-selector-compiled", "ceiling-epoll"),
    ),
    Target("ithread: throughput / pymilter", 1.2, noop(throughput, "pmilter-ithread", "pymilter")),
    Target(
        "ithread: CPU / pymilter", 0.8, noop(cpu, "pmilter-ithread", "pymilter"), at_least=False
    ),
    Target(
        "asyncio, async def, uvloop: throughput / libmilter",
        1.5,
        noop(throughput, "pmilter-uvloop-async", "libmilter"),
    ),
    Target(
        "asyncio, async def, stock loop: throughput / libmilter",
        1.3,
        noop(throughput, "pmilter-asyncio-async", "libmilter"),
    ),
    Target(
        "postfork: throughput / Sendmail::PMilter",
        1.5,
        noop(throughput, "pmilter-postfork", "perl-postfork"),
    ),
    Target(
        "prefork: throughput / Sendmail::PMilter",
        1.5,
        noop(throughput, "pmilter-prefork", "perl-prefork"),
    ),
    Target("best pure: tagger over TCP / over UNIX", 0.8, tagger_over_tcp),
    Target("best pure: 20 MB body, bytes a second / libmilter", 0.9, large_bodies),
    Target(
        "selector: KiB an idle connection, 0 to 1,000",
        10,
        lambda results: results.growth_kib("pmilter-selector"),
        at_least=False,
    ),
    Target(
        "best pure: tagger on a real Postfix, messages a second / libmilter",
        0.97,
        lambda results: results.passage_ratio(best_pure(results), "libmilter"),
    ),
)
