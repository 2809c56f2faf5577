from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from pmilter.client import POSTFIX, SENDMAIL, Dialect, find_dialect
from pmilter.errors import ConfigError
from pmilter.protocol.constants import Command

OFFERS = [
    (POSTFIX, 2, "000000020000" "01ff" "0000007f"),
    (POSTFIX, 3, "000000030000" "01ff" "0000017f"),
    (POSTFIX, 4, "000000040000" "01ff" "0000037f"),
    (POSTFIX, 6, "000000060000" "01ff" "001fffff"),
    (SENDMAIL, 2, "000000020000" "003f" "0000007f"),
    (SENDMAIL, 6, "000000060000" "01ff" "001fffff"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "version", "words"), OFFERS)
def test_offer_of_a_version(dialect: Dialect, version: int, words: str) -> None:
    assert dialect.offer(version).payload().hex() == words


@pytest.mark.parametrize("version", [0, 1, 7, "6"])
def test_offer_of_a_version_that_is_not_spoken(version: int) -> None:
    with pytest.raises(ConfigError, match="from 2 to 6"):
        POSTFIX.offer(version)


def test_dialects_are_found_by_name() -> None:
    assert find_dialect("postfix") is POSTFIX
    assert find_dialect("sendmail") is SENDMAIL
    assert find_dialect(SENDMAIL) is SENDMAIL


def test_unknown_dialect_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'postfix', 'sendmail'"):
        find_dialect("exim")


def test_dialect_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        POSTFIX.name = "other"  # type: ignore[misc]  # what is tested


def test_only_postfix_sends_macros_with_every_command() -> None:
    every = {Command.HEADER, Command.BODY, Command.UNKNOWN}
    assert every <= POSTFIX.macros.keys()
    assert not every & SENDMAIL.macros.keys()
