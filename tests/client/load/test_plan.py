from __future__ import annotations

from typing import Any

import pytest

from pmilter.address import parse_address
from pmilter.client.dialect import POSTFIX, SENDMAIL
from pmilter.client.load.plan import Plan, sample_message
from pmilter.errors import ConfigError

ADDRESS = parse_address("unix:/run/filter")


def plan(**changes: Any) -> Plan:
    return Plan(**({"address": ADDRESS, "message": b"Subject: x\r\n\r\nhello\r\n"} | changes))


@pytest.mark.parametrize("headers", [0, 1, 17, 20, 100])
@pytest.mark.parametrize("body", [0, 2, 46, 47, 48, 8192, 100_000])
@pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL], ids=["postfix", "sendmail"])
def test_sample_is_taken_by_both_mtas_as_it_is_meant(headers: int, body: int, dialect: Any) -> None:
    content = plan(message=sample_message(headers, body), dialect=dialect).content
    assert len(content.fields) == headers
    assert len(content.body) == body
    assert content.refusal is None


def test_body_of_one_byte_is_the_shortest_line() -> None:
    assert sample_message(0, 1) == b"\r\n\r\n"


def test_message_that_the_mta_itself_refuses_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"sendmail refuses this message .* Headers too large"):
        plan(dialect=SENDMAIL, message=b"".join(b"X: %s\r\n" % (b"y" * 900) for _ in range(40)))


def test_version_that_is_not_offered_is_an_error() -> None:
    with pytest.raises(ConfigError, match="from 2 to 6"):
        plan(version=7)


def test_envelope_tells_of_the_message() -> None:
    envelope = plan(recipients=2).envelope
    assert envelope.sender == b"<alice@example.com>"
    assert envelope.sender_args == (b"SIZE=21",)
    assert [one.address for one in envelope.recipients] == [
        b"<user1@example.org>",
        b"<user2@example.org>",
    ]


def test_macros_can_be_left_out() -> None:
    assert plan(macros=False).spoken.macros == {}
    assert plan().spoken is POSTFIX


@pytest.mark.parametrize("count", [1, 3, 7])
def test_shares_are_the_whole_together(count: int) -> None:
    shares = list(plan(connections=16, total=100, rate=50.0).shares(count))
    assert sum(one.connections for one in shares) == 16
    assert sum(one.total or 0 for one in shares) == 100
    assert sum(one.rate or 0 for one in shares) == pytest.approx(50)
    assert all(one.connections >= 1 for one in shares)


def test_shares_at_a_rate_take_turns() -> None:
    assert [one.phase for one in plan(rate=50.0).shares(2)] == [0, 0.02]
    assert [one.phase for one in plan().shares(2)] == [0, 0]
