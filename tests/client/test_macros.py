"""Which macros go before which command; the wire has a stage byte, then names and values that end with NUL."""

from __future__ import annotations

from typing import Any

import pytest

from pmilter.client import POSTFIX, SENDMAIL, Dialect, GivenMacros, MacroSource
from pmilter.client.macros import address_macros, refused_macros
from pmilter.errors import ConfigError
from pmilter.protocol.constants import Command, MacroStage


def source(
    dialect: Dialect, given: dict[str, Any] | None = None, message: dict[str, Any] | None = None
) -> MacroSource:
    """Macros within a message from a@example.com to b@example.org."""
    made = MacroSource(dialect)
    made.give(GivenMacros(given))
    made.give_message(GivenMacros(message))
    made.begin_message("a@example.com")
    made.know(address_macros("rcpt", "b@example.org", dialect))
    return made


def sent(made: MacroSource, command: Command) -> dict[str, str] | None:
    packet = made.packet(command)
    return (
        None if packet is None else {name.decode(): value.decode() for name, value in packet.items}
    )


def test_packet_on_the_wire() -> None:
    made = source(SENDMAIL, {"i": "4X1", "rcpt_host": "", "rcpt_mailer": None})
    packet = made.packet(Command.RCPT)
    assert packet is not None
    assert (
        packet.encode() == b"\x00\x00\x00\x29DR{rcpt_host}\x00\x00{rcpt_addr}\x00b@example.org\x00"
    )


def test_sendmail_tells_the_queue_id_at_mail_and_never_again() -> None:
    made = source(SENDMAIL, message={"i": "4X1"})
    found = [command for command in SENDMAIL.macros if "i" in (sent(made, Command(command)) or {})]
    assert found == [Command.MAIL]


def test_postfix_tells_the_queue_id_once_it_is_known() -> None:
    made = source(POSTFIX, message={"i": "4X1"})
    assert "i" not in (sent(made, Command.MAIL) or {})
    assert "i" not in (sent(made, Command.RCPT) or {})
    made.queue_id_known = True
    for command in (
        Command.RCPT,
        Command.DATA,
        Command.HEADER,
        Command.EOH,
        Command.BODY,
        Command.BODYEOB,
    ):
        assert (sent(made, command) or {})["i"] == "4X1"


def test_queue_ids_are_made_up_and_differ() -> None:
    made = source(SENDMAIL)
    first = made.value("i")
    made.begin_message("c@example.com")
    assert first
    assert first != made.value("i")


def test_addresses_are_told_without_brackets() -> None:
    made = source(POSTFIX)
    assert sent(made, Command.MAIL) == {
        "{mail_addr}": "a@example.com",
        "{mail_host}": "example.com",
        "{mail_mailer}": "smtp",
    }
    assert sent(made, Command.RCPT) == {
        "{rcpt_addr}": "b@example.org",
        "{rcpt_host}": "example.org",
        "{rcpt_mailer}": "smtp",
    }


def test_recipient_is_forgotten_at_the_next_message() -> None:
    made = source(SENDMAIL)
    made.begin_message("")
    assert made.value("rcpt_addr") is None
    assert made.value("mail_addr") == ""


def test_given_values_win() -> None:
    made = source(
        SENDMAIL, {"j": "mta.example.test", "mail_mailer": "local"}, {"mail_mailer": "relay"}
    )
    assert made.value("j") == "mta.example.test"
    assert made.value("mail_mailer") == "relay"


def test_values_of_a_message_end_with_it() -> None:
    made = source(SENDMAIL, {"i": "session"}, {"i": "message"})
    assert made.value("i") == "message"
    made.give_message(GivenMacros())
    assert made.value("i") == "session"


@pytest.mark.parametrize("name", ["auth_authen", "{auth_authen}"])
def test_given_value_goes_where_the_mta_sends_that_name(name: str) -> None:
    made = source(SENDMAIL, message={name: "joe"})
    found = [
        command
        for command in SENDMAIL.macros
        if "{auth_authen}" in (sent(made, Command(command)) or {})
    ]
    assert found == [Command.MAIL]


def test_none_makes_a_macro_unknown() -> None:
    assert sent(source(SENDMAIL, message={"i": None, "mail_host": None}), Command.MAIL) == {
        "{mail_mailer}": "esmtp",
        "{mail_addr}": "a@example.com",
    }


def test_mapping_for_a_stage_is_all_that_is_sent_with_it() -> None:
    made = source(SENDMAIL, message={"envfrom": {"auth_type": "PLAIN", "x": "1"}, "helo": {}})
    assert sent(made, Command.MAIL) == {"{auth_type}": "PLAIN", "x": "1"}
    assert sent(made, Command.HELO) == {}


