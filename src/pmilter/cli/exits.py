"""Exit statuses, and what errors become: one line on stderr and a status. The same for every verb."""

from __future__ import annotations

import logging
import os
import sys
from enum import IntEnum
from typing import Final

import click

from pmilter.errors import (
    ConfigError,
    ConnectionClosed,
    LimitExceeded,
    LocalProtocolError,
    NegotiationError,
    RemoteProtocolError,
)
from pmilter.text import printable

logger: Final = logging.getLogger("pmilter")


class Exit(IntEnum):
    """What the command tells the shell."""

    DONE = 0
    """Done, and all expectations met."""
    UNMET = 1
    """An expectation failed."""
    USAGE = 2
    """Wrong usage or configuration."""
    UNREACHABLE = 3
    """Could not connect or bind."""
    PROTOCOL = 4
    """The peer broke the protocol."""
    TIMEOUT = 5
    """A time limit ran out."""
    CLOSED = 6
    """The peer closed early; also who reads our output."""
    LIMIT = 7
    """A limit was hit."""
    INTERNAL = 70
    """An error in pmilter itself; the log has its traceback."""
    INTERRUPTED = 130
    """Interrupted from the keyboard, as shells count it."""


_STATUSES: Final[tuple[tuple[type[Exception], Exit], ...]] = (
    (click.Abort, Exit.INTERRUPTED),
    (click.ClickException, Exit.USAGE),
    (ConfigError, Exit.USAGE),
    (LocalProtocolError, Exit.USAGE),
    (RemoteProtocolError, Exit.PROTOCOL),
    (NegotiationError, Exit.PROTOCOL),
    (TimeoutError, Exit.TIMEOUT),
    (ConnectionClosed, Exit.CLOSED),
    (ConnectionResetError, Exit.CLOSED),
    (ConnectionAbortedError, Exit.CLOSED),
    (BrokenPipeError, Exit.CLOSED),
    (LimitExceeded, Exit.LIMIT),
    # Verbs turn the errors of files into ConfigError, so that those of sockets are left.
    (OSError, Exit.UNREACHABLE),
)
"""Type -> status; the first that fits counts."""


def exit_status(error: Exception) -> Exit:
    """Return the status that an error ends the command with."""
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    return Exit.INTERNAL


def report(error: Exception) -> Exit:
    """Tell of an error on stderr, and return the status that it ends the command with."""
    status = exit_status(error)
    if isinstance(error, BrokenPipeError):
        silence_stdout()
    elif status is Exit.INTERNAL:
        logger.critical("internal error, please report it: %s", error, exc_info=error)
    elif status is Exit.INTERRUPTED:
        click.echo("pmilter: interrupted", err=True)
    else:
        _say(error)
    return status


def _say(error: Exception) -> None:
    click.echo(f"pmilter: {printable(describe(error))}", err=True)
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)


def describe(error: Exception) -> str:
    """Return an error as one sentence for people."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message().rstrip('.')}; try '{error.ctx.command_path} --help'"
    if isinstance(error, click.ClickException):
        return error.format_message()
    return str(error)


def silence_stdout() -> None:
    """Let what is still buffered for stdout go nowhere: its reader has gone, and Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
