"""``pmilter bench ADDRESS``: how many messages a second a running filter does, and how long an MTA waits for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pmilter.address import parse_address
from pmilter.cli.console import make_console
from pmilter.cli.exits import Exit
from pmilter.client.dialect import DIALECTS
from pmilter.client.load import Plan, sample_message
from pmilter.client.load.sockets import look_up
from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from pmilter.cli.bench_document import Run

SECONDS: Final = 10.0
"""How long is measured where neither a time nor a number of messages was asked for."""

MOST_BYTES: Final = 100 * 1024 * 1024
"""Largest message, in bytes: above what MTAs take."""

STATUSES: Final = {
    "unreachable": Exit.UNREACHABLE,
    "protocol": Exit.PROTOCOL,
    "timeout": Exit.TIMEOUT,
    "closed": Exit.CLOSED,
    "limit": Exit.LIMIT,
}
"""Kind of failure -> status; the first that happened counts."""


def parse_size(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """Return the bytes that a text such as 8192, 8K or 1M means; a click callback."""
    match = re.fullmatch(r"([0-9]{1,9})([kKmM]?)", text)
    size = int(match[1]) << {"": 0, "k": 10, "m": 20}[match[2].lower()] if match else -1
    if not 0 <= size <= MOST_BYTES:
        raise click.BadParameter(f"{text!r} is no size from 0 to 100M; write 8192, 8K or 1M.")
    return size


@click.command(
    "bench",
    short_help="Measure a running filter under load.",
    epilog="Ctrl-C ends it early, with the results so far.",
)
@click.argument("address", metavar="ADDRESS")
@click.option(
    "-c",
    "--connections",
    type=click.IntRange(1, 4096),
    metavar="N",
    default=16,
    show_default=True,
    help="Connections at the same time.",
)
@click.option(
    "-m",
    "--messages",
    type=click.IntRange(1),
    metavar="N",
    default=10,
    show_default=True,
    help="Messages on each connection, before it is closed and another one opened.",
)
@click.option(
    "-s",
    "--seconds",
    type=click.FloatRange(0.1, 86400),
    metavar="S",
    help="How long to measure.  [default: 10, or as long as -n takes]",
)
@click.option(
    "-n", "--total", type=click.IntRange(1), metavar="N", help="How many messages to measure."
)
@click.option(
    "-w",
    "--warm-up",
    type=click.FloatRange(0, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds of load before the measurement.",
)
@click.option(
    "-r",
    "--rate",
    type=click.FloatRange(0.01, 1_000_000),
    metavar="N",
    help="Messages to begin each second, whether the filter keeps up or not. What a message waits for its turn is part "
    "of its time. By default the next one begins when one has ended.",
)
@click.option(
    "--recipients",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=2,
    show_default=True,
    help="Recipients of a message.",
)
@click.option(
    "--headers",
    type=click.IntRange(0, 1000),
    metavar="N",
    default=20,
    show_default=True,
    help="Header fields of a message.",
)
@click.option(
    "--body",
    callback=parse_size,
    default="8192",
    show_default=True,
    metavar="SIZE",
    help="Bytes of its body: 8192, 8K, 1M.",
)
@click.option(
    "--message",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Send this message instead.",
)
@click.option(
    "--dialect",
    type=click.Choice(tuple(DIALECTS)),
    default="postfix",
    show_default=True,
    help="Which MTA to play.",
)
@click.option(
    "--protocol",
    "version",
    type=click.IntRange(2, 6),
    metavar="N",
    default=6,
    show_default=True,
    help="Protocol version to offer.",
)
@click.option("--no-macros", is_flag=True, help="Send no macros.")
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(0.01, 3600),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait for an answer.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    metavar="N",
    default=1,
    show_default=True,
    help="Processes that make the load, where one is not fast enough; they share the connections.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results for machines.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(context: click.Context, /, **values: Any) -> Exit:
    """Put load on the filter at ADDRESS, and tell how many messages a second it does and how long an MTA waits for it.

    ADDRESS is inet:PORT@HOST, inet6:PORT@HOST or unix:/path. Each message is sent as Postfix or Sendmail would send it, as far as
    the filter wants to see it, and every answer is held against the rules of the protocol.
    """
    from pmilter.cli.bench_document import Run
    from pmilter.cli.bench_processes import run_loads
    from pmilter.cli.bench_progress import Progress

    plan = make_plan(context, values)
    processes = values["processes"]
    if processes > min(plan.connections, plan.total or plan.connections):
        raise click.UsageError("--processes is more than there are connections, or messages.")
    look_up(plan.address)  # what is wrong with it is told once, not by every process
    with Progress(plan, shown=not values["quiet"]) as progress:
        outcome = run_loads(plan.shares(processes), progress.update)
    run = Run(plan, processes, outcome.figures, outcome.interrupted)
    _print(run, as_json=values["as_json"])
    return _status(run)


def make_plan(context: click.Context, values: dict[str, Any]) -> Plan:
    """Make a plan of the options.

    Raises:
        click.UsageError: Two of them exclude each other.
        ConfigError: Address or message are wrong.
    """
    seconds, total = values["seconds"], values["total"]
    return Plan(
        address=parse_address(values["address"]),
        message=_message(context, values),
        recipients=values["recipients"],
        dialect=DIALECTS[values["dialect"]],
        version=values["version"],
        macros=not values["no_macros"],
        connections=values["connections"],
        messages=values["messages"],
        seconds=SECONDS if seconds is None and total is None else seconds,
        total=total,
        warm_up=values["warm_up"],
        rate=values["rate"],
        timeout=values["timeout"],
    )


def _message(context: click.Context, values: dict[str, Any]) -> bytes:
    path: Path | None = values["path"]
    if path is None:
        return sample_message(values["headers"], values["body"])
    for name in ("headers", "body"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name} is for made-up messages, --message is for a real one."
            )
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", source=str(path)) from error
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path}: the message has more than {MOST_BYTES} bytes", source=str(path))
    return data


def _print(run: Run, *, as_json: bool) -> None:
    from pmilter.cli.bench_document import document
    from pmilter.cli.bench_report import Report

    if as_json:
        make_console().out(json.dumps(document(run), indent=2), highlight=False)
    else:
        Report(make_console()).print(run)


def _status(run: Run) -> Exit:
    """Tell what went wrong, and return the status."""
    for reason in run.reasons():
        click.echo(f"pmilter: {reason}", err=True)
    found = (status for kind, status in STATUSES.items() if run.figures.failures[kind])
    otherwise = Exit.TIMEOUT if run.stalled else Exit.DONE
    return next(found, Exit.INTERRUPTED if run.unmeasured else otherwise)
