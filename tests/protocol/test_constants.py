"""The values on the wire, against lists written by hand."""

from __future__ import annotations

import pytest

from pmilter.protocol.constants import (
    ACTIONS,
    CHUNK_SIZE,
    MAX_DATA_SIZE,
    MAX_REPLY_LINE,
    MAX_REPLY_LINES,
    NO_REPLY_STEPS,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    STEPS,
    Action,
    Answer,
    Command,
    Family,
    MacroStage,
    Status,
    Step,
)

COMMAND_LETTERS = {
    "A": "ABORT", "B": "BODY", "C": "CONNECT", "D": "MACRO", "E": "BODYEOB", "H": "HELO", "K": "QUIT_NC", "L": "HEADER",
    "M": "MAIL", "N": "EOH", "O": "OPTNEG", "Q": "QUIT", "R": "RCPT", "T": "DATA", "U": "UNKNOWN",
}  # fmt: skip

ANSWER_LETTERS = {
    "+": "ADDRCPT", "-": "DELRCPT", "2": "ADDRCPT_PAR", "4": "SHUTDOWN", "O": "OPTNEG", "a": "ACCEPT", "b": "REPLBODY",
    "c": "CONTINUE", "d": "DISCARD", "e": "CHGFROM", "f": "CONN_FAIL", "h": "ADDHEADER", "i": "INSHEADER",
    "l": "SETSYMLIST", "m": "CHGHEADER", "p": "PROGRESS", "q": "QUARANTINE", "r": "REJECT", "s": "SKIP",
    "t": "TEMPFAIL", "y": "REPLYCODE",
}  # fmt: skip

ACTION_BITS = [
    "ADDHDRS", "CHGBODY", "ADDRCPT", "DELRCPT", "CHGHDRS", "QUARANTINE", "CHGFROM", "ADDRCPT_PAR", "SETSYMLIST",
]  # fmt: skip

STEP_BITS = [
    "NOCONNECT", "NOHELO", "NOMAIL", "NORCPT", "NOBODY", "NOHDRS", "NOEOH", "NR_HDR", "NOUNKNOWN", "NODATA", "SKIP",
    "RCPT_REJ", "NR_CONN", "NR_HELO", "NR_MAIL", "NR_RCPT", "NR_DATA", "NR_UNKN", "NR_EOH", "NR_BODY", "HDR_LEADSPC",
]  # fmt: skip


def test_command_codes_are_the_letters_of_the_wire() -> None:
    assert {chr(command): command.name for command in Command} == COMMAND_LETTERS


def test_answer_codes_are_the_letters_of_the_wire() -> None:
    assert {chr(answer): answer.name for answer in Answer} == ANSWER_LETTERS


def test_actions_are_one_bit_each_in_their_order() -> None:
    assert {action.name: action.value for action in Action} == {
        name: 1 << place for place, name in enumerate(ACTION_BITS)
    }


def test_steps_are_one_bit_each_in_their_order_and_two_sizes_far_above() -> None:
    expected = {name: 1 << place for place, name in enumerate(STEP_BITS)}
    assert {step.name: step.value for step in Step} == expected | {
        "MDS_256K": 0x10000000,
        "MDS_1M": 0x20000000,
    }


def test_all_bits_without_reply_together() -> None:
    assert NO_REPLY_STEPS == 0x000FF080


@pytest.mark.parametrize(
    ("version", "steps"), [(2, 0x7F), (3, 0x17F), (4, 0x37F), (5, 0x37F), (6, 0x1FFFFF)]
)
def test_steps_that_each_version_knows(version: int, steps: int) -> None:
    assert STEPS[version] == steps


def test_actions_that_each_version_knows() -> None:
    assert ACTIONS == {2: 0x3F, 6: 0x1FF}


def test_status_values_are_those_of_perl_and_no_truth_value() -> None:
    assert {status.name: status.value for status in Status} == {
        "CONTINUE": 100,
        "REJECT": 101,
        "DISCARD": 102,
        "ACCEPT": 103,
        "TEMPFAIL": 104,
        "NOREPLY": 107,
        "SKIP": 108,
        "ALL_OPTS": 110,
    }


def test_macro_stages_count_end_of_message_before_end_of_header() -> None:
    assert [stage.name for stage in sorted(MacroStage)] == [
        "CONNECT",
        "HELO",
        "ENVFROM",
        "ENVRCPT",
        "DATA",
        "EOM",
        "EOH",
    ]
    assert sorted(MacroStage) == list(range(7))


def test_families_are_the_letters_of_the_wire() -> None:
    assert {family.name: family.value for family in Family} == {
        "UNKNOWN": "U",
        "UNIX": "L",
        "INET": "4",
        "INET6": "6",
    }


def test_versions_and_sizes() -> None:
    assert (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION) == (2, 6)
    assert CHUNK_SIZE == MAX_DATA_SIZE == 65535
    assert (MAX_REPLY_LINE, MAX_REPLY_LINES) == (980, 32)
