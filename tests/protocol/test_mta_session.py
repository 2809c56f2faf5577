"""The MTA's end of a connection, answered with bytes written by hand."""

from __future__ import annotations

import pytest

from pmilter.errors import LimitExceeded, LocalProtocolError, NegotiationError, RemoteProtocolError
from pmilter.protocol.constants import Action, Command, Family, Step
from pmilter.protocol.messages import (
    Abort,
    Accept,
    AddHeader,
    Body,
    Connect,
    Continue,
    Data,
    Discard,
    Eoh,
    Eom,
    Header,
    Helo,
    Macros,
    Mail,
    Message,
    Options,
    Progress,
    Quit,
    QuitNc,
    Rcpt,
    Reject,
    ReplBody,
    ReplyCode,
    Skip,
    Tempfail,
    Unknown,
)
from pmilter.protocol.mta_session import MAX_CHANGE_BYTES, MAX_CHANGES, MtaSession
from pmilter.protocol.rules import State

OFFER = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
C = b"\0\0\0\x01c"
ADD_HEADER = b"\0\0\0\x05hX\0v\0"

COMMANDS: dict[str, Message] = {
    "C": Connect(b"localhost", Family.UNKNOWN),
    "H": Helo(b"mx"),
    "M": Mail(b"<a@b>"),
    "R": Rcpt(b"<c@d>"),
    "T": Data(),
    "U": Unknown(b"FROB"),
    "L": Header(b"X", b"v"),
    "N": Eoh(),
    "B": Body(b"x\r\n"),
    "E": Eom(),
    "A": Abort(),
    "Q": Quit(),
    "K": QuitNc(),
}


def options(version: int, actions: int, steps: int) -> bytes:
    words = b"".join(word.to_bytes(4, "big") for word in (version, actions, steps))
    return b"\0\0\0\x0dO" + words


def negotiated(
    session: MtaSession, steps: int = 0, actions: int = 0xFF, version: int = 6
) -> MtaSession:
    session.open()
    session.receive(options(version, actions, steps))
    session.next_answer()
    session.take()
    return session


def walked(letters: str, steps: int = 0, actions: int = 0xFF, **limits: int) -> MtaSession:
    """Return a session that sent these commands and got `c` for all but the last."""
    session = negotiated(MtaSession(**limits), steps, actions)  # type: ignore[arg-type]  # numbers only
    for letter in letters[:-1]:
        session.send(COMMANDS[letter])
        if session.reply_due:
            session.receive(C)
            session.next_answer()
    if letters:
        session.send(COMMANDS[letters[-1]])
    session.take()
    return session


def refusal(session: MtaSession, data: bytes) -> RemoteProtocolError:
    session.receive(data)
    with pytest.raises(RemoteProtocolError) as caught:
        session.next_answer()
    return caught.value


# --- negotiation -----------------------------------------------------------------------------------------------------


def test_offer_opens_the_connection_and_waits_for_an_answer() -> None:
    session = MtaSession()
    session.open()
    assert session.take() == OFFER
    assert session.reply_due
    assert session.state is State.OPTNEG


def test_offer_can_be_chosen() -> None:
    session = MtaSession(Options(2, 0x3F, 0x7F))
    session.open()
    assert session.take() == options(2, 0x3F, 0x7F)


def test_answer_is_the_agreement() -> None:
    session = MtaSession()
    session.open()
    session.receive(options(6, 0x11, 0x100))
    assert session.next_answer() == Options(6, 0x11, 0x100)
    assert session.agreement == Options(6, 0x11, 0x100)
    assert not session.reply_due


def test_old_answer_switches_off_what_its_version_does_not_know() -> None:
    session = negotiated(MtaSession(), version=2)
    assert session.agreement == Options(2, 0xFF, 0x300)


@pytest.mark.parametrize(
    "answer", [options(7, 0, 0), options(1, 0, 0), options(6, 0x400, 0), options(6, 0, 0x80000000)]
)
def test_answer_that_breaks_the_offer_is_refused(answer: bytes) -> None:
    session = MtaSession()
    session.open()
    session.receive(answer)
    with pytest.raises(NegotiationError):
        session.next_answer()
    assert session.agreement is None


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("data", [C, b"\0\0\0\x01a", b"\0\0\0\x01p", ADD_HEADER, b"\0\0\0\x01s"])
def test_nothing_but_options_answers_the_offer(data: bytes, strict: bool) -> None:
    session = MtaSession(strict=strict)
    session.open()
    refusal(session, data)
    assert session.agreement is None


