"""The rule tables, against tables written by hand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from pmilter.protocol.constants import Action, Answer, Command, MacroStage, Step
from pmilter.protocol.rules import (
    AFTER,
    GRANTS,
    MESSAGE_STEPS,
    NAMED,
    OPEN,
    RULES,
    STAGES,
    Move,
    State,
    moves,
    state_after_reply,
)

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "moves.txt"

# letter, stage, state that follows, letters of the answers, off bit, no-reply bit, macro stage, since version
RULE_TABLE = """
O  negotiate  OPTNEG   O        -      -       -  1
D  macro      -        -        -      -       -  1
C  connect    CONNECT  c,a,r,t,y      0x1    0x1000  0  1
H  helo       HELO     c,a,r,t,y      0x2    0x2000  1  1
M  envfrom    MAIL     c,a,r,t,y,d    0x4    0x4000  2  1
R  envrcpt    RCPT     c,a,r,t,y,d    0x8    0x8000  3  1
T  data       DATA     c,a,r,t,y,d    0x200  0x10000 4  4
U  unknown    -        c,a,r,t,y,d    0x100  0x20000 -  3
L  header     HEADER   c,a,r,t,y,d    0x20   0x80    6  1
N  eoh        EOH      c,a,r,t,y,d    0x40   0x40000 6  2
B  body       BODY     c,a,r,t,y,d,s  0x10   0x80000 5  1
E  eom        EOM      c,a,r,t,y,d    -      -       5  1
A  abort      -        -        -      -       -  1
Q  close      CLOSED   -        -      -       -  1
K  close      OPTNEG   -        -      -       -  6
"""


def bits(text: str) -> int:
    return 0 if text == "-" else int(text, 16)


@pytest.mark.parametrize("line", RULE_TABLE.strip().splitlines(), ids=lambda line: line[0])
def test_rule_of_each_command(line: str) -> None:
    letter, name, state, answers, off, noreply, stage, since = line.split()
    rule = RULES[ord(letter)]
    assert rule.command is Command(ord(letter))
    assert rule.name == name
    assert rule.state is (None if state == "-" else State[state])
    assert rule.replies == {Answer(ord(a)) for a in answers.split(",") if a != "-"}
    assert rule.off == bits(off)
    assert rule.noreply == bits(noreply)
    assert rule.macros is (None if stage == "-" else MacroStage(int(stage)))
    assert rule.since == int(since)


def test_every_command_has_a_rule() -> None:
    assert set(RULES) == set(AFTER) == set(map(int, Command))


def test_stages_are_the_names_of_the_callbacks() -> None:
    assert sorted(STAGES) == sorted(
        [
            "negotiate",
            "connect",
            "helo",
            "envfrom",
            "envrcpt",
            "data",
            "unknown",
            "header",
            "eoh",
            "body",
            "eom",
            "abort",
            "close",
        ]
    )


def test_stage_close_is_that_of_quit() -> None:
    assert NAMED["close"].command is Command.QUIT


def test_message_steps_are_in_the_order_of_the_dialogue() -> None:
    assert "".join(map(chr, MESSAGE_STEPS)) == "MRTLNBE"


def test_a_message_is_open_from_mail_to_the_end_that_is_not_answered() -> None:
    assert {State(state).name for state in OPEN} == {
        "MAIL",
        "RCPT",
        "DATA",
        "HEADER",
        "EOH",
        "BODY",
        "EOM",
    }


# --- every state times every command ---------------------------------------------------------------------------------


class Table(NamedTuple):
    """One table of the golden file."""

    title: str
    version: int
    steps: Step
    cells: dict[tuple[str, str], str]
    """(state, letter of the command) -> word."""


def read_tables(path: Path) -> list[Table]:
    tables: list[Table] = []
    letters: list[str] = []
    for line in path.read_text("ascii").splitlines():
        words = line.split()
        if line.startswith("== "):
            title, agreement = line.removeprefix("== ").split(": ")
            version, steps = agreement.removeprefix("version ").split(", steps ")
            tables.append(Table(title, int(version), Step(int(steps, 16)), {}))
        elif not words or line.startswith("#"):
            continue
        elif words[0] in State.__members__:
            row = zip(letters, words[1:], strict=True)
            tables[-1].cells.update({(words[0], letter): word for letter, word in row})
        else:
            letters = words
    return tables


TABLES = read_tables(GOLDEN)


def test_golden_file_has_four_tables_with_every_cell() -> None:
    cells = {(state.name, chr(command)) for state in State for command in Command}
    assert [table.title for table in TABLES] == ["everything", "few events", "no MAIL", "version 2"]
    assert all(table.cells.keys() == cells for table in TABLES)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_moves_are_those_of_the_golden_file(table: Table) -> None:
    got = moves(table.steps, table.version)
    words = {"illegal": "."}
    differences = []
    for (state, letter), expected in table.cells.items():
        name = got[ord(letter)][State[state]].name.lower()
        word = words.get(name, name)
        if word != expected:
            differences.append(f"{letter} in {state}: {expected} expected, {word} found")
    assert not differences, "\n".join(differences)


# --- messages of which little is shown -------------------------------------------------------------------------------


def visible(steps: Step, letters: str, version: int = 6) -> str:
    """Return what of a dialogue is shown under an agreement."""
    unknown = {2: "TU", 3: "T"}.get(version, "")
    return "".join(c for c in letters if not steps & RULES[ord(c)].off and c not in unknown)


cached_moves = cache(moves)


def walk(steps: Step, letters: str, version: int = 6) -> list[Move]:
    """Return the moves of a dialogue in which every command is answered with `c`, the negotiation left out."""
    table = cached_moves(steps, version)
    state = State.OPTNEG
    taken = []
    for letter in letters:
        move = table[ord(letter)][state]
        taken.append(move)
        following = RULES[ord(letter)].state
        if following is not None:
            state = state_after_reply(ord(letter), following, Answer.CONTINUE)
        elif letter == "A" and state >= State.IDLE:
            state = State.IDLE
    return taken


def step_sets() -> list[Step]:
    """Return all combinations of the eight steps that lead through a dialogue."""
    bits = [RULES[ord(letter)].off for letter in "CHMRTLNB"]
    return [
        Step(sum(bit for place, bit in enumerate(bits) if choice >> place & 1))
        for choice in range(1 << len(bits))
    ]


CONTENTS = {"whole": "LLNBBE", "no header": "NBE", "no body": "LNE", "empty": "NE"}


@pytest.mark.parametrize("version", [2, 6])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_messages_are_legal_and_opened_once_whatever_is_switched_off(
    content: str, version: int
) -> None:
    wrong = []
    for steps in step_sets():
        shown = visible(steps, "CH" + f"MRRT{content}" * 2 + f"AHMRRT{content}AAQ", version)
        taken = walk(steps, shown, version)
        if Move.ILLEGAL in taken or sum(move in {Move.OPEN, Move.REOPEN} for move in taken) != 3:
            wrong.append(f"steps {int(steps):#x}, shown {shown}: {' '.join(m.name for m in taken)}")
    assert not wrong, f"{len(wrong)} of 256, the first: {wrong[0]}"


@pytest.mark.parametrize("head", ["M", "MR", "MRR", "MRT"])
def test_messages_aborted_before_their_content_leave_nothing_open(head: str) -> None:
    for steps in step_sets():
        shown = visible(steps, f"CH{head}AMRTLNBEQ")
        taken = walk(steps, shown)
        opened = sum(move in {Move.OPEN, Move.REOPEN} for move in taken)
        expected = 2 if visible(steps, head) else 1
        assert (Move.ILLEGAL in taken, opened) == (False, expected), (steps, shown, taken)


def test_second_message_without_an_abort_between_reopens() -> None:
    # Sendmail, where the filter does not answer MAIL: no abort before the content.
    taken = walk(Step(0), "CHMRMRTLNBE")
    assert [move.name for move in taken[2:6]] == ["OPEN", "NEXT", "REOPEN", "NEXT"]


# --- after the answer ------------------------------------------------------------------------------------------------

AFTER_REPLY = """
        c       a        r        t        y        d        s
