"""The filter's end of a connection, fed with bytes written by hand."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest

from pmilter.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from pmilter.protocol.constants import Action, Command, Family, Step
from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.messages import (
    Abort,
    Accept,
    AddHeader,
    AddRcpt,
    Body,
    ChgFrom,
    ChgHeader,
    Connect,
    Continue,
    Data,
    Discard,
    Eoh,
    Eom,
    Header,
    Helo,
    InsHeader,
    Mail,
    Message,
    Options,
    Progress,
    Quarantine,
    Quit,
    QuitNc,
    Rcpt,
    Reject,
    ReplBody,
    ReplyCode,
    Shutdown,
    Skip,
    Tempfail,
    Unknown,
)
from pmilter.protocol.rules import Move, State

OFFER = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
ALL_ACTIONS = 0xFF

FRAMES = {
    "C": b"\0\0\0\x0cClocalhost\0U",
    "H": b"\0\0\0\x04Hmx\0",
    "M": b"\0\0\0\x07M<a@b>\0",
    "R": b"\0\0\0\x07R<c@d>\0",
    "T": b"\0\0\0\x01T",
    "U": b"\0\0\0\x06UFROB\0",
    "L": b"\0\0\0\x05LX\0v\0",
    "N": b"\0\0\0\x01N",
    "B": b"\0\0\0\x04Bx\r\n",
    "E": b"\0\0\0\x01E",
    "A": b"\0\0\0\x01A",
    "Q": b"\0\0\0\x01Q",
    "K": b"\0\0\0\x01K",
}


def negotiated(
    steps: Step | int = 0, actions: int = ALL_ACTIONS, version: int = 6
) -> FilterSession:
    session = FilterSession()
    session.receive(OFFER)
    session.next_command()
    session.negotiate(Options(version, actions, steps))
    session.take()
    return session


def feed(session: FilterSession, letter: str) -> Message:
    session.receive(FRAMES[letter])
    command = session.next_command()
    assert command is not None
    return command


def walked(letters: str, steps: Step | int = 0, actions: int = ALL_ACTIONS) -> FilterSession:
    """Return a session that got these commands and answered all but the last with `c`."""
    session = negotiated(steps, actions)
    for letter in letters[:-1]:
        feed(session, letter)
        if session.due:
            session.reply(Continue())
    session.take()
    if letters:
        feed(session, letters[-1])
    return session


# --- negotiation -----------------------------------------------------------------------------------------------------


def test_nothing_is_said_before_the_mta_has_spoken() -> None:
    session = FilterSession()
    assert session.next_command() is None
    assert session.take() == b""
    assert session.state is State.START
    assert session.agreement is None


def test_offer_is_the_first_command_and_waits_for_an_answer() -> None:
    session = FilterSession()
    session.receive(OFFER)
    assert session.next_command() == Options(6, 0x1FF, 0x1FFFFF)
    assert session.due
    assert session.take() == b""


def test_negotiation_sends_the_answer_and_keeps_it() -> None:
    session = FilterSession()
    session.receive(OFFER)
    session.next_command()
    answer = Options(6, Action.ADDHDRS, Step.NOHELO)
    session.negotiate(answer)
    assert session.take() == b"\0\0\0\x0dO\0\0\0\x06\0\0\0\x01\0\0\0\x02"
    assert session.agreement == answer
    assert session.offer == Options(6, 0x1FF, 0x1FFFFF)
    assert session.state is State.OPTNEG
    assert not session.due


@pytest.mark.parametrize(
    "answer",
    [
        Options(6, 0x40, 0),
        Options(6, 0, 0x80),
        Options(6, 0x80000000, 0),
        Options(6, 0, 0x80000000),
    ],
    ids=repr,
)
def test_answer_with_bits_that_were_not_offered_is_not_sent(answer: Options) -> None:
    session = FilterSession()
    session.receive(b"\0\0\0\x0dO\0\0\0\x06\0\0\0\x3f\0\0\0\x7f")
    session.next_command()
    with pytest.raises(LocalProtocolError):
        session.negotiate(answer)
    assert session.take() == b""
    assert session.agreement is None


@pytest.mark.parametrize("version", [0, 1, 3, 6, 7])
def test_answer_with_a_version_that_was_not_offered_is_not_sent(version: int) -> None:
    session = FilterSession()
    session.receive(b"\0\0\0\x0dO\0\0\0\x02\0\0\0\x3f\0\0\0\x7f")
    session.next_command()
    with pytest.raises(LocalProtocolError):
        session.negotiate(Options(version, 0, 0))
    assert session.take() == b""


def test_negotiation_without_an_offer_is_refused() -> None:
    session = FilterSession()
    with pytest.raises(LocalProtocolError, match="no negotiation is due"):
        session.negotiate(Options(6, 0, 0))


def test_negotiation_cannot_be_answered_twice() -> None:
    session = negotiated()
    with pytest.raises(LocalProtocolError, match="no negotiation is due"):
        session.negotiate(Options(6, 0, 0))


def test_negotiation_is_not_answered_by_a_reply() -> None:
    session = FilterSession()
    session.receive(OFFER)
    session.next_command()
    for answer in (Continue(), Options(6, 0, 0)):
        with pytest.raises(LocalProtocolError):
            session.reply(answer)
    assert session.take() == b""


def test_second_negotiation_is_refused() -> None:
    session = negotiated()
    session.receive(OFFER)
    with pytest.raises(RemoteProtocolError, match="second negotiation") as caught:
        session.next_command()
    assert caught.value.state == "OPTNEG"


@pytest.mark.parametrize("letter", "CHMRTULNBEAK")
def test_anything_before_the_negotiation_is_refused(letter: str) -> None:
    session = FilterSession()
    session.receive(FRAMES[letter])
    with pytest.raises(RemoteProtocolError, match="START"):
        session.next_command()


def test_macros_before_the_negotiation_are_refused() -> None:
    session = FilterSession()
    session.receive(b"\0\0\0\x02DC")
    with pytest.raises(RemoteProtocolError, match="START"):
        session.next_command()


def test_quit_before_the_negotiation_is_taken() -> None:
    session = FilterSession()
    assert feed(session, "Q") == Quit()
    assert session.state is State.CLOSED


# --- order -----------------------------------------------------------------------------------------------------------


def test_whole_dialogue_moves_through_all_states() -> None:
    session = negotiated()
    seen = []
    for letter in "CHMRTLNBE":
        command = feed(session, letter)
        session.reply(Continue())
        seen.append((type(command).__name__, session.state.name))
    assert seen == [
        ("Connect", "CONNECT"),
        ("Helo", "HELO"),
        ("Mail", "MAIL"),
        ("Rcpt", "RCPT"),
        ("Data", "DATA"),
        ("Header", "HEADER"),
        ("Eoh", "EOH"),
        ("Body", "BODY"),
        ("Eom", "IDLE"),
    ]
    assert session.take() == b"\0\0\0\x01c" * 9


def test_commands_carry_what_was_sent() -> None:
    session = negotiated()
    commands = []
    for letter in "CHUMRTLNBEAQ":
        commands.append(feed(session, letter))
        if session.due:
            session.reply(Continue())
    assert [type(command) for command in commands] == [
        Connect, Helo, Unknown, Mail, Rcpt, Data, Header, Eoh, Body, Eom, Abort, Quit,
    ]  # fmt: skip
    assert commands[3] == Mail(b"<a@b>")
    assert commands[6] == Header(b"X", b"v")
    assert commands[8] == Body(b"x\r\n")


@pytest.mark.parametrize(
    ("before", "letter"),
    [("", "M"), ("", "R"), ("C", "C"), ("C", "R"), ("CM", "T"), ("CMR", "L"), ("CMR", "E"), ("CMRT", "B"),
     ("CMRT", "E"), ("CMRTL", "E"), ("CMRTNB", "L"), ("CMRTN", "N"), ("CMRTNB", "U"), ("CMRTNE", "R")],
)  # fmt: skip
def test_command_out_of_order_is_refused(before: str, letter: str) -> None:
    session = negotiated()
    for earlier in before:
        feed(session, earlier)
        session.reply(Continue())
    session.take()
    state = session.state
    session.receive(FRAMES[letter])
    with pytest.raises(RemoteProtocolError, match="out of order") as caught:
        session.next_command()
    assert caught.value.state == state.name
    assert session.take() == b""


@pytest.mark.parametrize("code", [0, 1, ord("Z"), ord("c"), 255])
def test_unknown_command_is_refused(code: int) -> None:
    session = negotiated()
    session.receive(b"\0\0\0\x01" + bytes((code,)))
    with pytest.raises(RemoteProtocolError, match="unknown command"):
        session.next_command()


def test_malformed_command_is_refused() -> None:
    session = negotiated()
    session.receive(b"\0\0\0\x05Chost")
    with pytest.raises(RemoteProtocolError, match="Connect"):
        session.next_command()


@pytest.mark.parametrize("frame", [b"\0\0\0\0Q", b"\xff\xff\xff\xffA", b"GET / HTTP/1.1\r\n"])
def test_bad_frame_is_refused(frame: bytes) -> None:
    session = negotiated()
    session.receive(frame)
    with pytest.raises(RemoteProtocolError):
        session.next_command()


def test_frame_limit_is_obeyed() -> None:
    session = FilterSession(frame_limit=65535)
    session.receive(b"\0\x01\0\x01B")
    with pytest.raises(RemoteProtocolError, match="limit is 65535"):
        session.next_command()


def test_nothing_counts_after_quit() -> None:
    session = walked("CQ")
    for letter in "CHMQA":
        session.receive(FRAMES[letter])
        with pytest.raises(RemoteProtocolError):
            session.next_command()
    assert session.take() == b""


def test_begun_frame_is_told_from_a_clean_end() -> None:
    session = walked("C")
    session.reply(Continue())
    seen = []
    for piece in (b"", b"\0\0\0\x04H", b"mx\0"):
        session.receive(piece)
        session.next_command()
        seen.append(session.mid_frame)
    assert seen == [False, True, False]


# --- moves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("letters", "move", "state"),
    [
        ("CHM", Move.OPEN, State.MAIL),
        ("CHMR", Move.NEXT, State.RCPT),
        ("CHMRM", Move.REOPEN, State.MAIL),
        ("CHMRH", Move.BREAK, State.HELO),
        ("CHMRA", Move.BREAK, State.IDLE),
        ("CHMRQ", Move.BREAK, State.CLOSED),
        ("CHMRK", Move.BREAK, State.OPTNEG),
        ("CHMRTLNBEA", Move.NEXT, State.IDLE),
        ("CHA", Move.NEXT, State.HELO),
        ("CA", Move.NEXT, State.CONNECT),
        ("A", Move.NEXT, State.OPTNEG),
        ("CHMAA", Move.NEXT, State.IDLE),
        ("UC", Move.NEXT, State.CONNECT),
        ("CHMU", Move.NEXT, State.MAIL),
        ("CHMRURT", Move.NEXT, State.DATA),
        ("CHK", Move.NEXT, State.OPTNEG),
        ("CHKC", Move.NEXT, State.CONNECT),
    ],
)
def test_meaning_of_the_last_command(letters: str, move: Move, state: State) -> None:
    session = walked(letters)
    assert (session.move, session.state) == (move, state)


def test_empty_message_needs_neither_header_nor_body() -> None:
    assert walked("CHMRTNE").state is State.EOM


def test_few_events_leave_mail_body_and_end() -> None:
    session = walked("MBE", steps=0x36B)
    assert session.state is State.EOM
    session.reply(Accept())
    assert walked("ME", steps=0x36B).state is State.EOM


@pytest.mark.parametrize(
    ("letters", "steps"),
    [("CHNE", 0x20C), ("CHE", 0x26C), ("CHNBE", 0x20C), ("CHLNE", 0x20C), ("E", 0x37F), ("CHMRE", 0x260)],
    ids=repr,
)  # fmt: skip
def test_message_without_header_or_body_is_taken_whatever_is_switched_off(
    letters: str, steps: int
) -> None:
    # Without header fields there is no L, with an empty body no B: then what follows them opens the message.
    session = walked(letters, steps=steps)
    assert session.state is State.EOM


def test_message_that_begins_with_its_end_is_opened_by_it() -> None:
    session = walked("CHE", steps=Step(0x26C))  # body wanted, all before it switched off
    assert session.move is Move.OPEN


def test_data_may_be_tried_again_after_another_filter_refused_it() -> None:
    assert walked("CHMRTT").state is State.DATA
    assert walked("CHMRTUT").state is State.DATA
    assert walked("CHMRTRT").state is State.DATA


def test_unwanted_mail_does_not_continue_the_message_before() -> None:
    session = walked("CHRTNEM", steps=Step.NOMAIL)
    assert session.move is Move.OPEN


# --- replies ---------------------------------------------------------------------------------------------------------

VERDICTS = [Accept(), Reject(), Tempfail(), ReplyCode(b"550 no")]


@pytest.mark.parametrize("letters", ["C", "CH"])
@pytest.mark.parametrize("answer", VERDICTS, ids=repr)
def test_verdicts_on_the_connection_change_no_state(letters: str, answer: Message) -> None:
    session = walked(letters)
    state = session.state
    session.reply(answer)
    assert session.state is state
    assert session.take() == answer.encode()


@pytest.mark.parametrize("letters", ["CHM", "CHMRT", "CHMRTL", "CHMRTN", "CHMRTNB"])
@pytest.mark.parametrize("answer", [*VERDICTS, Discard()], ids=repr)
def test_verdicts_on_a_message_decide_it(letters: str, answer: Message) -> None:
    session = walked(letters)
    session.reply(answer)
    assert session.state is State.DECIDED


@pytest.mark.parametrize("answer", [*VERDICTS, Discard(), Continue()], ids=repr)
def test_any_answer_at_the_end_ends_the_message(answer: Message) -> None:
    session = walked("CHMRTNE")
    session.reply(answer)
    assert session.state is State.IDLE


@pytest.mark.parametrize("answer", [Reject(), Tempfail(), ReplyCode(b"450 later")], ids=repr)
def test_refused_recipient_leaves_the_message_open(answer: Message) -> None:
    session = walked("CHMR")
    session.reply(answer)
    assert session.state is State.RCPT


@pytest.mark.parametrize("answer", [Accept(), Discard()], ids=repr)
def test_accept_and_discard_at_a_recipient_decide_the_message(answer: Message) -> None:
    session = walked("CHMR")
    session.reply(answer)
    assert session.state is State.DECIDED


@pytest.mark.parametrize("letter", "RTLNBE")
def test_rest_of_a_decided_message_is_told_apart(letter: str) -> None:
    session = walked("CHMRT")
    session.reply(Reject())
    session.take()
    feed(session, letter)
    assert (session.move, session.state) == (Move.REPEAT, State.DECIDED)
    session.reply(Reject())
    assert session.take() == b"\0\0\0\x01r"
    assert session.state is (State.IDLE if letter == "E" else State.DECIDED)


@pytest.mark.parametrize("answer", [Continue(), Accept(), Discard(), Tempfail()], ids=repr)
def test_end_of_a_decided_message_ends_it_whatever_the_answer(answer: Message) -> None:
    session = walked("CHMRT")
    session.reply(Discard())
    feed(session, "E")
    session.reply(answer)
    assert session.state is State.IDLE


@pytest.mark.parametrize(
    ("letters", "answer"),
    [
        ("C", Discard()),
        ("CH", Discard()),
        ("C", Skip()),
        ("CHM", Skip()),
        ("CHMRTL", Skip()),
        ("CHMRTNE", Skip()),
        ("CHMRTNB", Skip()),
        ("C", Shutdown()),
        ("CHMRTNE", Shutdown()),
        ("CHM", Progress()),
        ("CHMRTNE", AddHeader(b"X", b"v")),
        ("CHM", Options(6, 0, 0)),
        ("CHM", Mail(b"<a@b>")),
    ],
    ids=repr,
)
def test_reply_that_does_not_belong_here_is_not_sent(letters: str, answer: Message) -> None:
    session = walked(letters)
    with pytest.raises(LocalProtocolError) as caught:
        session.reply(answer)
    assert caught.value.command == type(answer).__name__
    assert caught.value.state == session.state.name
    assert session.take() == b""
    assert session.due


def test_skip_is_sent_where_it_was_agreed() -> None:
    session = walked("CHMRTNB", steps=Step.SKIP)
    session.reply(Skip())
    assert session.take() == b"\0\0\0\x01s"
    assert session.state is State.BODY


@pytest.mark.parametrize("letters", ["", "CHA", "CHQ", "CHK"])
def test_reply_that_nobody_waits_for_is_not_sent(letters: str) -> None:
    session = walked(letters)
    with pytest.raises(LocalProtocolError):
        session.reply(Continue())
    assert session.take() == b""


def test_command_cannot_be_answered_twice() -> None:
    session = walked("C")
    session.reply(Continue())
    with pytest.raises(LocalProtocolError):
        session.reply(Accept())
    assert session.take() == b"\0\0\0\x01c"


def test_next_command_waits_for_the_reply() -> None:
    session = negotiated()
    session.receive(FRAMES["C"] + FRAMES["H"])
    session.next_command()
    with pytest.raises(LocalProtocolError, match="still due"):
        session.next_command()
    session.reply(Continue())
    assert session.next_command() == Helo(b"mx")


@pytest.mark.parametrize(
    ("letters", "bit"),
    [("C", 0x1000), ("CH", 0x2000), ("CHM", 0x4000), ("CHMR", 0x8000), ("CHMRT", 0x10000), ("CU", 0x20000),
     ("CHMRTN", 0x40000), ("CHMRTNB", 0x80000), ("CHMRTL", 0x80)],
)  # fmt: skip
def test_silent_steps_wait_for_no_reply(letters: str, bit: int) -> None:
    session = walked(letters, steps=bit)
    assert not session.due
    with pytest.raises(LocalProtocolError):
        session.reply(Continue())
    assert session.take() == b""


def test_silent_steps_can_be_taken_in_one_run() -> None:
    session = negotiated(0xFF080)
    session.receive(b"".join(FRAMES[letter] for letter in "CHMRTLLNBE"))
    taken = []
    while not session.due:
        taken.append(type(session.next_command()).__name__)
    assert taken[-1] == "Eom"
    assert len(taken) == 10
    assert session.take() == b""


def test_going_on_answers_where_an_answer_is_due() -> None:
    session = walked("CM")
    session.go_on()
    assert session.take() == b"\0\0\0\x01c"
    assert not session.due
    assert session.state is State.MAIL


def test_going_on_says_nothing_where_no_answer_is_due() -> None:
    session = walked("CM", steps=Step.NR_MAIL)
    session.go_on()
    assert session.take() == b""


def test_answering_again_after_taking_sends_only_the_new_bytes() -> None:
    session = walked("C")
    session.reply(Continue())
    assert session.take() == b"\0\0\0\x01c"
    assert session.take() == b""


# --- changes ---------------------------------------------------------------------------------------------------------

CHANGES = {
    AddHeader(b"X", b"v"): 0x01,
    InsHeader(1, b"X", b"v"): 0x01,
    ReplBody(b"new"): 0x02,
    AddRcpt(b"<e@f>"): 0x04,
    ChgHeader(1, b"X", b""): 0x10,
    Quarantine(b"why"): 0x20,
    ChgFrom(b"<e@f>"): 0x40,
}


def test_changes_leave_in_order_before_the_reply() -> None:
    session = walked("CHMRTNE")
    session.change(AddHeader(b"X", b"v"))
    session.change(ReplBody(b"new"))
    session.reply(Accept())
    assert session.take() == b"\0\0\0\x05hX\0v\0\0\0\0\x04bnew\0\0\0\x01a"


@pytest.mark.parametrize(("change", "action"), CHANGES.items(), ids=repr)
def test_change_needs_its_own_action_and_no_other(change: Message, action: int) -> None:
    granted = walked("CHMRTNE", actions=action)
    granted.change(change)
    assert granted.take() == change.encode()
    refused = walked("CHMRTNE", actions=ALL_ACTIONS & ~action)
    with pytest.raises(LocalProtocolError, match="was not agreed"):
        refused.change(change)
    assert refused.take() == b""


@pytest.mark.parametrize(
    "letters", ["", "C", "CHM", "CHMR", "CHMRT", "CHMRTL", "CHMRTN", "CHMRTNB", "CHMRTNBEA"]
)
@pytest.mark.parametrize("change", CHANGES, ids=repr)
def test_change_outside_the_end_of_message_is_not_sent(letters: str, change: Message) -> None:
    session = walked(letters)
    with pytest.raises(LocalProtocolError, match="eom"):
        session.change(change)
    assert session.take() == b""


def test_change_after_the_reply_is_not_sent() -> None:
    session = walked("CHMRTNE")
    session.reply(Accept())
    session.take()
    with pytest.raises(LocalProtocolError):
        session.change(AddHeader(b"X", b"v"))
    assert session.take() == b""


def test_change_of_a_decided_message_is_not_sent() -> None:
    session = walked("CHMRT")
    session.reply(Discard())
    session.take()
    feed(session, "E")
    with pytest.raises(LocalProtocolError):
        session.change(AddHeader(b"X", b"v"))
    assert session.take() == b""


def test_checking_a_change_sends_nothing() -> None:
    session = walked("CHMRTNE")
    session.check_change(AddHeader(b"X", b"v"))
    assert session.take() == b""


def test_change_as_large_as_agreed_is_sent() -> None:
    session = walked("CHMRTNE")
    session.change(AddHeader(b"X", b"v" * (65535 - 3)))
    assert len(session.take()) == 65535 + 5


def test_change_larger_than_agreed_is_not_sent() -> None:
    session = walked("CHMRTNE")
    with pytest.raises(LimitExceeded, match="addheader") as caught:
        session.change(AddHeader(b"X", b"v" * (65535 - 2)))
    assert (caught.value.limit, caught.value.size) == (65535, 65536)
    assert session.take() == b""


def test_larger_frames_may_be_sent_where_they_were_agreed() -> None:
    session = FilterSession()
    session.receive(b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\x20\x1f\xff\xff")
    session.next_command()
    session.negotiate(Options(6, 1, Step.MDS_1M | Step(0x36F)))
    feed(session, "B")
    session.reply(Continue())
    feed(session, "E")
    session.take()
    session.change(AddHeader(b"X", b"v" * 1_000_000))
    assert len(session.take()) == 1_000_008


def test_change_with_a_nul_is_not_sent() -> None:
    session = walked("CHMRTNE")
    with pytest.raises(LocalProtocolError, match="NUL"):
        session.change(AddHeader(b"X", b"v\0w"))
    assert session.take() == b""


# --- macros ----------------------------------------------------------------------------------------------------------


def test_macros_are_seen_from_their_command_on() -> None:
    session = negotiated()
    session.receive(b"\0\0\0\x07DCj\0mx\0" + FRAMES["C"])
    assert session.next_command() == Connect(b"localhost", Family.UNKNOWN)
    assert session.macros.get("j") == "mx"


def test_macros_alone_are_no_command() -> None:
    session = negotiated()
    session.receive(b"\0\0\0\x07DCj\0mx\0")
    assert session.next_command() is None
    assert session.macros.get("j") == "mx"


def test_macros_of_switched_off_steps_are_kept() -> None:
    session = negotiated(0x36B)
    session.receive(b"\0\0\0\x07DCj\0mx\0\0\0\0\x06DHa\0b\0\0\0\0\x06DMi\x001\0" + FRAMES["M"])
    assert session.next_command() == Mail(b"<a@b>")
    assert session.macros.as_dict() == {"j": "mx", "a": "b", "i": "1"}


def test_earlier_command_clears_the_macros_of_later_ones() -> None:
    session = negotiated()
    for frame in (b"", b"\0\0\0\x06DHh\x001\0", b"\0\0\0\x06DMm\x001\0", b"\0\0\0\x06DRr\x001\0"):
        session.receive(frame)
        session.next_command()
    for letter in "CHMR":
        feed(session, letter)
        session.reply(Continue())
    session.receive(b"\0\0\0\x06DRr\x002\0")
    feed(session, "R")
    assert session.macros.as_dict() == {"r": "2"}


def test_second_recipient_without_macros_still_sees_those_of_the_first() -> None:
    session = walked("CHM")
    session.reply(Continue())
    session.receive(b"\0\0\0\x06DRr\x001\0")
    feed(session, "R")
    session.reply(Continue())
    feed(session, "R")
    assert session.macros.get("r") == "1"


@pytest.mark.parametrize("answer", [Continue(), Accept(), Reject(), Discard()], ids=repr)
def test_macros_of_the_message_end_with_its_answer(answer: Message) -> None:
    session = walked("CH")
    session.reply(Continue())
    session.receive(b"\0\0\0\x06DHh\x001\0\0\0\0\x06DMm\x001\0")
    for letter in "MRTNE":
        feed(session, letter)
        assert session.macros.as_dict() == {"h": "1", "m": "1"}
        session.reply(answer if letter == "E" else Continue())
    assert session.macros.as_dict() == {"h": "1"}


def test_macros_of_an_aborted_message_stay_for_its_abort_callback() -> None:
    session = walked("CH")
    session.reply(Continue())
    session.receive(b"\0\0\0\x06DHh\x001\0\0\0\0\x06DMm\x001\0")
    feed(session, "M")
    session.reply(Continue())
    feed(session, "A")
    assert session.macros.get("m") == "1"
    session.end_message()
    assert session.macros.as_dict() == {"h": "1"}


def test_macros_of_an_unknown_command_last_for_that_command_only() -> None:
    session = walked("CH")
    session.reply(Continue())
    session.receive(b"\0\0\0\x06DUu\x001\0")
    feed(session, "U")
    assert session.macros.get("u") == "1"
    session.reply(Continue())
    feed(session, "M")
    assert session.macros.get("u") is None


def test_refused_unknown_command_does_not_end_the_macros_of_the_message_to_come() -> None:
    # Without MAIL its macros come all the same, and the client may send nonsense before its first recipient.
    session = walked("CH", steps=Step.NOMAIL)
    session.reply(Continue())
    for letter in "RTNE":
        feed(session, letter)
        session.reply(Continue())
    session.receive(b"\0\0\0\x06DMm\x001\0")
    feed(session, "U")
    session.reply(Reject())
    feed(session, "R")
    assert session.macros.get("m") == "1"


def test_macro_limit_is_obeyed_and_the_next_command_still_read() -> None:
    session = FilterSession(macro_limit=1)
    session.receive(OFFER)
    session.next_command()
    session.negotiate(Options(6, 0, 0))
    session.receive(b"\0\0\0\x0aDCa\x001\0b\x002\0" + FRAMES["C"])
    with pytest.raises(LimitExceeded):
        session.next_command()
    assert isinstance(session.next_command(), Connect)


def test_malformed_macros_are_refused() -> None:
    session = negotiated()
    session.receive(b"\0\0\0\x04DCj\0")
    with pytest.raises(RemoteProtocolError, match="Macros"):
        session.next_command()


# --- a new SMTP session on the same connection -----------------------------------------------------------------------


def test_new_smtp_session_keeps_the_agreement_and_nothing_else() -> None:
    session = walked("CHMRTNE", steps=Step.NOHELO)
    session.reply(Continue())
    assert feed(session, "K") == QuitNc()
    assert session.state is State.OPTNEG
    assert session.agreement == Options(6, ALL_ACTIONS, Step.NOHELO)
    session.macros.clear()
    assert isinstance(feed(session, "C"), Connect)


# --- memory ----------------------------------------------------------------------------------------------------------


def held(data: bytes) -> int:
    """Return how many bytes a session holds after it has read and forgotten these."""
    tracemalloc.start()
    try:
        session = FilterSession()
        session.receive(data)
        with suppress(RemoteProtocolError):  # to refuse is as good as to forget
            if session.next_command() is not None:
                session.negotiate(Options(6, 0, 0))
        del data
        current, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return current


def test_announced_length_is_not_allocated() -> None:
    assert held(b"\0\x0f\xff\xffO") < 10_000


def test_offer_stuffed_with_macro_lists_is_not_held_many_times_its_size() -> None:
    records = b"".join(stage.to_bytes(4, "big") + b"\0" for stage in range(10_000))
    payload = b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff" + records
    frame = (len(payload) + 1).to_bytes(4, "big") + b"O" + payload
    assert held(frame) < 2 * len(frame)


def test_command_names_are_not_mixed_up_with_answers() -> None:
    assert walked("CHA").command == Command.ABORT
