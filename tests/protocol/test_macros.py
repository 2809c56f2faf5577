"""Macros: what a packet may hold, which slot it fills, and what clears a slot."""

from __future__ import annotations

import pytest

from pmilter.errors import LimitExceeded, RemoteProtocolError
from pmilter.protocol.constants import Command
from pmilter.protocol.macros import ORDER, MacroStore, bare_name


def store(*payloads: bytes) -> MacroStore:
    macros = MacroStore()
    for payload in payloads:
        macros.put(payload)
    return macros


@pytest.mark.parametrize("name", ["i", "{i}"])
def test_braces_of_the_question_do_not_matter(name: str) -> None:
    assert store(b"Mi\x004X1\0").get(name) == "4X1"


@pytest.mark.parametrize("payload", [b"M{mail_addr}\0a@b\0", b"Mmail_addr\0a@b\0"])
@pytest.mark.parametrize("name", ["mail_addr", "{mail_addr}"])
def test_braces_of_the_packet_do_not_matter(payload: bytes, name: str) -> None:
    assert store(payload).get(name) == "a@b"


@pytest.mark.parametrize(
    ("name", "bare"),
    [("i", "i"), ("{i}", "i"), ("{mail_addr}", "mail_addr"), ("{", "{"), ("{x", "{x"), ("x}", "x}"), ("", ""), ("{}", "")],
)  # fmt: skip
def test_bare_names(name: str, bare: str) -> None:
    assert bare_name(name) == bare


def test_macro_that_nobody_sent_is_none() -> None:
    assert store(b"Cj\0mx\0").get("i") is None
    assert MacroStore().get("i") is None


def test_empty_value_is_a_value() -> None:
    assert store(b"H{cert_subject}\0\0").get("cert_subject") == ""


def test_values_are_read_as_utf_8_and_other_bytes_survive() -> None:
    macros = store(b"Mi\0\xc3\xa9\xff\0")
    assert macros.get("i") == "\u00e9\udcff"


def test_names_with_any_byte_survive() -> None:
    assert store(b"M{\xff}\0v\0").as_dict() == {"\udcff": "v"}


def test_packet_replaces_its_whole_slot() -> None:
    macros = store(b"Ri\x001\0{rcpt_addr}\0a\0", b"R{rcpt_addr}\0b\0")
    assert macros.as_dict() == {"rcpt_addr": "b"}


def test_packet_replaces_a_slot_that_was_read_before() -> None:
    macros = store(b"R{rcpt_addr}\0a\0")
    assert macros.get("rcpt_addr") == "a"
    macros.put(b"R{rcpt_addr}\0b\0")
    assert macros.get("rcpt_addr") == "b"


def test_packet_without_macros_empties_its_slot() -> None:
    assert store(b"H{cipher}\0x\0", b"H").get("cipher") is None


def test_latest_stage_wins() -> None:
    macros = store(b"Ei\0eom\0", b"Ci\0connect\0", b"Ni\0eoh\0")
    assert macros.get("i") == "eom"
    assert macros.as_dict() == {"i": "eom"}


def test_stages_have_slots_in_the_order_of_the_dialogue() -> None:
    letters = sorted(map(chr, ORDER), key=lambda letter: ORDER[ord(letter)])
    assert "".join(letters) == "CHMRTLNBEU"


def test_all_macros_in_sight_are_merged() -> None:
    macros = store(b"Cj\0mx\0_\0c\0", b"Mi\x001\0j\0other\0")
    assert macros.as_dict() == {"j": "other", "_": "c", "i": "1"}


def test_clearing_after_a_stage_keeps_that_stage_and_earlier_ones() -> None:
    macros = store(b"Ca\x001\0", b"Hb\x002\0", b"Mc\x003\0", b"Rd\x004\0", b"Ee\x005\0")
    macros.clear_after(ORDER[Command.MAIL])
    assert macros.as_dict() == {"a": "1", "b": "2", "c": "3"}


def test_clearing_the_message_keeps_the_connection() -> None:
    macros = store(b"Ca\x001\0", b"Hb\x002\0", b"Mc\x003\0", b"Ud\x004\0")
    assert macros.get("c") == "3"
    macros.clear_message()
    assert macros.as_dict() == {"a": "1", "b": "2"}


def test_clearing_everything_leaves_nothing() -> None:
    macros = store(b"Ca\x001\0", b"Hb\x002\0", b"Mc\x003\0")
    macros.clear()
    assert macros.as_dict() == {}


def test_slots_can_be_filled_again_after_clearing() -> None:
    macros = store(b"Mc\x003\0", b"Rd\x004\0")
    macros.clear_message()
    macros.put(b"Rd\x005\0")
    assert macros.as_dict() == {"d": "5"}


def test_packets_for_stages_that_nobody_knows_are_ignored() -> None:
    known = set(b"CHMRTLNBEU")
    macros = MacroStore()
    for stage in set(range(256)) - known:
        macros.put(bytes((stage,)) + b"i\0x\0")
        macros.put(bytes((stage,)))
    assert macros.as_dict() == {}


@pytest.mark.parametrize(
    "payload",
    [b"", b"Ci\0", b"Ci", b"Ci\0x", b"Ci\0x\0j", b"Ci\0x\0j\0", b"C\0", b"Xi\0", b"\0i\0"],
)
def test_malformed_packet_is_refused_and_changes_nothing(payload: bytes) -> None:
    macros = store(b"Ci\0old\0")
    with pytest.raises(RemoteProtocolError):
        macros.put(payload)
    assert macros.as_dict() == {"i": "old"}


def test_as_many_macros_as_the_limit_are_taken() -> None:
    macros = MacroStore(limit=2)
    macros.put(b"Ca\x001\0b\x002\0")
    assert macros.as_dict() == {"a": "1", "b": "2"}


def test_more_macros_than_the_limit_are_refused() -> None:
    macros = MacroStore(limit=2)
    with pytest.raises(LimitExceeded) as caught:
        macros.put(b"Ca\x001\0b\x002\0c\x003\0")
    assert (caught.value.limit, caught.value.size) == (2, 3)
    assert macros.as_dict() == {}


def test_limit_is_256_by_default() -> None:
    macros = MacroStore()
    macros.put(b"C" + b"a\0b\0" * 256)
    with pytest.raises(LimitExceeded):
        macros.put(b"C" + b"a\0b\0" * 257)
