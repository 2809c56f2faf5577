"""The command: builds what is needed, measures round by round, writes figures, tables and plots."""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks import interpreters, plots, tables
from benchmarks.build import HERE, Absent, build_all, load_generator
from benchmarks.cases import SHORT, USUAL, Case, choose_cases
from benchmarks.catalogue import CONTESTANTS, Contestant, choose_contestants
from benchmarks.measure import IDLE_COUNTS, Setting, measure, measure_memory
from benchmarks.postfix import check_available, measure_passage
from benchmarks.results import Results

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.measure import Measurement

# The short form takes what a compiler alone can build, where nothing else is said.
QUICK_NEEDS = ("ceiling", "libmilter", "pmilter")


Number = TypeVar("Number", int, float)


def duration(seconds: float) -> str:
    """Write a time in minutes, or in seconds below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class Progress:
    """Says on standard error what is being measured and how long the rest will take."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._begun = time.monotonic()

    def step(self, what: str) -> None:
        """Tell the result of a step."""
        self._done += 1
        took = time.monotonic() - self._begun
        rest = took / self._done * (self._steps - self._done)
        line = f"[{self._done:>3}/{self._steps}, {duration(rest)} left] {what}"
        print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        cases: What is measured.
        contestants: Who is.
        rounds: How often.
        idle_counts: Numbers of idle connections with which memory is read; none leaves that out.
        taggers: Who filters for a real Postfix; `None` is no filter.
    """

    cases: tuple[Case, ...]
    contestants: tuple[Contestant, ...]
    rounds: int
    idle_counts: tuple[int, ...]
    taggers: tuple[Contestant | None, ...] = ()

    def steps(self) -> int:
        """How many measurements there are in all."""
        idle = len(self.contestants) if self.idle_counts else 0
        return len(self.turns()) + idle + self.rounds * len(self.taggers)

    def turns(self) -> list[tuple[int, Case, Contestant]]:
        """All measurements: A B C, then B C A, so that nobody always runs first."""
        turns = []
        for number in range(1, self.rounds + 1):
            order = deque(self.contestants)
            order.rotate(1 - number)
            turns += [
                (number, case, contestant)
                for case in self.cases
                for contestant in order
                if case.filter in contestant.filters
            ]
        return turns


def between(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    """Make a reader of a number on the command line that refuses what is out of bounds."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")
        return value

    return read


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; the short form changes what is meant where nothing is said."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure pmilter's dispatchers beside other milter libraries.",
    )
    add = parser.add_argument
    add("--peers", nargs="+", metavar="NAME", help="names, shell patterns or groups; see --list")
    add("--cases", nargs="+", metavar="CASE", help="such as noop/unix/16, or patterns: 'tagger/*'")
    add(
        "--rounds",
        type=between(int, 1, 1000),
        metavar="N",
        help="each measures everything once (default 3)",
    )
    add(
        "--seconds",
        type=between(float, 0.02, 600.0),
        metavar="S",
        help="of load in a measurement (default 2)",
    )
    add("--unpinned", action="store_true", help="no core of their own for server and load")
    add("--no-memory", action="store_true", help="leave the idle connections out")
    add("--no-postfix", action="store_true", help="leave the real Postfix out")
    add("--noise-limit", type=between(float, 0.0, 1.0), default=0.1, metavar="SHARE",
        help="repeat, twice at most, where others took more of the cores (default 0.1)")  # fmt: skip
    add("--output", type=Path, default=HERE / "results", metavar="FOLDER")
    add("--short", action="store_true", help="only check that everything works, in seconds")
    add("--list", action="store_true", help="print contestants and cases")
    options = parser.parse_args(arguments)
    short = options.short
    quick = [each.name for each in CONTESTANTS if each.need in QUICK_NEEDS]
    options.peers = options.peers or (quick if short else ["*"])
    options.cases = options.cases or ["*"]
    options.rounds = options.rounds or (1 if short else 3)
    options.seconds = options.seconds or (0.1 if short else 2.0)
    return options


def make_plan(options: argparse.Namespace, contestants: list[Contestant]) -> Plan:
    """Choose what to measure; raises ValueError."""
    counts = (1, 16) if options.short else IDLE_COUNTS
    return Plan(
        cases=choose_cases(SHORT if options.short else USUAL, options.cases),
        contestants=tuple(contestants),
        rounds=options.rounds,
        idle_counts=() if options.no_memory else counts,
    )


def make_setting(options: argparse.Namespace, programs: dict[str, Path]) -> Setting:
    """Give server and load a core each, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = not options.unpinned and len(cores) > 1
    return Setting(
        generator=load_generator(),
        programs=programs,
        seconds=options.seconds,
        server_core=cores[0] if pinned else None,
        load_core=cores[1] if pinned else None,
        noise_limit=options.noise_limit,
        tries=1 if options.short else 3,
    )


def allow_many_files() -> None:
    """Let this process and its children open a thousand connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run_loads(plan: Plan, setting: Setting, results: Results, progress: Progress) -> None:
    """Measure all cases; a server that does not start is not started again."""
    broken: set[str] = set()
    for number, case, contestant in plan.turns():
        where = f"round {number} {case} {contestant.name}"
        if contestant.name in broken:
            progress.step(f"{where}: left out")
            continue
        found = measure(setting, contestant, case, number)
        results.measurements.append(found)
        if found.startup_ms == 0:
            broken.add(contestant.name)
        progress.step(f"{where}: {found.error or summary(found)}")


