"""``pmilter run APP``: serves a user's filter."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pmilter.cli.app import load_app, nothing_to_listen_on, parse_app, refuse_setconn
from pmilter.cli.applying import apply
from pmilter.cli.console import make_console
from pmilter.cli.daemon import become, pid_file
from pmilter.cli.ending import late_signals_ignored
from pmilter.cli.misspelt import unknown_variables
from pmilter.cli.options import SettingsCommand, option_table, with_settings
from pmilter.cli.settings import SETTINGS
from pmilter.cli.sources import Sources, differences
from pmilter.dispatchers.generations import serve_generations
from pmilter.dispatchers.listening import listen_on
from pmilter.errors import ConfigError
from pmilter.logs import ConversationFilter, JsonFormatter, TextFormatter
from pmilter.testing.trial import try_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pmilter.cli.settings import RunSettings
    from pmilter.dispatchers.listening import ListeningSocket
    from pmilter.milter import Milter

logger: Final = logging.getLogger("pmilter")

_NEED_LISTEN: Final = (
    "mode",
    "group",
    "backlog",
    "user",
    "max_memory",
    "drain_time",
    "linger",
    "load_time",
)
"""Settings of a socket that is opened, or of a process that lives, before the program is loaded."""


_NOT_READY: Final = re.compile(r"not ready within [0-9.]+ seconds")
"""What a program is told that takes too long to load."""

_MORE_TIME: Final = "give it more time with --load-time, or have it do less while it is loaded"


@click.command(
    "run",
    cls=SettingsCommand,
    table=option_table(SETTINGS),
    short_help="Serve a filter.",
    epilog="Each option is also an environment variable (--log-level: PMILTER_LOG_LEVEL) and a key of the TOML file (log-level); "
    "what is typed goes before the environment, that before the file. TERM or INT ends it gracefully: open messages are "
    "finished. A second signal ends it at once. HUP loads program and file anew. USR1 logs a line of numbers.",
)
@click.argument("app", metavar="APP")
@with_settings(SETTINGS)
@click.option(
    "-c",
    "--config",
    envvar="PMILTER_CONFIG",
    metavar="FILE",
    help="A TOML file with options: its keys are their long names.",
)
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Load everything, run a synthetic session, tell what would be served, and serve nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="With --check: tell it for machines.")
def command(
    app: str, typed: Mapping[str, Any], config: str | None, *, only_check: bool, as_json: bool
) -> None:
    """Serve the filter in APP until it is stopped.

    APP is path/to/file.py:attribute or module:attribute; the attribute is a pmilter.Milter, and "milter" where it is left
    out.
    """
    if as_json and not only_check:
        raise click.UsageError("--json is for --check.")
    file = None if config is None else Path(config)
    sources: Sources[RunSettings] = Sources(SETTINGS, typed, dict(os.environ), file)
    settings = _first_read(sources)
    unknown = unknown_variables(sources.environ, option_table(SETTINGS))
    if only_check:
        for sentence in unknown:
            click.echo(f"pmilter: warning: {sentence}", err=True)
        _check(app, settings, as_json=as_json)
        return
    _log_to_stderr(settings.log_level, settings.log_format)
    for sentence in unknown:
        logger.warning("%s", sentence)
    if settings.listen is None:
        _serve_where_it_listens(app, settings)
    else:
        _serve(app, sources, settings)


def _first_read(sources: Sources[RunSettings]) -> RunSettings:
    try:
        return sources.read()
    except PermissionError as error:
        raise ConfigError(f"{sources.file}: {error.strerror}", source=str(sources.file)) from error


def _log_to_stderr(level: str, form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(ConversationFilter())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _check(app: str, settings: RunSettings, *, as_json: bool) -> None:
    from pmilter.cli.apart import do_apart
    from pmilter.cli.checking import check, rows

    # The one line of an error says what is wrong; its traceback is for those who ask.
    _log_to_stderr("debug" if settings.log_level == "debug" else "critical", settings.log_format)
    findings = do_apart(app, partial(check, app, settings), settings.load_time, _MORE_TIME)
    if as_json:
        text = json.dumps(findings, indent=2)
    else:
        text = "\n".join(f"{name:<12}{told}" for name, told in rows(findings))
    make_console().out(text, highlight=False)


# --- serving


def _serve(app: str, sources: Sources[RunSettings], settings: RunSettings) -> None:
    """Open the socket, become the user, then serve the program in processes that can be exchanged.

    Raises:
        ConfigError: A setting is wrong, or the program cannot serve.
        OSError: The socket cannot be opened.
    """
    bound = _listen(settings)
    with late_signals_ignored(partial(_is_closed, bound)):
        try:
            with pid_file(settings.pid_file):
                if settings.user is not None:
                    become(settings.user)
                _serve_on(bound, app, sources, settings)
        finally:
            bound.close()


def _listen(settings: RunSettings) -> ListeningSocket:
    """Open the socket; errors name the option."""
    try:
        return listen_on(str(settings.listen), settings.mode, settings.group, settings.backlog)
    except ConfigError as error:
        raise ConfigError(f"--listen: {error}", source=error.source) from error
    except PermissionError as error:
        if error.errno != errno.EPERM or settings.group is None:
            raise
        text = (
            f"--group {settings.group}: only root, or a member of that group, can give it a socket"
        )
        raise PermissionError(error.errno, text, error.filename) from error


def _is_closed(bound: ListeningSocket) -> bool:
    return bound.socket.fileno() < 0


def _serve_on(
    bound: ListeningSocket, app: str, sources: Sources[RunSettings], settings: RunSettings
) -> None:
    try:
        serve_generations(
            partial(_load, app, sources, settings),
            bound,
            partial(_prove, bound),
            max_children=settings.max_children or 0,
            max_requests=settings.max_requests or 0,
            load_time=settings.load_time,
            drain_time=settings.drain_time,
            linger=settings.linger,
            max_memory=settings.max_memory,
        )
    except ConfigError as error:
        raise _of_program(app, error) from error


def _of_program(app: str, error: ConfigError) -> ConfigError:
    """Return an error with the name of the program in it, and the option that may help where time was too short."""
    text = str(error)
    named = text if parse_app(app).place in text else f"{app}: {text}"
    return ConfigError(
        f"{named}; {_MORE_TIME}" if _NOT_READY.search(text) else named,
        source=error.source,
        line=error.line,
    )


def _load(app: str, sources: Sources[RunSettings], begun: RunSettings) -> Milter:
    """Load program and settings, in a process that will serve with them."""
    settings = _read_again(sources, begun)
    milter = load_app(app, partial(refuse_setconn, app))
    apply(settings, milter)
    return milter


def _read_again(sources: Sources[RunSettings], begun: RunSettings) -> RunSettings:
    """Return the settings as they are now, but for those that a service has begun with for good."""
    try:
        now = sources.read()
    except PermissionError:
        logger.warning(
            "%s may not be read by the user that serves: changes to it take a restart", sources.file
        )
        return begun
    kept = {}
    for setting in differences(begun, now):
        if setting.option.restart:
            kept[setting.name] = getattr(begun, setting.name)
            logger.warning("%s has changed: that takes a restart", setting.option.key)
    return replace(now, **kept)


def _prove(bound: ListeningSocket, milter: Milter) -> None:
    try_out(milter)
    logger.info("%s: listening on %s", milter.name, bound.address)


def _serve_where_it_listens(app: str, settings: RunSettings) -> None:
    """Serve a program that opens its socket itself, in the process that has loaded it.

    Raises:
        ConfigError: It opens none, a setting needs --listen, or the program cannot serve.
        OSError: The socket cannot be opened.
    """
    _check_without_listen(settings)
    milter = load_app(app)
    if milter.address is None:
        raise nothing_to_listen_on(app)
    apply(settings, milter)
    bound = milter._socket  # noqa: SLF001  # nobody else needs to see it, and main forgets it at its end
    assert bound is not None
    with late_signals_ignored(partial(_is_closed, bound)), pid_file(settings.pid_file):
        milter.main(settings.max_children or 0, settings.max_requests or 0)


def _check_without_listen(settings: RunSettings) -> None:
    for setting in option_table(SETTINGS):
        if setting.name in _NEED_LISTEN and getattr(settings, setting.name) != setting.default:
            raise ConfigError(
                f"{setting.option.flag} needs --listen: a program that opens its socket itself is loaded before anything else is done"
            )