C       CONNECT CONNECT  CONNECT  CONNECT  CONNECT  -        -
H       HELO    HELO     HELO     HELO     HELO     -        -
M       MAIL    DECIDED  DECIDED  DECIDED  DECIDED  DECIDED  -
R       RCPT    DECIDED  RCPT     RCPT     RCPT     DECIDED  -
T       DATA    DECIDED  DECIDED  DECIDED  DECIDED  DECIDED  -
L       HEADER  DECIDED  DECIDED  DECIDED  DECIDED  DECIDED  -
N       EOH     DECIDED  DECIDED  DECIDED  DECIDED  DECIDED  -
B       BODY    DECIDED  DECIDED  DECIDED  DECIDED  DECIDED  BODY
E       IDLE    IDLE     IDLE     IDLE     IDLE     IDLE     -
"""


def test_state_after_each_answer() -> None:
    head, *rows = (line.split() for line in AFTER_REPLY.strip().splitlines())
    for letter, *states in rows:
        following = RULES[ord(letter)].state
        assert following is not None
        for answer, expected in zip(head, states, strict=True):
            if expected != "-":
                got = state_after_reply(ord(letter), following, ord(answer))
                assert got.name == expected, (letter, answer)


@pytest.mark.parametrize("answer", "crty")
@pytest.mark.parametrize("state", ["OPTNEG", "CONNECT", "HELO", "IDLE", "DECIDED", "MAIL", "RCPT"])
def test_verdict_on_an_unknown_command_leaves_the_message_alone(state: str, answer: str) -> None:
    assert state_after_reply(Command.UNKNOWN, State[state], ord(answer)) is State[state]


@pytest.mark.parametrize("answer", "ad")
def test_accept_and_discard_of_an_unknown_command_decide_the_open_message(answer: str) -> None:
    assert state_after_reply(Command.UNKNOWN, State.RCPT, ord(answer)) is State.DECIDED
    assert state_after_reply(Command.UNKNOWN, State.HELO, ord(answer)) is State.HELO


# --- changes ---------------------------------------------------------------------------------------------------------


def test_grants_of_the_changes() -> None:
    assert {chr(code): (g.name, g.needs, g.since) for code, g in GRANTS.items()} == {
        "h": ("addheader", Action(0x01), 1),
        "i": ("insheader", Action(0x01), 2),
        "b": ("replacebody", Action(0x02), 1),
        "+": ("addrcpt", Action(0x04), 1),
        "-": ("delrcpt", Action(0x08), 1),
        "m": ("chgheader", Action(0x10), 2),
        "q": ("quarantine", Action(0x20), 2),
        "e": ("chgfrom", Action(0x40), 6),
        "2": ("addrcpt_par", Action(0x80), 6),
    }