def test_filter_that_speaks_first_is_refused() -> None:
    assert refusal(MtaSession(), options(6, 0, 0)).state == "START"


def test_second_negotiation_cannot_be_sent() -> None:
    session = walked("")
    with pytest.raises(LocalProtocolError):
        session.open()
    assert session.take() == b""


def test_second_answer_to_the_offer_is_refused() -> None:
    refusal(walked(""), options(6, 0, 0))


def test_lenient_session_honours_steps_that_were_not_offered() -> None:
    session = MtaSession(Options(6, 0x1FF, 0x7F), strict=False)
    session.open()
    session.receive(options(6, 0, Step.NR_CONN))
    session.next_answer()
    session.send(COMMANDS["C"])
    assert not session.reply_due


# --- sending ---------------------------------------------------------------------------------------------------------


def test_whole_dialogue_moves_through_all_states() -> None:
    session = walked("")
    seen = []
    for letter in "CHMRTLNBE":
        session.send(COMMANDS[letter])
        session.receive(C)
        assert session.next_answer() == Continue()
        seen.append(session.state.name)
    assert seen == ["CONNECT", "HELO", "MAIL", "RCPT", "DATA", "HEADER", "EOH", "BODY", "IDLE"]


def test_sent_commands_are_whole_frames() -> None:
    session = walked("C")
    session.receive(C)
    session.next_answer()
    session.send(Macros(Command.HELO, [(b"a", b"b")]))
    session.send(Helo(b"mx"))
    assert session.take() == b"\0\0\0\x06DHa\0b\0\0\0\0\x04Hmx\0"
    assert session.take() == b""


@pytest.mark.parametrize(
    ("letters", "letter"),
    [("", "M"), ("C", "C"), ("C", "R"), ("C", "E"), ("CM", "T"), ("CMR", "L"), ("CMRT", "B"), ("CMRTN", "L"),
     ("CMRTNBE", "B"), ("CQ", "A"), ("CQ", "Q")],
)  # fmt: skip
def test_command_out_of_order_is_not_sent(letters: str, letter: str) -> None:
    session = walked(letters)
    if session.reply_due:
        session.receive(C)
        session.next_answer()
    with pytest.raises(LocalProtocolError) as caught:
        session.send(COMMANDS[letter])
    assert caught.value.state == session.state.name
    assert session.take() == b""


@pytest.mark.parametrize("letter", "CMHQA")
def test_nothing_is_sent_before_the_negotiation_but_quit(letter: str) -> None:
    session = MtaSession()
    if letter == "Q":
        session.send(COMMANDS[letter])
        assert session.take() == b"\0\0\0\x01Q"
    else:
        with pytest.raises(LocalProtocolError):
            session.send(COMMANDS[letter])


@pytest.mark.parametrize("command", [Helo(b"mx"), Quit(), Macros(Command.HELO), Abort()], ids=repr)
def test_nothing_is_sent_while_a_reply_is_due(command: Message) -> None:
    session = walked("C")
    with pytest.raises(LocalProtocolError, match="still due"):
        session.send(command)
    assert session.take() == b""


@pytest.mark.parametrize("message", [Continue(), AddHeader(b"X", b"v"), Accept()], ids=repr)
def test_answers_are_no_commands(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match="no command"):
        walked("").send(message)


def test_command_as_large_as_allowed_is_sent() -> None:
    session = walked("CMRTN")
    session.receive(C)
    session.next_answer()
    session.send(Body(b"x" * 65535))
    assert len(session.take()) == 65540


def test_command_larger_than_allowed_is_not_sent() -> None:
    session = walked("CMRTN")
    session.receive(C)
    session.next_answer()
    with pytest.raises(LimitExceeded) as caught:
        session.send(Body(b"x" * 65536))
    assert (caught.value.limit, caught.value.size) == (65535, 65536)
    assert session.take() == b""
    assert session.state is State.EOH


