"""The command: runs proofs, shows how far they are, and gives a verdict on each."""

from __future__ import annotations

import argparse
import json
import platform
import time
import traceback
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from proofs.catalogue import PROOFS
from proofs.findings import Finding
from proofs.service import LOG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proofs.catalogue import Proof

OUTPUT = Path(__file__).with_name("results")
LAST_WORDS = 12
"""Lines of the filter's log that are kept where a proof breaks off."""
SHOWN_LINE = 400
"""Characters of a line of evidence."""


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m proofs",
        description="Try under load, with real processes and a real Postfix, what pmilter promises.",
        epilog="Proofs: " + "; ".join(f"{proof.NAME}: {proof.TITLE}" for proof in PROOFS.values()),
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="proofs; all where none is named")
    add("--size", choices=("short", "full"), default="full", help="default full")
    add("--cases", nargs="+", metavar="CASE", help="only these, such as prefork-ithread")
    add("--messages", type=int, metavar="N", help="instead of the size's own number")
    add("--connections", type=int, metavar="N", help="instead of the size's own number")
    add("--output", type=Path, default=OUTPUT, metavar="FOLDER")
    add("--list", action="store_true", help="print proofs and their cases")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in PROOFS]:
        parser.error(f"no proof is called {unknown[0]!r}; there are {', '.join(PROOFS)}")
    return options


def size_of(proof: Proof, options: argparse.Namespace) -> Any:
    """Return how much of a proof is wanted; an option that it does not know does not count."""
    size = proof.SIZES[options.size]
    known = {each.name for each in fields(size)}
    wanted = {"messages": options.messages, "connections": options.connections}
    changes = {name: value for name, value in wanted.items() if value and name in known}
    return replace(size, **changes)


def chosen(options: argparse.Namespace) -> Iterator[tuple[Proof, str]]:
    """Return what is to be proved, in which cases."""
    for name in options.names or PROOFS:
        for case in PROOFS[name].CASES:
            if not options.cases or case in options.cases:
                yield PROOFS[name], case


def run(proof: Proof, case: str, options: argparse.Namespace, progress: Progress) -> Finding:
    """Prove one thing; whatever goes wrong counts against it."""
    directory: Path = options.output / f"{proof.NAME}-{case}"
    directory.mkdir(parents=True, exist_ok=True)
    task = progress.add_task(f"{proof.NAME} {case}", total=None)
    begun = time.monotonic()
    try:
        finding = proof.prove(
            case,
            size_of(proof, options),
            directory,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
    except Exception as error:  # noqa: BLE001  # a proof that breaks off has not succeeded
        finding = Finding(proof.NAME, case)
        finding.check(
            "the proof comes to its end", passed=False, detail=f"{type(error).__name__}: {error}"
        )
        finding.evidence = [*traceback.format_exc().splitlines(), *last_words(directory)]
    finding.seconds = round(time.monotonic() - begun, 1)
    progress.remove_task(task)
    progress.console.print(line_of(finding))
    return finding


def last_words(directory: Path) -> list[str]:
    """Return the end of what the filter has logged."""
    log = directory / LOG
    return log.read_text(errors="replace").splitlines()[-LAST_WORDS:] if log.exists() else []


def line_of(finding: Finding) -> str:
    """Say in a line what was found."""
    verdict = "[green]holds[/]" if finding.passed else "[bold red]FAILS[/]"
    return f"{verdict} {finding.proof} {finding.case}: {figures_of(finding)}"


def figures_of(finding: Finding) -> str:
    """Return the figures in a line."""
    return ", ".join(f"{name} {value}" for name, value in finding.figures.items())


def table_of(findings: Sequence[Finding]) -> Table:
    """Return a row for each finding."""
    table = Table("proof", "case", "verdict", "checks", "seconds", "figures", title="Verdicts")
    for each in findings:
        passed = len(each.checks) - len(each.failures)
        table.add_row(
            each.proof,
            each.case,
            "[green]holds[/]" if each.passed else "[bold red]FAILS[/]",
            f"{passed}/{len(each.checks)}",
            f"{each.seconds:.1f}",
            figures_of(each),
        )
    return table


def tell_failures(console: Console, findings: Sequence[Finding]) -> None:
    """Print what failed, and the evidence."""
    for finding in findings:
        for check in finding.failures:
            console.print(
                f"{finding.proof} {finding.case}: NOT TRUE: {check.text}: {check.detail}",
                markup=False,
            )
        for line in finding.evidence:
            console.print(f"    {line[:SHOWN_LINE]}", markup=False, highlight=False)


def save(findings: Sequence[Finding], options: argparse.Namespace) -> Path:
    """Write everything that was found."""
    path: Path = options.output / "results.json"
    about = {
        "size": options.size,
        "python": platform.python_version(),
        "machine": platform.platform(),
        "findings": [finding.as_json() for finding in findings],
    }
    path.write_text(json.dumps(about, indent=2) + "\n")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run proofs; 0 all hold, 1 one does not, 2 usage."""
    options = read_options(arguments)
    console = Console()
    if options.list:
        for proof in PROOFS.values():
            console.print(
                f"{proof.NAME}: {proof.TITLE}\n    {', '.join(proof.CASES)}", markup=False
            )
        return 0
    pairs = list(chosen(options))
    if not pairs:
        console.print(f"no proof has a case {options.cases}", markup=False)
        return 2
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    options.output.mkdir(parents=True, exist_ok=True)
    with Progress(*columns, console=console, transient=True) as progress:
        findings = [run(proof, case, options, progress) for proof, case in pairs]
    console.print(table_of(findings))
    tell_failures(console, findings)
    console.print(f"Written to {save(findings, options)}; logs are beside it", markup=False)
    return 0 if all(finding.passed for finding in findings) else 1
