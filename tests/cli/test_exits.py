from __future__ import annotations

import errno
import logging

import click
import pytest

from pmilter import (
    ConfigError,
    ConnectionClosed,
    LimitExceeded,
    LocalProtocolError,
    MilterTimeout,
    NegotiationError,
    RemoteProtocolError,
)
from pmilter.cli.exits import Exit, describe, exit_status, report


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (click.UsageError("no"), 2),
        (ConfigError("no"), 2),
        (LocalProtocolError("no"), 2),
        (OSError(errno.EADDRINUSE, "in use", "inet:1"), 3),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 3),
        (FileNotFoundError(errno.ENOENT, "no directory", "unix:/x/y"), 3),
        (RemoteProtocolError("no"), 4),
        (NegotiationError("no"), 4),
        (MilterTimeout("no"), 5),
        (TimeoutError("no"), 5),
        (ConnectionClosed("no"), 6),
        (ConnectionResetError("no"), 6),
        (LimitExceeded("no"), 7),
        (RuntimeError("no"), 70),
        (ZeroDivisionError(), 70),
        (click.Abort(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_has_its_status(error: Exception, status: int) -> None:
    assert exit_status(error) == status


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("address 'x': no"), "address 'x': no"),
        (OSError(errno.EACCES, "not allowed", "unix:/x"), "unix:/x: not allowed"),
        (OSError(errno.ECONNREFUSED, "refused"), "refused"),
        (click.UsageError("No such option."), "No such option."),
    ],
    ids=["ours", "with a name", "without one", "click's"],
)
def test_error_is_one_sentence(error: Exception, text: str) -> None:
    assert describe(error) == text


def test_usage_error_points_to_the_help() -> None:
    context = click.Context(click.Command("run"), info_name="pmilter run")

    text = describe(click.UsageError("No such option --x.", context))

    assert text == "No such option --x; try 'pmilter run --help'"


def test_report_is_one_printable_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    status = report(ConfigError("line one\nline two \x1b[31m"))

    assert status is Exit.USAGE
    assert capsys.readouterr() == ("", "pmilter: line one\\nline two \\x1b[31m\n")


def test_notes_of_an_error_follow_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = MilterTimeout("too late")
    error.add_note("last lines of the log:\nso it was")

    report(error)

    assert capsys.readouterr().err == "pmilter: too late\nlast lines of the log:\nso it was\n"


def test_internal_error_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError("broken")

    assert report(error) == 70

    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.CRITICAL, "pmilter")
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "broken" not in capsys.readouterr().out


def test_interrupt_is_told_in_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(click.Abort()) == 130
    assert capsys.readouterr().err == "pmilter: interrupted\n"