def summary(of: Measurement) -> str:
    """Say in a line what was found."""
    return (
        f"{of.messages_a_second:,.0f} messages/s, {of.cpu_us_a_message:,.0f} µs CPU, "
        f"{of.noise:.0%} noise"
    )


def run_memory(plan: Plan, setting: Setting, results: Results, progress: Progress) -> None:
    """Read the memory of every contestant."""
    for contestant in plan.contestants:
        memory = measure_memory(setting, contestant, plan.idle_counts)
        results.memories.append(memory)
        sizes = ", ".join(f"{count}: {kib / 1024:,.1f} MiB" for count, kib in memory.kib.items())
        progress.step(f"idle connections {contestant.name}: {memory.error or sizes}")


def run_postfix(plan: Plan, setting: Setting, results: Results, progress: Progress) -> None:
    """Put every tagger before a real Postfix, in turns."""
    for number in range(1, plan.rounds + 1):
        for contestant in plan.taggers:
            passage = measure_passage(setting, contestant, number)
            results.passages.append(passage)
            found = passage.error or f"{passage.messages_a_second:,.0f} messages/s"
            progress.step(f"round {number} through Postfix, {passage.contestant}: {found}")


def run_plan(plan: Plan, setting: Setting, results: Results) -> None:
    """Measure everything; after an interruption there is what was found until then."""
    progress = Progress(plan.steps())
    try:
        run_loads(plan, setting, results, progress)
        if plan.idle_counts:
            run_memory(plan, setting, results, progress)
        run_postfix(plan, setting, results, progress)
    except KeyboardInterrupt:
        print("interrupted; writing what there is", file=sys.stderr)


def save(results: Results, folder: Path) -> None:
    """Write figures, tables and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    results.save(folder / "results.json")
    (folder / "report.md").write_text(tables.report(results))
    plots.save_all(results, folder)
    print(f"Written to {folder}: results.json, report.md and plots (*.svg)")


def failed_that_must_work(results: Results, contestants: tuple[Contestant, ...]) -> list[str]:
    """Our own servers and the ceilings have no excuse; of others a failure is only told."""
    ours = {each.name for each in contestants if each.group in ("ours", "ceiling")}
    return [
        f"{name}, {where}: {error}"
        for (name, where), error in results.errors().items()
        if name in ours
    ]


def print_list() -> None:
    """Print what can be chosen."""
    for contestant in CONTESTANTS:
        print(f"{contestant.group:8} {contestant.name}")
    for case in USUAL:
        print(f"{'case':8} {case}")


def describe(setting: Setting, plan: Plan) -> dict[str, Any]:
    """Say how it was measured."""
    pinned = setting.server_core is not None
    return {
        "rounds": plan.rounds,
        "seconds": setting.seconds,
        "pinned": pinned,
        "noise limit": setting.noise_limit,
    }


def with_postfix(plan: Plan, absent: dict[str, str]) -> Plan:
    """Add ours, libmilter and no filter at all on a real Postfix, if there is one."""
    try:
        check_available()
    except Absent as reason:
        absent["real Postfix"] = str(reason)
        return plan
    chosen = (each for each in plan.contestants if each.group == "ours" or each.name == "libmilter")
    return replace(plan, taggers=(None, *chosen))


def prepare(options: argparse.Namespace) -> tuple[Plan, Setting, Results]:
    """Build what is needed; raises ValueError, and Absent if there is no load generator."""
    chosen = choose_contestants(options.peers)
    built = build_all({each.need for each in chosen})
    programs = {need: path for need, path in built.items() if isinstance(path, Path)}
    plan = make_plan(options, [each for each in chosen if each.need in programs])
    setting = make_setting(options, programs)
    absent = {each.name: str(built[each.need]) for each in chosen if each.need not in programs}
    if not (options.short or options.no_postfix):
        plan = with_postfix(plan, absent)
    results = Results(
        settings=describe(setting, plan),
        absent=absent,
        interpreters=interpreters.survey(programs),
    )
    return plan, setting, results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; 0 done, 1 something of ours failed, 2 usage, 3 no load generator."""
    options = read_options(arguments)
    if options.list:
        print_list()
        return 0
    try:
        plan, setting, results = prepare(options)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except Absent as error:
        print(f"benchmarks: no load generator: {error}", file=sys.stderr)
        return 3
    for name, reason in results.absent.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    for warning in interpreters.warnings(results.interpreters):
        print(f"warning: {warning}", file=sys.stderr)
    allow_many_files()
    run_plan(plan, setting, results)
    save(results, options.output)
    if not options.short:
        print(f"\n{tables.target_section(results)}")
    failures = failed_that_must_work(results, plan.contestants)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0