def test_command_with_a_nul_is_not_sent() -> None:
    session = walked("")
    with pytest.raises(LocalProtocolError):
        session.send(Connect(b"a\0b", Family.UNKNOWN))
    assert session.take() == b""
    assert session.state is State.OPTNEG


def test_abort_ends_a_message_and_nothing_else() -> None:
    assert walked("CMRA").state is State.IDLE
    assert walked("CHA").state is State.HELO
    assert walked("CA").state is State.CONNECT


def test_new_smtp_session_starts_again_after_the_negotiation() -> None:
    assert walked("CHK").state is State.OPTNEG
    again = walked("CHKC")
    assert again.state is State.CONNECT
    assert again.agreement == Options(6, 0xFF, 0)


@pytest.mark.parametrize(
    ("letter", "bit"),
    [("C", 0x1), ("H", 0x2), ("M", 0x4), ("R", 0x8), ("B", 0x10), ("L", 0x20), ("N", 0x40), ("U", 0x100), ("T", 0x200)],
)  # fmt: skip
def test_session_knows_what_the_filter_wants(letter: str, bit: int) -> None:
    wanted = {chr(c) for c in COMMANDS_WITH_BIT if walked("", steps=bit).wants(c)}
    assert wanted == {chr(c) for c in COMMANDS_WITH_BIT} - {letter}


COMMANDS_WITH_BIT = [ord(letter) for letter in "CHMRBLNUT"]


def test_old_version_does_not_want_what_it_does_not_know() -> None:
    session = negotiated(MtaSession(), version=3)
    assert session.wants(Command.UNKNOWN)
    assert not session.wants(Command.DATA)
    assert not session.wants(Command.QUIT_NC)


def test_everything_is_wanted_before_the_negotiation() -> None:
    assert MtaSession().wants(Command.DATA)


def test_step_that_was_switched_off_is_not_sent() -> None:
    session = walked("C", steps=Step.NOHELO)
    session.receive(C)
    session.next_answer()
    with pytest.raises(LocalProtocolError):
        session.send(Helo(b"mx"))
    assert session.take() == b""


# --- answers ---------------------------------------------------------------------------------------------------------


def test_answer_comes_when_it_is_whole() -> None:
    session = walked("C")
    seen = []
    for piece in (C[:3], C[3:], b""):
        session.receive(piece)
        seen.append((session.next_answer(), session.reply_due))
    assert seen == [(None, True), (Continue(), False), (None, False)]


@pytest.mark.parametrize("letters", ["", "CHA", "CK"])
def test_answer_that_came_unasked_is_refused(letters: str) -> None:
    assert "unasked" in str(refusal(walked(letters), C))


def test_second_answer_is_refused() -> None:
    session = walked("C")
    session.receive(C + b"\0\0\0\x01a")
    session.next_answer()
    with pytest.raises(RemoteProtocolError, match="unasked"):
        session.next_answer()


def test_second_answer_is_not_taken_for_the_answer_to_the_next_command() -> None:
    session = walked("CM")
    session.receive(C + b"\0\0\0\x01a")
    session.next_answer()
    with pytest.raises(RemoteProtocolError):
        session.send(Rcpt(b"<c@d>"))
    assert session.take() == b""


@pytest.mark.parametrize(
    ("letters", "bit"),
    [("C", 0x1000), ("CH", 0x2000), ("CHM", 0x4000), ("CHMR", 0x8000), ("CHMRT", 0x10000), ("CU", 0x20000),
     ("CHMRTN", 0x40000), ("CHMRTNB", 0x80000), ("CHMRTL", 0x80)],
)  # fmt: skip
def test_answer_to_a_silent_step_is_refused(letters: str, bit: int) -> None:
    session = walked(letters, steps=bit)
    assert not session.reply_due
    refusal(session, C)


@pytest.mark.parametrize("letters", ["C", "CH", "CM", "CMR", "CMRT", "CMRTL", "CMRTN", "CMRTNE"])
def test_skip_is_refused_everywhere_but_at_the_body(letters: str) -> None:
    refusal(walked(letters, steps=Step.SKIP), b"\0\0\0\x01s")


