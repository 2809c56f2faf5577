"""The tables under one agreement."""

from __future__ import annotations

import pytest

from pmilter.protocol.constants import Answer, Command, Step
from pmilter.protocol.macros import ORDER
from pmilter.protocol.rules import RULES, Move, State, moves
from pmilter.protocol.terms import MACROS, UNNEGOTIATED, terms


def answers(steps: int) -> dict[int, frozenset[Answer]]:
    return {code: entry.replies for code, entry in terms(6, steps).entries.items()}


def test_everything_has_its_answers_where_nothing_was_switched_off() -> None:
    assert answers(Step.SKIP) == {code: rule.replies for code, rule in RULES.items()}


@pytest.mark.parametrize(
    ("letter", "bit"),
    [("C", 0x1000), ("H", 0x2000), ("M", 0x4000), ("R", 0x8000), ("T", 0x10000), ("U", 0x20000), ("N", 0x40000),
     ("B", 0x80000), ("L", 0x80)],
)  # fmt: skip
def test_bit_silences_one_command_and_no_other(letter: str, bit: int) -> None:
    silenced = answers(bit | Step.SKIP)
    changed = {code for code, rule in RULES.items() if silenced[code] != rule.replies}
    assert changed == {ord(letter)}
    assert silenced[ord(letter)] == frozenset()


def test_nothing_silences_the_end_of_message() -> None:
    assert answers(0x1FFFFF)[Command.BODYEOB]


def test_skip_is_an_answer_only_where_it_was_agreed() -> None:
    assert Answer.SKIP in answers(Step.SKIP)[Command.BODY]
    assert Answer.SKIP not in answers(0)[Command.BODY]


def test_skip_answers_nothing_but_the_body() -> None:
    replies = answers(Step.SKIP)
    assert [code for code in replies if Answer.SKIP in replies[code]] == [Command.BODY]


def test_moves_are_those_of_the_agreement() -> None:
    rows = {code: entry.moves for code, entry in terms(2, Step.NOHELO).entries.items()}
    assert rows == moves(Step.NOHELO, 2)


def test_states_are_those_of_the_rules() -> None:
    assert {code: entry.state for code, entry in terms(6, 0).entries.items()} == {
        code: rule.state for code, rule in RULES.items()
    }


@pytest.mark.parametrize(
    ("bits", "size"),
    [(0, 65535), (0x10000000, 262143), (0x20000000, 1048575), (0x30000000, 1048575)],
)
def test_largest_payload_follows_the_agreed_size(bits: int, size: int) -> None:
    assert terms(6, bits).max_payload == size


def test_equal_agreements_share_their_tables() -> None:
    assert terms(6, 0x36B) is terms(6, 0x36B)


def test_before_the_negotiation_only_it_and_quit_are_legal() -> None:
    entries = UNNEGOTIATED.entries.items()
    legal = {chr(c) for c, entry in entries if entry.moves[State.START] is not Move.ILLEGAL}
    assert legal == {"O", "Q"}
    assert UNNEGOTIATED.max_payload == 65535


def test_commands_without_macros_have_a_place_after_all_others() -> None:
    order = {chr(code): entry.order for code, entry in terms(6, 0).entries.items()}
    with_macros = sorted("CHMRTLNBEU", key=order.__getitem__)
    assert "".join(with_macros) == "CHMRTLNBEU"
    assert all(order[letter] > order["U"] for letter in "ODAQK")


def test_rows_hold_what_is_legal_in_each_state_and_nothing_else() -> None:
    agreed = terms(6, Step.SKIP)
    for state in State:
        legal = {c for c, entry in agreed.entries.items() if entry.moves[state] is not Move.ILLEGAL}
        assert agreed.rows[state].keys() == legal


def test_macro_packets_are_the_same_wherever_they_are_legal() -> None:
    found = {row.get(Command.MACRO) for row in terms(6, 0).rows}
    assert found == {MACROS, None}


def test_row_of_a_decided_message_moves_and_clears_nothing() -> None:
    for code in b"RTLNBE":
        arrival = terms(6, Step.SKIP).rows[State.DECIDED][code]
        assert (arrival.move, arrival.state) == (Move.REPEAT, State.DECIDED)
        assert arrival.replies == RULES[code].replies
        assert arrival.order >= max(ORDER.values())


def test_abort_leads_to_idle_once_there_can_be_messages() -> None:
    rows = terms(6, 0).rows
    assert rows[State.CONNECT][Command.ABORT].state is State.CONNECT
    assert rows[State.HEADER][Command.ABORT].state is State.IDLE
