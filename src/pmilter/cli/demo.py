"""``pmilter demo``: four messages through the sample filter, told from the MTA's, the filter's and the client's side."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from pmilter.cli.console import make_console
from pmilter.cli.scenes import SCENES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pmilter.cli.account import Account

_SAMPLE: Final = Path(__file__).with_name("sample.py")


@click.command(
    "demo",
    short_help="See a filter at work on four messages.",
    epilog="Colours are used on terminals only, and not where the environment variable NO_COLOR is set.",
)
@click.option(
    "--dialect",
    type=click.Choice(("postfix", "sendmail")),
    default="postfix",
    show_default=True,
    help="Which MTA to play in memory.",
)
@click.option("--postfix", is_flag=True, help="Send the messages through a private, real Postfix.")
@click.option("--json", "as_json", is_flag=True, help="Tell it for machines.")
@click.option("--show", is_flag=True, help="Print the sample filter, and do nothing else.")
@click.pass_context
def command(
    context: click.Context, dialect: str, *, postfix: bool, as_json: bool, show: bool
) -> None:
    """Send four messages through a sample filter, and tell what happens.

    One message is clean, one is marked, one has a recipient that is refused, one has content that is refused. For each you
    see what the MTA asks, what the filter answers, how the message changes, and what becomes of it.
    """
    if show:
        make_console().out(_SAMPLE.read_text(encoding="utf-8"), end="", highlight=False)
        return
    given = context.get_parameter_source("dialect")
    if postfix and given is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--dialect is for the MTA in memory, --postfix for a real one.")
    logging.getLogger("pmilter").setLevel(logging.ERROR)  # advice for daemons is out of place here
    accounts = _play(dialect, real=postfix)
    if as_json:
        document = {"mta": _mta(dialect, real=postfix), "messages": [a.to_json() for a in accounts]}
        make_console().out(json.dumps(document, indent=2), highlight=False)
    else:
        _print(accounts, _mta(dialect, real=postfix), _hints(real=postfix))


def _mta(dialect: str, *, real: bool) -> str:
    return "a real Postfix" if real else f"{dialect.capitalize()}, played in memory"


def _hints(*, real: bool) -> Iterator[str]:
    yield f"The filter is {_SAMPLE.name}; pmilter demo --show prints it."
    if real:
        yield "The field Received in each message is Postfix's own."


def _play(dialect: str, *, real: bool) -> Iterator[Account]:
    from pmilter.cli.playing import play_in_memory, play_through_postfix

    if real:
        return play_through_postfix(SCENES)
    return (play_in_memory(scene, dialect) for scene in SCENES)


def _print(accounts: Iterator[Account], mta: str, hints: Iterable[str]) -> None:
    from pmilter.cli.rendering import Page

    page = Page(make_console())
    page.head(f"pmilter demo: a sample filter behind {mta}", hints)
    for number, account in enumerate(accounts, 1):
        page.account(number, account)
