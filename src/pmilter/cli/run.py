"""``pmilter run APP``: serves a user's filter."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from pmilter.address import Address, parse_address
from pmilter.cli.app import load_app
from pmilter.cli.options import option, with_settings
from pmilter.dispatchers.registry import MODULES, dispatcher_named
from pmilter.errors import ConfigError

if TYPE_CHECKING:
    from pmilter.milter import Milter

LEVELS: Final = ("debug", "info", "warning", "error")

_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """All settings of ``pmilter run``."""

    listen: Address | None = field(
        default=None,
        metadata=option(
            "-l",
            "--listen",
            metavar="ADDRESS",
            parse=parse_address,
            help="Where to listen: inet:PORT@HOST, inet6:PORT@HOST, unix:/path, or fd:NAME for a socket handed in by systemd. "
            "May be left out where the program itself calls setconn.",
        ),
    )
    mode: str | None = field(
        default=None,
        metadata=option(
            "--mode",
            metavar="OCTAL",
            help="Mode of the UNIX socket, such as 660. By default what the umask leaves, and nothing for others.",
        ),
    )
    group: str | None = field(
        default=None,
        metadata=option(
            "--group",
            metavar="NAME",
            help="Group of the UNIX socket, such as the one of the MTA.",
        ),
    )
    dispatcher: str | None = field(
        default=None,
        metadata=option(
            "-d",
            "--dispatcher",
            choices=tuple(MODULES),
            help="How connections are served, whatever the program has set. By default the program's choice, then the "
            "environment variable PMILTER_DISPATCHER, then asyncio where a callback is async, else postfork.",
        ),
    )
    log_level: str = field(
        default="info",
        metadata=option(
            "--log-level",
            choices=LEVELS,
            help="Least important lines to log; the log goes to stderr.",
        ),
    )


@click.command(
    "run",
    short_help="Serve a filter.",
    epilog="TERM or INT ends it gracefully: open messages are finished. A second signal ends it at once.",
)
@click.argument("app", metavar="APP")
@with_settings(RunSettings)
def command(app: str, settings: RunSettings) -> None:
    """Serve the filter in APP until it is stopped.

    APP is path/to/file.py:attribute or module:attribute; the attribute is a pmilter.Milter, and "milter" where it is left
    out.
    """
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    milter = load_app(app)
    listen(milter, app, settings)
    if settings.dispatcher is not None:
        milter.set_dispatcher(dispatcher_named(settings.dispatcher))
    milter.main()


def listen(milter: Milter, app: str, settings: RunSettings) -> None:
    """Give a filter its socket, unless it has one.

    Raises:
        ConfigError: It has one, and the settings ask for another; or neither knows of one.
        OSError: The socket cannot be opened.
    """
    if settings.listen is None:
        _check_socket(milter, app, settings)
        return
    if milter.address is not None:
        raise ConfigError(
            f"{app} itself calls setconn({str(milter.address)!r}) while it is loaded: leave --listen out, "
            "or put setconn under 'if __name__ == \"__main__\":'"
        )
    milter.setconn(settings.listen, settings.mode, settings.group)


def _check_socket(milter: Milter, app: str, settings: RunSettings) -> None:
    if milter.address is None:
        raise ConfigError(
            f"{app} has nothing to listen on: give --listen, such as --listen inet:8891@127.0.0.1 "
            "or --listen unix:/run/filter.sock (a setconn under 'if __name__ ...' does not count here)"
        )
    if settings.mode is not None or settings.group is not None:
        raise ConfigError(
            f"--mode and --group belong to --listen; {app} has opened {milter.address} by itself"
        )
