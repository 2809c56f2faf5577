r"""The log of a service: which conversation a line belongs to, and lines as text for people or as JSON for collectors.

A handler gets `ConversationFilter` and one of the two formatters. The ids are then on every line that is logged while a callback
runs, by whatever logger: also by those of the filter's own, and of libraries that know nothing of mail.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Final

from pmilter.spot import spot
from pmilter.text import printable

_CONTINUED: Final = "    "
"""What the further lines of an entry begin with: no entry does, so that no text can pass itself off as one."""

_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "connection_id",
}
"""What every record has; all else was given as `extra`."""


def ids_text(connection_id: str, queue_id: str | None) -> str:
    """Return the ids as they stand before a line of text: ``[71.3 4X1]``; safe within a format string, as a macro may hold anything."""
    ids = f"{connection_id} {printable(queue_id)}" if queue_id else connection_id
    return f"[{ids}]".replace("%", "\\x25")


class ConversationFilter(logging.Filter):
    """Puts the ids of the running conversation on each record as `connection_id` and `queue_id`. Rejects none.

    For handlers, since filters of a logger do not see what is logged to the loggers below it. A record that has ids keeps them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Put the ids on a record, and let it pass."""
        if not hasattr(record, "connection_id"):
            conversation = spot().conversation
            known = conversation is not None
            record.connection_id = conversation.connection_id if known else None
            record.queue_id = conversation.queue_id if known else None
        return True


class TextFormatter(logging.Formatter):
    r"""One line an entry: time, level, logger, ids, message; the lines of a traceback follow, indented and with the ids.

    Nothing that came with a mail can begin a line or move the cursor: control characters are shown as escapes (``\n``).
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: ")

    def format(self, record: logging.LogRecord) -> str:
        """Return an entry, without a line feed at its end."""
        record.asctime = self.formatTime(record)
        ids = _tag(record)
        head = f"{self.formatMessage(record)}{ids}{_message(record)}"
        further = f"{_CONTINUED}{ids}"
        lines = [
            head,
            *(f"{further}{line}" for line in _appendix(self, record).split("\n") if line),
        ]
        return "\n".join(map(printable, lines))


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in UTF-8.

    Keys: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, ``connection``, ``queue_id`` (both null outside of a
    conversation), ``exception`` (a traceback as one string, where there is one), and whatever was given as `extra`.
    """

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return an entry, without a line feed at its end."""
        document = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "connection": getattr(record, "connection_id", None),
            "queue_id": getattr(record, "queue_id", None),
        }
        if appendix := _appendix(self, record):
            document["exception"] = appendix
        extras = vars(record).keys() - _STANDARD - document.keys() - {"stack"}
        return _dump(document | {key: getattr(record, key) for key in sorted(extras)})


def _tag(record: logging.LogRecord) -> str:
    """Return the ids of a record with a blank after them, or nothing where it has none."""
    connection_id = getattr(record, "connection_id", None)
    if connection_id is None:
        return ""
    return f"{ids_text(connection_id, getattr(record, 'queue_id', None))} "


def _message(record: logging.LogRecord) -> str:
    """Return the message without what is shown apart: the ids, which the log of a `Context` puts before it, and a stack after it."""
    message = record.getMessage().removeprefix(_tag(record))
    stack = _stack(record)
    return message.removesuffix(stack).rstrip("\n") if stack else message


def _stack(record: logging.LogRecord) -> str:
    """Return where another thread is, which was given as `extra`, or nothing."""
    return str(getattr(record, "stack", ""))


def _appendix(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """Return traceback and stack of a record, or nothing."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)  # kept for other handlers
    stack = formatter.formatStack(record.stack_info) if record.stack_info else ""
    return "\n".join(filter(None, (record.exc_text, stack, _stack(record))))


def _dump(document: dict[str, Any]) -> str:
    """Return one line of JSON, whatever the values are."""
    import json  # few programs log so, and all would pay for it

    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, default=str)
    except (TypeError, ValueError, RecursionError):
        shown = {
            key: value if isinstance(value, str) else repr(value) for key, value in document.items()
        }
        text = json.dumps(shown, ensure_ascii=False)
    # Bytes of a mail that are no UTF-8: many readers refuse them as JSON's own escapes.
    return _LONE_SURROGATE.sub(lambda found: f"\\\\u{ord(found[0]):04x}", text)
