"""Where the command begins and ends: finds the verb, runs it, and turns its outcome into an exit status."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final, NoReturn

import click

from pmilter._version import __version__
from pmilter.cli.descriptors import hold_standard_descriptors
from pmilter.cli.exits import Exit, report

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS: Final = {
    "bench": "pmilter.cli.bench",
    "demo": "pmilter.cli.demo",
    "run": "pmilter.cli.run",
}
"""Verb -> module that holds it as `command`; imported when it is asked for."""


class _Verbs(click.Group):
    """All verbs, in the order of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(VERBS[cmd_name]).command
        return command


_HELP: Final = """\
pmilter for Python: mail filters for Postfix and Sendmail.

\b
See what a filter does:   pmilter demo
Put your own in service:  pmilter run filter.py --listen inet:8891@127.0.0.1
"""

_EPILOG: Final = (
    "Exit status: 0 done, 1 an expectation failed, 2 usage or configuration, 3 could not connect or bind, "
    "4 the peer broke the protocol, 5 timeout, 6 the peer closed early, 7 a limit was hit, 70 internal error."
)


@click.group(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=_HELP,
    epilog=_EPILOG,
)
@click.version_option(__version__, "-V", "--version", message="pmilter %(version)s")
@click.pass_context
def pmilter(context: click.Context) -> Exit:
    """Filter mail on Postfix and Sendmail: run filters, and see what they do."""
    if context.invoked_subcommand is not None:
        return Exit.DONE
    click.echo(context.get_help(), err=True)
    return Exit.USAGE


def perform(arguments: Sequence[str] | None = None) -> int:
    """Run the command in this process, and return its exit status; errors have been told on stderr.

    Args:
        arguments: What follows ``pmilter``; by default what the process was started with.
    """
    try:
        outcome = pmilter.main(arguments, prog_name="pmilter", standalone_mode=False)
    except Exception as error:  # noqa: BLE001  # all that is left of any error is a line and a status
        return report(error)
    return int(outcome or Exit.DONE)


def main() -> NoReturn:
    """Run the command, and end the process with its exit status."""
    hold_standard_descriptors()
    sys.exit(perform())