def test_mapping_for_a_stage_is_sent_even_where_the_mta_sends_none() -> None:
    assert sent(source(SENDMAIL, message={"header": {"i": "4X1"}}), Command.HEADER) == {"i": "4X1"}


@pytest.mark.parametrize("stage", ["quit", "abort", "negotiate", "nowhere"])
def test_mapping_for_what_is_no_stage_with_macros(stage: str) -> None:
    with pytest.raises(ConfigError, match=stage):
        GivenMacros({stage: {}})


def test_value_of_another_type() -> None:
    with pytest.raises(TypeError, match="'i'"):
        GivenMacros({"i": 1})  # type: ignore[dict-item]  # what is tested


def test_values_may_hold_any_bytes() -> None:
    packet = source(SENDMAIL, message={"envfrom": {"x": "\udce9\xe9"}}).packet(Command.MAIL)
    assert packet is not None
    assert packet.payload() == b"Mx\x00\xe9\xc3\xa9\x00"


# --- lists that the filter asks for


def test_own_list_replaces_that_of_its_stage_in_its_order() -> None:
    made = source(SENDMAIL, {"i": "4X1"})
    made.agree({MacroStage.ENVFROM: b"{mail_addr} i {nothing}"})
    packet = made.packet(Command.MAIL)
    assert packet is not None
    assert packet.items == ((b"{mail_addr}", b"a@example.com"), (b"i", b"4X1"))
    assert sent(made, Command.RCPT) is not None


def test_names_may_be_separated_by_commas() -> None:
    made = source(SENDMAIL, {"i": "4X1"})
    made.agree({MacroStage.DATA: b"i,{mail_addr}"})
    assert sent(made, Command.DATA) == {"i": "4X1", "{mail_addr}": "a@example.com"}


def test_empty_list_means_none_for_sendmail() -> None:
    made = source(SENDMAIL)
    made.agree({MacroStage.ENVFROM: b""})
    assert made.packet(Command.MAIL) is None


def test_empty_list_means_the_default_for_postfix() -> None:
    made = source(POSTFIX)
    made.agree({MacroStage.ENVFROM: b""})
    assert "{mail_addr}" in (sent(made, Command.MAIL) or {})


@pytest.mark.parametrize(
    ("symlists", "expected"),
    [
        ({}, {"{msg_id}": "<1@x>"}),
        ({MacroStage.EOM: b"i"}, {"{msg_id}": "<1@x>"}),
        ({MacroStage.EOH: b"i"}, None),
        ({MacroStage.EOM: b"i", MacroStage.EOH: b"j"}, {"i": "4X1"}),
    ],
)
def test_sendmail_heeds_a_list_for_eom_only_beside_one_for_eoh(
    symlists: dict[int, bytes], expected: dict[str, str] | None
) -> None:
    made = source(SENDMAIL, {"i": "4X1", "msg_id": "<1@x>"})
    made.agree(symlists)
    assert sent(made, Command.BODYEOB) == expected


def test_lists_for_eoh_and_eom_serve_header_and_body_on_postfix() -> None:
    made = source(POSTFIX)
    made.agree({MacroStage.EOH: b"j", MacroStage.EOM: b"v"})
    for command, name in (
        (Command.HEADER, "j"),
        (Command.EOH, "j"),
        (Command.BODY, "v"),
        (Command.BODYEOB, "v"),
    ):
        assert list(sent(made, command) or {}) == [name]


def test_postfix_sends_the_stage_alone_where_it_has_no_values() -> None:
    assert sent(source(POSTFIX), Command.UNKNOWN) == {}
    assert source(SENDMAIL).packet(Command.DATA) is None


@pytest.mark.parametrize(
    ("dialect", "text"), [(POSTFIX, "User unknown"), (SENDMAIL, "550 5.1.1 User unknown")]
)
def test_recipient_that_the_mta_refuses(dialect: Dialect, text: str) -> None:
    made = source(dialect, {"rcpt_mailer": "given"})
    made.refused = refused_macros("550 5.1.1 User unknown", dialect)
    assert sent(made, Command.RCPT) == {
        "{rcpt_addr}": text,
        "{rcpt_host}": "5.1.1",
        "{rcpt_mailer}": "error",
    }


def test_refusal_without_an_enhanced_code() -> None:
    assert refused_macros("550 No such user", SENDMAIL)["rcpt_host"] == ""