def test_skip_at_the_body_needs_its_bit() -> None:
    refusal(walked("CMRTNB"), b"\0\0\0\x01s")
    session = walked("CMRTNB", steps=Step.SKIP)
    session.receive(b"\0\0\0\x01s")
    assert session.next_answer() == Skip()
    assert session.state is State.BODY


@pytest.mark.parametrize("letters", ["C", "CH"])
def test_discard_of_a_connection_is_refused(letters: str) -> None:
    refusal(walked(letters), b"\0\0\0\x01d")


@pytest.mark.parametrize("data", [b"\0\0\0\x01f", b"\0\0\0\x014"])
@pytest.mark.parametrize("letters", ["C", "CM", "CMRTNE"])
def test_answers_that_nobody_honours_are_refused(letters: str, data: bytes) -> None:
    refusal(walked(letters), data)


@pytest.mark.parametrize(
    "data", [b"\0\0\0\x01Z", b"\0\0\0\x01l", b"\0\0\0\x02c\0", b"\0\0\0\x02h\0", b"\0\0\0\0c"]
)
def test_malformed_answers_are_refused(data: bytes) -> None:
    refusal(walked("CMRTNE"), data)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xffc", b"\x7f\xff\xff\xffc"])
def test_answer_of_a_huge_size_is_refused_at_once(data: bytes) -> None:
    assert "limit is 1048575" in str(refusal(walked("C"), data))


def test_frame_limit_is_obeyed() -> None:
    refusal(negotiated(MtaSession(frame_limit=65535)), b"\0\x01\0\x01b")


@pytest.mark.parametrize(
    ("letters", "data", "answer", "state"),
    [
        ("C", b"\0\0\0\x01r", Reject(), State.CONNECT),
        ("CM", b"\0\0\0\x01r", Reject(), State.DECIDED),
        ("CMR", b"\0\0\0\x01r", Reject(), State.RCPT),
        ("CMR", b"\0\0\0\x01d", Discard(), State.DECIDED),
        ("CMRT", b"\0\0\0\x08y450 no\0", ReplyCode(b"450 no"), State.DECIDED),
        ("CMRTNE", b"\0\0\0\x01a", Accept(), State.IDLE),
        ("CMU", b"\0\0\0\x01t", Tempfail(), State.MAIL),
        ("CMU", b"\0\0\0\x01a", Accept(), State.DECIDED),
    ],
)  # fmt: skip
def test_verdicts_decide(letters: str, data: bytes, answer: Message, state: State) -> None:
    session = walked(letters)
    session.receive(data)
    assert session.next_answer() == answer
    assert session.state is state


@pytest.mark.parametrize("letter", "RTLNBE")
def test_rest_of_a_decided_message_may_still_be_sent(letter: str) -> None:
    session = walked("CMRT")
    session.receive(b"\0\0\0\x01r")
    session.next_answer()
    session.send(COMMANDS[letter])
    session.receive(b"\0\0\0\x01r")
    session.next_answer()
    assert session.state is (State.IDLE if letter == "E" else State.DECIDED)


def test_nothing_counts_after_quit() -> None:
    session = walked("CQ")
    session.receive(C + b"\0\0\0\0\0")
    assert session.next_answer() is None
    assert session.state is State.CLOSED


def test_refusal_names_answer_and_state() -> None:
    error = refusal(walked("CM"), ADD_HEADER)
    assert (error.command, error.state) == ("AddHeader", "MAIL")


# --- changes ---------------------------------------------------------------------------------------------------------

CHANGES = {
    0x01: ADD_HEADER,
    0x02: b"\0\0\0\x01b",
    0x04: b"\0\0\0\x07+<a@b>\0",
    0x08: b"\0\0\0\x07-<a@b>\0",
    0x10: b"\0\0\0\x08m\0\0\0\x01X\0\0",
    0x20: b"\0\0\0\x05qwhy\0",
    0x40: b"\0\0\0\x07e<a@b>\0",
    0x80: b"\0\0\0\x072<a@b>\0",
}


def test_changes_and_progress_leave_the_answer_due() -> None:
    session = walked("CMRTNE")
    session.receive(ADD_HEADER + b"\0\0\0\x01p" + b"\0\0\0\x04bnew" + b"\0\0\0\x01a")
    answers = []
    while session.reply_due:
        answers.append(session.next_answer())
    assert answers == [AddHeader(b"X", b"v"), Progress(), ReplBody(b"new"), Accept()]
    assert session.state is State.IDLE


