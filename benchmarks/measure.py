"""One measurement: a server, a warm-up, the load, and what the operating system says about it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import answers
from benchmarks.generator import LoadError, idle_connections, run_load
from benchmarks.processes import Clock, cpu_seconds, memory_kib
from benchmarks.server import Server, ServerError

if TYPE_CHECKING:
    from benchmarks.cases import Case, Family
    from benchmarks.catalogue import Contestant

IDLE_COUNTS = (1, 16, 256, 1000)


@dataclass(frozen=True)
class Setting:
    """What is common to all measurements of a run.

    Attributes:
        generator: The load generator.
        programs: For each need of a contestant, what was built or found.
        seconds: How long new messages are begun.
        server_core: The core of the server, or `None` for all.
        load_core: The core of the load generator, or `None` for all.
        noise_limit: The share of the cores taken by other programs or a hypervisor beyond which a
            measurement is repeated.
        tries: How often at most.
    """

    generator: Path
    programs: dict[str, Path]
    seconds: float
    server_core: int | None
    load_core: int | None
    noise_limit: float = 0.1
    tries: int = 3


@dataclass(frozen=True)
class Measurement:
    """Figures of one contestant in one case and round; `error` says why there are none.

    A server that did not even start has no `startup_ms` either. `disturbed`: other programs or a
    hypervisor took more of the cores than the limit, in every try.
    """

    contestant: str
    case: Case
    round: int
    family: Family
    error: str | None = None
    messages_a_second: float = 0
    bytes_a_second: float = 0
    cpu_us_a_message: float = 0
    startup_ms: float = 0
    noise: float = 0
    disturbed: bool = False
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """Memory of a contestant: KiB for each number of idle connections that it took."""

    contestant: str
    kib: dict[int, int]
    error: str | None = None


def measure(setting: Setting, contestant: Contestant, case: Case, number: int) -> Measurement:
    """Measure, again where the machine was not ours; the least disturbed try counts."""
    best = _try(setting, contestant, case, number)
    for _ in range(setting.tries - 1):
        if best.error is not None or best.noise <= setting.noise_limit:
            break
        again = _try(setting, contestant, case, number)
        if again.error is not None or again.noise < best.noise:
            best = again
    return replace(best, disturbed=best.error is None and best.noise > setting.noise_limit)


def _try(setting: Setting, contestant: Contestant, case: Case, number: int) -> Measurement:
    family = contestant.family(case)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="milter-") as folder,
            Server(
                contestant,
                setting.programs[contestant.need],
                family=family,
                kind=case.filter,
                folder=Path(folder),
                core=setting.server_core,
            ) as server,
        ):
            blank = Measurement(
                contestant.name, case, number, family, startup_ms=1000 * server.startup
            )
            return _load(setting, server, contestant, blank)
    except ServerError as error:
        return Measurement(contestant.name, case, number, family, error=str(error))


def _load(
    setting: Setting, server: Server, contestant: Contestant, blank: Measurement
) -> Measurement:
    def put(seconds: float) -> dict[str, Any]:
        figures = run_load(
            setting.generator,
            server.address,
            blank.case.workload,
            connections=blank.case.connections,
            seconds=seconds,
            core=setting.load_core,
        )
        if text := answers.undeclared(contestant, blank.case.workload, figures["letters"]):
            raise LoadError(f"the filter was not asked what the workload asks: {text}")
        return figures

    try:
        put(min(0.3, setting.seconds / 2))  # pools are filled, caches warm, code specialised
        cpu = cpu_seconds(server.leader)
        clock = Clock.read()
        figures = put(setting.seconds)
    except LoadError as error:
        return replace(blank, error=f"{error}; the server's last words: {server.last_words()}")
    later = Clock.read()
    cpu = cpu_seconds(server.leader) - cpu
    return replace(
        blank,
        messages_a_second=figures["messages_a_second"],
        bytes_a_second=figures["bytes_a_second"],
        cpu_us_a_message=1e6 * cpu / figures["messages"],
        noise=clock.noise_until(later, cpu + figures["own_cpu_seconds"]),
        figures=figures,
    )


def measure_memory(
    setting: Setting, contestant: Contestant, counts: tuple[int, ...] = IDLE_COUNTS
) -> Memory:
    """Read the memory with no connection and with more and more idle ones.

    It ends at the first number that the contestant does not take.
    """
    kib: dict[int, int] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="milter-") as folder,
            Server(
                contestant,
                setting.programs[contestant.need],
                family=contestant.families[0],
                kind="noop",
                folder=Path(folder),
                core=setting.server_core,
            ) as server,
        ):
            kib[0] = memory_kib(server.leader)
            for count in counts:
                if count > contestant.most_idle:
                    break
                with idle_connections(setting.generator, server.address, count) as held:
                    if held < count:
                        break
                    kib[count] = memory_kib(server.leader)
    except (ServerError, LoadError) as error:
        return Memory(contestant.name, kib, error=str(error))
    return Memory(contestant.name, kib)
