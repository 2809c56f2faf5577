from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pmilter import ConfigError
from pmilter.cli.playing import play_in_memory, play_through_postfix
from pmilter.cli.scenes import CLEAN, REFUSED_CONTENT, REFUSED_RECIPIENT, SCENES, TAGGED
from pmilter.protocol.trace import format_message

if TYPE_CHECKING:
    from pmilter.cli.account import Account


def lines(account: Account, stage: str) -> list[str]:
    """The commands and answers of one stage."""
    return [
        format_message(message)
        for exchange in account.exchanges
        if exchange.stage == stage
        for message in (exchange.command, *exchange.answers)
    ]


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_clean_message_is_delivered_as_it_was_sent(dialect: str) -> None:
    account = play_in_memory(CLEAN, dialect)

    assert account.outcome.message == CLEAN.message.replace(b"\n", b"\r\n")
    assert account.outcome.recipients == ("bob@example.org",)
    assert lines(account, "eom") == ["BODYEOB", "ACCEPT"]


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_tagged_message_shows_its_changes(dialect: str) -> None:
    account = play_in_memory(TAGGED, dialect)

    assert lines(account, "eom") == [
        "BODYEOB",
        "CHGHEADER 1 Subject: [external] Your offer",
        "ADDHEADER X-Received-From: mail.example.com",
        "ACCEPT",
    ]
    assert [line for line in account.diff() if line[0] != " "] == [
        "-Subject: Your offer",
        "+Subject: [external] Your offer",
        "+X-Received-From: mail.example.com",
    ]


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_refused_recipient_does_not_keep_the_other_from_the_message(dialect: str) -> None:
    account = play_in_memory(REFUSED_RECIPIENT, dialect)

    assert list(account.outcome.rejected) == ["carol@example.org"]
    assert account.outcome.rejected["carol@example.org"].startswith("550 5.1.6 Carol has left")
    assert account.outcome.recipients == ("bob@example.org",)


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_refused_content_reaches_nobody(dialect: str) -> None:
    outcome = play_in_memory(REFUSED_CONTENT, dialect).outcome

    assert (outcome.verdict, outcome.stage, outcome.message) == ("reject", "eom", None)
    assert outcome.recipients == ()
    assert outcome.reply is not None
    assert outcome.reply.startswith("550-5.7.1 Programs")


def test_whole_session_is_recorded() -> None:
    stages = [exchange.stage for exchange in play_in_memory(CLEAN, "sendmail").exchanges]

    assert list(dict.fromkeys(stages)) == [
        "negotiate", "connect", "helo", "envfrom", "envrcpt", "header", "eoh", "body", "eom", "close",
    ]  # fmt: skip


def test_unknown_dialect_is_refused() -> None:
    with pytest.raises(ConfigError, match="exim"):
        play_in_memory(CLEAN, "exim")


def test_without_a_postfix_of_ones_own_the_remedy_is_told() -> None:
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match="pmilter demo without --postfix needs neither"):
            play_through_postfix(SCENES)
    finally:
        os.seteuid(uid)


@pytest.mark.mta
@pytest.mark.usefixtures("postfix")  # where it is not installed
def test_real_postfix_says_what_the_one_in_memory_says() -> None:
    for real in play_through_postfix(SCENES):
        played = play_in_memory(real.scene, "postfix")

        for stage in ("negotiate", "helo", "envfrom", "envrcpt", "header", "body", "eom", "abort"):
            assert lines(real, stage) == lines(played, stage)
        assert real.outcome.verdict == played.outcome.verdict
        assert real.outcome.rejected == played.outcome.rejected
        assert real.outcome.recipients == played.outcome.recipients
        received = [line for line in real.diff() if line not in played.diff()]
        if played.outcome.message is not None and played.diff():
            assert received[0].startswith("+Received: from mail.example.com")
