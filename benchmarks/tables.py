"""The report: Markdown tables of figures, ratios and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import answers, interpreters
from benchmarks.cases import MEANING
from benchmarks.measure import IDLE_COUNTS
from benchmarks.results import cpu, throughput
from benchmarks.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.cases import Case
    from benchmarks.measure import Measurement
    from benchmarks.results import Results, Spread

REFERENCE = "libmilter"
DISTURBED = "†"
DISTURBED_MEANING = "In a round others took more of the cores than the limit, in every try"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None, digits: int = 0) -> str:
    """Write a figure, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def figure(value: float) -> str:
    """Write a figure with as many digits as it needs."""
    return number(value, 0 if value >= 100 else 1)


def spread(of: Spread | None) -> str:
    """Write median and extremes."""
    if of is None:
        return "-"
    return f"{figure(of.median)} ({figure(of.least)}-{figure(of.most)})"


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def percentiles(of: str, *shares: str) -> Callable[[Measurement], str]:
    """Make a writer of percentiles in microseconds, such as of ``message_us``."""
    return lambda each: " / ".join(number(each.figures[of][share]) for share in shares)


def case_row(results: Results, case: Case, name: str) -> list[str]:
    """Write all figures of one contestant in one case."""
    rounds = sorted(results.good(case, name), key=throughput)
    typical = rounds[len(rounds) // 2]
    against = (case, REFERENCE)
    over_tcp = " (TCP)" if typical.family != case.family else ""
    mark = f" {DISTURBED}" if any(each.disturbed for each in rounds) else ""
    return [
        name + over_tcp + mark,
        spread(results.spread(case, name, throughput)),
        number(results.ratio(throughput, (case, name), against), 2),
        spread(results.spread(case, name, cpu)),
        number(results.ratio(cpu, (case, name), against), 2),
        number(typical.bytes_a_second / 1e6, 1),
        percentiles("command_us", "p50", "p99", "p99.9")(typical),
        percentiles("message_us", "p50", "p99", "p99.9")(typical),
        number(typical.figures["setup_us"]["p50"]),
        str(sum(not word.endswith("=") for word in typical.figures["letters"].split())),
        f"`{typical.figures['digest'][:8]}`",
    ]


CASE_HEAD = (
    "server", "messages/s (min-max)", f"x {REFERENCE}", "CPU µs/message (min-max)",
    f"x {REFERENCE}", "MB/s", "command µs, p50/p99/p99.9", "message µs, p50/p99/p99.9",
    "set-up µs, p50", "answers", "digest",
)  # fmt: skip


def case_section(results: Results, case: Case) -> str:
    """Write the table of a case, best first, and what was answered."""

    def speed(name: str) -> float:
        of = results.spread(case, name, throughput)
        return of.median if of else 0

    names = sorted(results.contestants(case), key=speed, reverse=True)
    usual = answers.shorten(answers.script(case.workload))
    lines = [
        f"## {case}\n\n{sentence(MEANING[case.workload])}\n",
        table(CASE_HEAD, (case_row(results, case, name) for name in names)),
        f"\nCommands and answers to the end of the first message: `{usual}`.",
    ]
    lines += [f"{name}: {text}." for name, text in answers.differences(results, case).items()]
    if any(each.disturbed for name in names for each in results.good(case, name)):
        lines.append(f"\n{DISTURBED} {DISTURBED_MEANING}.")
    return "\n".join(lines)


def target_section(results: Results) -> str:
    """Write which targets were reached."""
    rows = []
    for target in TARGETS:
        value, verdict = target.verdict(results)
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}"
        mark = f" {DISTURBED}" if target.rests_on_disturbed(results) else ""
        rows.append([target.what, bound, number(value, 2), verdict + mark])
    written = "## Targets\n\n" + table(("what", "target", "here", "verdict"), rows)
    if any(DISTURBED in row[-1] for row in rows):
        written += f"\n\n{DISTURBED} {DISTURBED_MEANING}; without that the reading is another."
    return written


def memory_section(results: Results) -> str:
    """Write memory and start-up."""
    rows = []
    for memory in results.memories:
        starts = [
            each.startup_ms
            for each in results.measurements
            if each.contestant == memory.contestant and each.error is None
        ]
        counts = [
            number(memory.kib[count] / 1024, 1) if count in memory.kib else "-"
            for count in (0, *IDLE_COUNTS)
        ]
        rows.append(
            [
                memory.contestant,
                number(min(starts) if starts else None),
                *counts,
                number(results.growth_kib(memory.contestant), 1),
            ]
        )
    head = ["server", "start-up ms", "MiB, no connection"]
    head += [f"{count:,} idle" for count in IDLE_COUNTS]
    return "## Start-up and memory\n\n" + table([*head, "KiB a connection"], rows)


def passage_section(results: Results) -> str:
    """Write what went through a real Postfix."""
    names = dict.fromkeys(each.contestant for each in results.passages if each.error is None)
    rows = [
        [name, spread(results.passage(name)), number(results.passage_ratio(name, REFERENCE), 2)]
        for name in names
    ]
    head = ("tagger", "messages/s (min-max)", f"x {REFERENCE}")
    return "## Through a real Postfix\n\n" + table(head, rows) if rows else ""


def failure_section(results: Results) -> str:
    """Write what is not in the tables, and why."""
    lines = [f"- {name}: {reason}" for name, reason in results.absent.items()]
    lines += [f"- {name}, {where}: {error}" for (name, where), error in results.errors().items()]
    return "## Not measured\n\n" + "\n".join(lines) if lines else ""


def disturbance(results: Results) -> str:
    """Say how much of the machine others used while it was measured."""
    shares = [each.noise for each in results.measurements if each.error is None]
    if not shares:
        return ""
    mean = sum(shares) / len(shares)
    return (
        f"Other programs and the hypervisor took {mean:.1%} of the cores on average, "
        f"{max(shares):.1%} at most."
    )


def preamble(results: Results) -> str:
    """Write what all figures depend on."""
    about = {**results.machine, **results.settings}
    lines = [", ".join(f"{key} {value}" for key, value in about.items()) + "."]
    if results.interpreters:
        lines.append(f"{sentence(interpreters.describe(results.interpreters))}\n")
    lines += [f"**Warning: {text}.**\n" for text in interpreters.warnings(results.interpreters)]
    return "\n".join([*lines, disturbance(results)])


def report(results: Results) -> str:
    """Write the whole report."""
    sections = [
        f"# Milter libraries, measured side by side\n\n{preamble(results)}\n\n"
        "Medians over the rounds; a ratio is the median of the ratios within each round. "
        "PSS for memory. What each column means is in `benchmarks/README.md`.",
        target_section(results),
        *(case_section(results, case) for case in results.cases() if results.contestants(case)),
        memory_section(results) if results.memories else "",
        passage_section(results),
        failure_section(results),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"
