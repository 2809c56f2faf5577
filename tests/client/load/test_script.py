from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pmilter.client.load.script as script_module
from pmilter.address import parse_address
from pmilter.client.dialect import POSTFIX, SENDMAIL
from pmilter.client.dialogue import Dialogue
from pmilter.client.load.plan import CLIENT, Plan
from pmilter.client.load.script import Ending, Script, Turn, opening
from pmilter.client.transaction import Transaction
from pmilter.effects import Receive, Send
from pmilter.errors import NegotiationError, RemoteProtocolError
from pmilter.protocol.constants import Status
from tests.support.notation import parse, show, split

ALL = "O 6 1ff 400"
"""The answer of a filter that wants to see and answer everything, and may skip the body."""

MESSAGE = b"Subject: minutes\r\n\r\n" + b"x" * 69_998 + b"\r\n"


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "address": parse_address("/run/filter"),
        "message": MESSAGE,
        "macros": False,
    }
    return Plan(**(settings | changes))


def script(answer: str = ALL, **changes: Any) -> Script:
    made = plan(**changes)
    return Script(made, made.content, parse(answer))


def shown(data: bytes) -> list[str]:
    frames, rest = split(data)
    assert not rest
    return [show(frame) for frame in frames]


def walk(at: Turn | Ending, *answers: str) -> tuple[list[str], Ending]:
    """Follow a scene with given answers, then with CONTINUE; return what is sent, and the end."""
    left = [*map(parse, answers)]
    sent = []
    while isinstance(at, Turn):
        sent += shown(at.data)
        answer = left.pop(0) if left else parse("c")
        at = at.after(answer[4], answer[5:])
    return sent + shown(at.data), at


CONNECT = r"C mail.example.com␀4\x9cA192.0.2.1␀"
HEAD = [
    r"M <alice@example.com>␀SIZE=70020␀",
    "R <user1@example.org>␀",
    "R <user2@example.org>␀",
    "T",
    "L Subject␀minutes␀",
    "N",
]


def codes(lines: list[str]) -> str:
    return "".join(line[0] for line in lines)


def test_opening_is_the_dialects_offer() -> None:
    assert show(opening(plan())) == "O 6 1ff 1fffff"
    assert show(opening(plan(version=2, dialect=SENDMAIL))) == "O 2 3f 7f"


def test_greeting_is_that_of_the_mta() -> None:
    assert walk(script().greeting.first)[0] == [CONNECT, "H mail.example.com␀"]


def test_message_comes_in_the_order_of_an_mta_and_in_chunks() -> None:
    sent, ending = walk(script().message.first)
    assert sent[:6] == HEAD
    assert codes(sent[6:]) == "BBEA"
    assert (ending.status, ending.stage, ending.over) == (Status.ACCEPT, "eom", False)
    assert shown(ending.parting) == ["A", "Q"]


def test_size_and_commands_of_a_scene_are_known_at_its_end() -> None:
    loaded = script(macros=True)
    _, ending = walk(loaded.message.first)
    turns = []
    at = loaded.message.first
    while isinstance(at, Turn):
        turns.append(at.data)
        at = at.after(ord("c"), b"")
    assert ending.size == sum(map(len, turns)) + len(ending.data)
    assert ending.commands == len("MRRTLNBBEA")


def test_macros_go_before_their_commands() -> None:
    first = script(macros=True).message.first
    assert isinstance(first, Turn)
    assert codes(shown(first.data)) == "DM"


def test_steps_that_are_off_are_left_out_and_unanswered_ones_joined() -> None:
    loaded = script("O 6 1ff 80020")  # no header fields, body without answers
    at = loaded.message.first
    pieces = []
    while isinstance(at, Turn):
        pieces.append(codes(shown(at.data)))
        at = at.after(ord("c"), b"")
    assert pieces == ["M", "R", "R", "T", "N", "BBE"]


def test_scene_in_which_nothing_is_waited_for_is_an_ending() -> None:
    first = script("O 6 1ff 3000").greeting.first  # neither connect nor helo is answered
    assert isinstance(first, Ending)
    assert shown(first.data) == [CONNECT, "H mail.example.com␀"]
    assert not first.over


@pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL], ids=["postfix", "sendmail"])
@pytest.mark.parametrize(
    ("answers", "sent", "status", "stage"),
    [
        (["c", "r"], "MRRTLNBBE", Status.ACCEPT, "eom"),
        (["c", "r", "y 451 4.7.1 wait␀"], "MRR", Status.TEMPFAIL, "envrcpt"),
        (["t"], "M", Status.TEMPFAIL, "envfrom"),
        (["c", "a"], "MR", Status.ACCEPT, "envrcpt"),
        (["c", "c", "d"], "MRR", Status.DISCARD, "envrcpt"),
        (["c", "c", "c", "c", "c", "c", "s"], "MRRTLNBE", Status.ACCEPT, "eom"),
        ([*"cccccccc", "y 550 5.7.1 no␀"], "MRRTLNBBE", Status.REJECT, "eom"),
    ],
)
def test_verdicts_are_followed(
    dialect: Any, answers: list[str], sent: str, status: Status, stage: str
) -> None:
    lines, ending = walk(script(dialect=dialect).message.first, *answers)
    assert codes(lines).rstrip("A") == sent
    assert (ending.status, ending.stage, ending.over) == (status, stage, False)


