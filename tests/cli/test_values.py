from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Status
from pmilter.cli.values import (
    NEVER,
    Account,
    Deadlines,
    Fallback,
    parse_account,
    parse_count,
    parse_deadlines,
    parse_fallback,
    parse_group,
    parse_limit,
    parse_memory,
    parse_mode,
    parse_peer,
    parse_seconds,
    parse_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_count, "0", 0),
        (parse_count, "12", 12),
        (parse_limit, "1", 1),
        (parse_seconds, "2.5", 2.5),
        (parse_seconds, "7", 7.0),
        (parse_size, "4096", 4096),
        (parse_size, "8k", 8192),
        (parse_size, "512M", 536870912),
        (parse_size, "2GiB", 2147483648),
        (parse_memory, "16M", 16777216),
        (parse_mode, "660", "660"),
        (parse_mode, "0o600", "0o600"),
        (parse_group, "0", "0"),
        (parse_account, "nobody", Account("nobody", None)),
        (parse_account, "nobody:daemon", Account("nobody", "daemon")),
        (parse_account, "0:0", Account("0", "0")),
        (parse_deadlines, "postfix", Deadlines(25.0, 270.0)),
        (parse_deadlines, "Sendmail", Deadlines(8.0, 280.0)),
        (parse_deadlines, "5", Deadlines(5.0, None)),
        (parse_deadlines, "5,60.5", Deadlines(5.0, 60.5)),
        (parse_fallback, "tempfail", Fallback(None, Status.TEMPFAIL)),
        (parse_fallback, "eom=ACCEPT", Fallback("eom", Status.ACCEPT)),
        (parse_fallback, "shutdown", Fallback(None, "shutdown")),
        (parse_peer, "192.0.2.0/24", "192.0.2.0/24"),
        (parse_peer, "user:nobody", "user:nobody"),
    ],
)
def test_text_becomes_a_value(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "told"),
    [
        (parse_count, "-1", "'-1' must be a whole number"),
        (parse_count, "1.5", "'1.5' must be a whole number"),
        (parse_count, "9" * 30, "must be a whole number"),
        (parse_limit, "0", "'0' must be a whole number above 0"),
        (parse_seconds, "0", "'0' must be a number of seconds above 0"),
        (parse_seconds, "nan", "must be a number of seconds"),
        (parse_seconds, "inf", "must be a number of seconds"),
        (parse_seconds, "soon", "'soon' must be a number of seconds"),
        (parse_size, "0M", "such as 512M"),
        (parse_size, "1T", "'1T' must be a number of bytes"),
        (parse_memory, "1K", "'1K' must be 16M or more"),
        (parse_memory, "16777215", "must be 16M or more"),
        (parse_memory, "much", "such as 512M"),
        (parse_mode, "rw", "mode 'rw' must be octal"),
        (parse_mode, "888", "must be octal"),
        (parse_group, "no-such-group", "no group 'no-such-group'"),
        (parse_account, "no-such-user", "no user 'no-such-user'"),
        (parse_account, "nobody:no-such-group", "no group 'no-such-group'"),
        (parse_account, "nobody:", "must be USER or USER:GROUP"),
        (parse_account, ":daemon", "must be USER or USER:GROUP"),
        (parse_account, "9" * 30, "no user"),
        (parse_deadlines, "exim", "must be postfix, sendmail, or seconds"),
        (parse_deadlines, "5,", "must be postfix, sendmail, or seconds"),
        (parse_fallback, "discard", "'discard' is not one of tempfail, reject"),
        (parse_fallback, "eon=accept", "unknown stage 'eon'"),
        (parse_fallback, "=accept", "unknown stage ''"),
        (parse_peer, "example.org", "example.org"),
        (parse_peer, "user:no-such-user", "no-such-user"),
    ],
)
def test_text_that_can_be_no_value_is_shown_with_what_is_right(
    parse: Callable[[str], Any], text: str, told: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse(text)


def test_deadlines_are_limits() -> None:
    assert Deadlines(5.0, None).limits() == {"command_time": 5.0}
    assert Deadlines(5.0, 60.0).limits() == {"command_time": 5.0, "eom_time": 60.0}


def test_never_is_written_as_people_give_it() -> None:
    assert str(NEVER) == "none"