@pytest.mark.parametrize(("action", "data"), CHANGES.items(), ids=repr)
def test_change_needs_its_own_action_and_no_other(action: int, data: bytes) -> None:
    granted = walked("CMRTNE", actions=action)
    granted.receive(data)
    assert granted.next_answer() is not None
    assert "was not agreed" in str(refusal(walked("CMRTNE", actions=0xFF & ~action), data))


def test_insert_header_needs_the_action_of_add_header() -> None:
    data = b"\0\0\0\x09i\0\0\0\x01X\0v\0"
    refusal(walked("CMRTNE", actions=0xFE), data)


@pytest.mark.parametrize(
    "letters", ["C", "CH", "CM", "CMR", "CMRT", "CMRTL", "CMRTN", "CMRTNB", "CU"]
)
@pytest.mark.parametrize("data", CHANGES.values(), ids=repr)
def test_change_before_the_end_of_message_is_refused(letters: str, data: bytes) -> None:
    assert "before end of message" in str(refusal(walked(letters), data))


def test_change_after_the_final_answer_is_refused() -> None:
    session = walked("CMRTNE")
    session.receive(b"\0\0\0\x01a" + ADD_HEADER)
    session.next_answer()
    with pytest.raises(RemoteProtocolError):
        session.next_answer()


@pytest.mark.parametrize("letters", ["C", "CM", "CMRTNB"])
def test_progress_before_the_end_of_message_is_a_question_of_strictness(letters: str) -> None:
    assert "before end of message" in str(refusal(walked(letters), b"\0\0\0\x01p"))
    lenient = walked(letters, strict=False)
    lenient.receive(b"\0\0\0\x01p")
    assert lenient.next_answer() == Progress()
    assert lenient.reply_due


def test_as_many_changes_as_the_limit_are_taken() -> None:
    session = walked("CMRTNE", max_changes=3)
    session.receive(ADD_HEADER * 3 + b"\0\0\0\x01c")
    while session.reply_due:
        session.next_answer()
    assert session.state is State.IDLE


def test_more_changes_than_the_limit_are_refused() -> None:
    session = walked("CMRTNE", max_changes=2)
    session.receive(ADD_HEADER * 3)
    session.next_answer()
    session.next_answer()
    with pytest.raises(LimitExceeded) as caught:
        session.next_answer()
    assert caught.value.limit == 2


def test_more_bytes_of_changes_than_the_limit_are_refused() -> None:
    session = walked("CMRTNE", max_change_bytes=25)
    session.receive(b"\0\0\0\x0bb0123456789" * 3)
    with pytest.raises(LimitExceeded) as caught:
        take_all(session)
    assert caught.value.limit == 25


def take_all(session: MtaSession) -> None:
    while session.next_answer() is not None:
        pass


def test_replacement_bodies_do_not_count_as_changes_but_as_bytes() -> None:
    session = walked("CMRTNE", max_changes=1)
    session.receive(b"\0\0\0\x04bnew" * 5 + C)
    while session.reply_due:
        session.next_answer()
    assert session.state is State.IDLE


def test_endless_empty_replacement_bodies_meet_a_limit() -> None:
    session = walked("CMRTNE", max_changes=10, max_change_bytes=100)
    session.receive(b"\0\0\0\x01b" * 1000)
    with pytest.raises(LimitExceeded):
        take_all(session)


def test_limits_count_for_each_message_anew() -> None:
    session = walked("CMRTNE", max_changes=1, max_change_bytes=10)
    for _ in range(3):
        session.receive(ADD_HEADER + C)
        while session.reply_due:
            session.next_answer()
        for letter in "MRTN":
            session.send(COMMANDS[letter])
            session.receive(C)
            session.next_answer()
        session.send(COMMANDS["E"])
    assert session.state is State.EOM


def test_default_limits() -> None:
    assert (MAX_CHANGES, MAX_CHANGE_BYTES) == (10_000, 64 * 1024 * 1024)


def test_actions_are_flags() -> None:
    agreement = walked("", actions=0x11).agreement
    assert agreement is not None
    assert agreement.actions == Action.ADDHDRS | Action.CHGHDRS