def test_reply_421_ends_the_connection() -> None:
    lines, ending = walk(script().message.first, "c", "y 421 4.7.0 go␀")
    assert codes(lines) == "MRAAQ"
    assert ending.over
    assert ending.parting == b""


@pytest.mark.parametrize(
    ("dialect", "parting"), [(POSTFIX, ""), (SENDMAIL, "Q")], ids=["postfix", "sendmail"]
)
def test_verdict_on_the_client_ends_the_connection(dialect: Any, parting: str) -> None:
    lines, ending = walk(script(dialect=dialect).greeting.first, "a")
    assert codes(lines) == "C" + parting
    assert (ending.status, ending.stage, ending.over) == (Status.ACCEPT, "connect", True)


def test_replies_are_those_of_the_rules() -> None:
    turn: Any = script().greeting.first
    assert turn.replies == set(b"cartyd") - {ord("d")}
    turn = script("O 6 1ff 0").message.first
    for _ in range(6):
        turn = turn.after(ord("c"), b"")
    assert turn.stage == "body"
    assert ord("s") not in turn.replies
    with pytest.raises(RemoteProtocolError):
        turn.after(ord("s"), b"")


def test_what_follows_is_worked_out_once() -> None:
    first = script().message.first
    assert isinstance(first, Turn)
    assert first.after(ord("r"), b"") is first.after(ord("r"), b"")
    assert first.after(ord("y"), b"550 a\0") is first.after(ord("y"), b"554 b\0")
    assert first.after(ord("y"), b"550 a\0") is not first.after(ord("y"), b"421 c\0")


def test_no_more_is_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_module, "MAX_KEPT", 5)
    first = script().message.first
    assert isinstance(first, Turn)
    assert first.after(ord("r"), b"") is not first.after(ord("r"), b"")
    lines, ending = walk(first, "c", "r")
    assert codes(lines) == "MRRTLNBBEA"
    assert ending.stage == "eom"


def test_answer_that_breaks_the_offer_is_refused() -> None:
    with pytest.raises(NegotiationError):
        script("O 7 0 0")
    with pytest.raises(RemoteProtocolError):
        script("O 6 0 0+x")


ANSWERS = st.lists(
    st.sampled_from(
        ["c"] * 12
        + ["r", "t", "a", "d", "s", "y 550 5.7.1 no␀", "y 421 4.7.0 go␀", "y 451 4.7.1 wait␀"]
    ),
    max_size=12,
)


def live(made: Plan, answers: list[str]) -> tuple[bytes, Status]:
    """Play one message with a dialogue itself: what the scripts must come to."""
    dialogue = Dialogue(made.spoken, made.spoken.offer(6))
    dialogue.macros.know(CLIENT.macros(made.spoken))
    perform(dialogue.open(), [ALL])
    perform(dialogue.connect(CLIENT.connect(made.spoken)), ["c"])
    perform(dialogue.helo(b"mail.example.com"), ["c"])
    run = Transaction(dialogue, made.envelope, made.content).run()
    sent, verdict = perform(run, answers)
    return sent, verdict.status


def perform(steps: Any, answers: list[str]) -> tuple[bytes, Any]:
    left = [*answers]
    sent, outcome = b"", None
    while True:
        try:
            effect = steps.send(outcome)
        except StopIteration as stop:
            return sent, stop.value
        outcome = None
        if isinstance(effect, Send):
            sent += effect.data
        elif isinstance(effect, Receive):
            outcome = parse(left.pop(0) if left else "c")


@settings(max_examples=60, deadline=None)
@given(st.lists(ANSWERS, min_size=1, max_size=4), st.sampled_from([POSTFIX, SENDMAIL]))
def test_any_answers_lead_where_they_lead_a_dialogue(
    messages: list[list[str]], dialect: Any
) -> None:
    made = plan(dialect=dialect, macros=True, message=b"Subject: x\r\n\r\nhello\r\n", recipients=3)
    loaded = Script(made, made.content, parse(ALL))
    for answers in messages:
        try:
            expected = live(made, answers)
        except RemoteProtocolError:
            with pytest.raises(RemoteProtocolError):
                walk(loaded.message.first, *answers)
            continue
        lines, ending = walk(loaded.message.first, *answers)
        assert (lines, ending.status) == (shown(expected[0]), expected[1])
