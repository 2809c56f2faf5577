"""Log entries as people and collectors get them, made by the standard library's own loggers."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import Any, NamedTuple

import pytest

from pmilter import Milter
from pmilter.logs import (
    ConversationFilter,
    JsonFormatter,
    TextFormatter,
    ids_text,
)
from pmilter.spot import separate_context, spot
from pmilter.testing import Mta


class Talk(NamedTuple):
    """What a conversation shows to the log."""

    connection_id: str
    queue_id: str | None


class Log:
    """A logger with one of the formatters, and what it has written."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(formatter)
        self.handler.addFilter(ConversationFilter())
        self.logger = logging.Logger("mail.check")  # noqa: LOG001  # one that is nobody else's
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().removesuffix("\n").split("\n")

    @property
    def line(self) -> str:
        (line,) = self.lines
        return line

    @property
    def entry(self) -> dict[str, Any]:
        entry = json.loads(self.line)
        assert isinstance(entry, dict)
        return entry


@pytest.fixture
def text() -> Log:
    return Log(TextFormatter())


@pytest.fixture
def as_json() -> Log:
    return Log(JsonFormatter())


def within(talk: Talk, log: Any, *arguments: Any, **options: Any) -> None:
    """Log something as a callback of a conversation does."""

    def callback() -> None:
        spot().conversation = talk
        log(*arguments, **options)

    separate_context().run(callback)


def raised(message: str) -> None:
    raise ValueError(message)


def test_text_has_time_level_and_logger_and_no_ids_outside_of_a_conversation(text: Log) -> None:
    text.logger.warning("disk %d%% full", 90)

    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING mail\.check: disk 90% full", text.line
    )


@pytest.mark.parametrize(("queue_id", "ids"), [("4X1", "[71.3 4X1]"), (None, "[71.3]")])
def test_any_loggers_line_within_a_conversation_has_its_ids(
    text: Log, queue_id: str | None, ids: str
) -> None:
    within(Talk("71.3", queue_id), text.logger.info, "seen")

    assert text.line.endswith(f"INFO mail.check: {ids} seen")


def test_ids_of_a_record_are_not_replaced(text: Log) -> None:
    given = {"connection_id": "1.1", "queue_id": "OWN"}
    within(Talk("71.3", "4X1"), text.logger.info, "seen", extra=given)

    assert text.line.endswith(": [1.1 OWN] seen")


@pytest.mark.parametrize("queue_id", ["4X1", "50%d\n"])
def test_ids_that_the_connections_log_has_put_before_the_message_are_not_doubled(
    queue_id: str, caplog: pytest.LogCaptureFixture, text: Log, as_json: Log
) -> None:
    milter = Milter()

    @milter.on("eom")
    def eom(ctx: Any) -> None:
        ctx.log.warning("%s is large", "it")

    with Mta(milter, macros={"i": queue_id}) as mta:
        mta.send(b"\n")
    (record,) = [record for record in caplog.records if "large" in record.msg]
    text.handler.handle(record)
    as_json.handler.handle(record)

    connection_id = vars(record)["connection_id"]
    assert text.line.endswith(f": {ids_text(connection_id, queue_id)} it is large")
    assert as_json.entry["message"] == "it is large"
    assert (as_json.entry["connection"], as_json.entry["queue_id"]) == (connection_id, queue_id)


@pytest.mark.parametrize(
    "evil", ["\n", "\r\n", "\r", "\x1b[2J", "\x00", "\x85", "\u2028", "\udc85", "\x0b"]
)
def test_text_from_a_mail_can_neither_begin_a_line_nor_steer_a_terminal(
    text: Log, evil: str
) -> None:
    forged = f"x{evil}2026-01-01 00:00:00,000 INFO mail.check: all is well"
    within(Talk("71.3", forged), text.logger.info, "subject %s", forged)

    assert text.line.isprintable()


def test_traceback_follows_indented_with_the_ids_on_every_line(text: Log) -> None:
    def fail() -> None:
        try:
            raised("bad\r\n2026-01-01 00:00:00,000 INFO mail.check: forged\x1b[1m")
        except ValueError:
            text.logger.exception("failed", stack_info=True)

    within(Talk("71.3", "4X1"), fail)

    head, *rest = text.lines
    assert head.endswith("ERROR mail.check: [71.3 4X1] failed")
    assert rest[0] == "    [71.3 4X1] Traceback (most recent call last):"
    assert all(line.startswith("    [71.3 4X1] ") for line in rest)
    assert "    [71.3 4X1] ValueError: bad\\r" in rest
    assert any("Stack (most recent call last)" in line for line in rest)
    assert all(line.isprintable() for line in rest)


def test_stack_that_the_message_ends_with_is_shown_like_a_traceback(
    text: Log, as_json: Log
) -> None:
    stack = '  File "x.py", line 1, in eom\n    wait()\n'
    for log in (text, as_json):
        log.logger.error("late; it is at\n%s", stack, extra={"stack": stack})

    head, first, second = text.lines
    assert head.endswith("late; it is at")
    assert first == '      File "x.py", line 1, in eom'
    assert second == "        wait()"
    assert as_json.entry["message"] == "late; it is at"
    assert as_json.entry["exception"] == stack
    assert "stack" not in as_json.entry


def test_json_has_utc_time_level_logger_and_message(as_json: Log) -> None:
    record = logging.LogRecord("mail", logging.ERROR, "x.py", 1, "%d of %s", (3, "€"), None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    as_json.handler.handle(record)

    assert as_json.entry == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "ERROR",
        "logger": "mail",
        "message": "3 of €",
        "connection": None,
        "queue_id": None,
    }
    assert next(iter(as_json.entry)) == "time"


def test_json_has_ids_and_extras(as_json: Log) -> None:
    extra = {"score": 5.5, "rules": ["A", "B"], "level": "forged"}
    within(Talk("71.3", "4X1"), as_json.logger.info, "scored", extra=extra)

    entry = as_json.entry
    assert (entry["connection"], entry["queue_id"]) == ("71.3", "4X1")
    assert (entry["score"], entry["rules"]) == (5.5, ["A", "B"])
    assert entry["level"] == "INFO"
    assert "connection_id" not in entry


def test_json_has_a_traceback_as_one_string(as_json: Log) -> None:
    try:
        raised("no")
    except ValueError:
        as_json.logger.exception("failed")

    exception = as_json.entry["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("\nValueError: no")


def _endless() -> list[Any]:
    own: list[Any] = []
    own.append(own)
    return own


@pytest.mark.parametrize(
    "value", [float("nan"), object(), {(1, 2): 3}, _endless(), b"\xff", {"set"}]
)
def test_json_is_json_whatever_the_extras_are(as_json: Log, value: object) -> None:
    as_json.logger.info("x\ny", extra={"value": value})

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    assert json.loads(as_json.line, parse_constant=refuse)["message"] == "x\ny"


def test_json_shows_bytes_that_are_no_utf8_as_text(as_json: Log) -> None:
    as_json.logger.info("caf\udce9 😀")

    as_json.line.encode()
    assert as_json.entry["message"] == "caf\\udce9 😀"
