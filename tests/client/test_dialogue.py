"""One SMTP session: what each MTA sends at each stage, and what an answer does to the rest of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pmilter.client import POSTFIX, SENDMAIL, Dialogue, Field, GivenMacros, Verdict, parse_peer
from pmilter.errors import ConnectionClosed, RemoteProtocolError
from pmilter.protocol.constants import Status
from tests.client.mta_script import ALL, OFFER, Script

if TYPE_CHECKING:
    from pmilter.client import Dialect

CLIENT = parse_peer(("client.example.org", "192.0.2.10", 0x3039))

QUIET: dict[str, Any] = {
    "connect": {},
    "helo": {},
    "envfrom": {},
    "envrcpt": {},
    "eom": {},
    "i": None,
}
"""No macros: each packet that an MTA sends is the stage alone."""

C = r">> C client.example.org␀4\x30\x39192.0.2.10␀"


def dialogue(dialect: Dialect, macros: dict[str, Any] | None = None) -> Dialogue:
    made = Dialogue(dialect)
    made.macros.give(GivenMacros(QUIET if macros is None else macros))
    return made


def opened(dialect: Dialect, script: str, negotiation: str = ALL) -> tuple[Dialogue, Script]:
    """A dialogue after HELO, and the script for the rest."""
    made = dialogue(dialect)
    player = Script(f"{negotiation}>> D C\n{C}\n<< c\n>> D H\n>> H client␀\n<< c\n{script}")
    player.run(made.open())
    player.run(made.connect(CLIENT.connect(dialect)))
    player.run(made.helo(b"client"))
    return made, player


def in_message(dialect: Dialect, script: str, negotiation: str = ALL) -> tuple[Dialogue, Script]:
    """A dialogue with a sender and a recipient, and the script for the rest."""
    begin = ">> D M\n>> M <a@x>␀\n<< c\n>> D R\n>> R <b@y>␀\n<< c\n"
    made, player = opened(dialect, begin + script, negotiation)
    player.run(made.mail(b"<a@x>"))
    player.run(made.rcpt(b"<b@y>"))
    return made, player


# --- who gets which command


def test_switched_off_steps_are_not_sent_but_their_macros_are() -> None:
    made = dialogue(POSTFIX)
    player = Script(
        OFFER
        + "<< O 6 0 7f\n>> D C\n>> D H\n>> D M\n>> D R\n>> D T\n>> T\n<< c\n>> D E\n>> E\n<< c"
    )
    for step in (
        made.open(), made.connect(CLIENT.connect(POSTFIX)), made.helo(b"client"), made.mail(b"<a@x>"), made.rcpt(b"<b@y>"),
        made.data(), made.header(Field(b"A", b" 1")), made.eoh(), made.body(b"text"), made.eom(),
    ):  # fmt: skip
        player.run(step)
    player.finish()


@pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL])
def test_version_3_gets_unknown_and_no_data(dialect: Dialect) -> None:
    macros = ">> D U\n" if dialect is POSTFIX else ""
    made, player = in_message(dialect, macros + ">> U FROB␀\n<< c", OFFER + "<< O 3 1f 0\n")
    player.run(made.unknown(b"FROB"))
    assert player.run(made.data()) == Verdict(Status.CONTINUE, "data")
    player.finish()


@pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL])
def test_version_2_gets_neither_unknown_nor_data(dialect: Dialect) -> None:
    made, player = in_message(dialect, "", OFFER + "<< O 2 1f 0\n")
    player.run(made.unknown(b"FROB"))
    player.run(made.data())
    player.finish()


def test_no_answer_is_awaited_where_the_filter_promised_none() -> None:
    negotiation = OFFER + "<< O 6 1ff 8000\n"
    made, player = opened(
        SENDMAIL, ">> D M\n>> M <a@x>␀\n<< c\n>> D R\n>> R <b@y>␀\n>> T\n<< c", negotiation
    )
    player.run(made.mail(b"<a@x>"))
    player.run(made.rcpt(b"<b@y>"))
    player.run(made.data())
    player.finish()


def test_parameters_are_strings_of_their_own() -> None:
    made, player = opened(SENDMAIL, ">> D M\n>> M <a@x>␀SIZE=10␀BODY=8BITMIME␀\n<< c")
    player.run(made.mail(b"<a@x>", [b"SIZE=10", b"BODY=8BITMIME"]))
    player.finish()


def test_postfix_shows_the_verb_of_an_unknown_command() -> None:
    made, player = opened(POSTFIX, ">> D U\n>> U FROB␀\n<< c")
    player.run(made.unknown(b"FROB one two"))
    player.finish()


def test_sendmail_shows_all_of_an_unknown_command() -> None:
    made, player = opened(SENDMAIL, ">> U FROB one two␀\n<< c")
    player.run(made.unknown(b"FROB one two"))
    player.finish()


def test_sendmail_hides_unknown_commands_between_messages() -> None:
    made, player = in_message(SENDMAIL, ">> T\n<< c\n>> N\n<< c\n>> D E\n>> E\n<< c")
    for step in (made.data(), made.eoh(), made.eom(), made.reset(), made.unknown(b"FROB")):
        player.run(step)
    player.finish()


# --- header and body


def test_one_leading_space_is_removed() -> None:
    made, player = in_message(SENDMAIL, ">> T\n<< c\n>> L A␀ two␀\n<< c\n>> L B␀\\ttab␀\n<< c")
    player.run(made.data())
    player.run(made.header(Field(b"A", b"  two")))
    player.run(made.header(Field(b"B", b"\ttab")))
    player.finish()


def test_leading_space_stays_with_hdr_leadspc() -> None:
    negotiation = OFFER + "<< O 6 1ff 100000\n"
    made, player = in_message(SENDMAIL, ">> T\n<< c\n>> L A␀ one␀\n<< c", negotiation)
    player.run(made.data())
    player.run(made.header(Field(b"A", b" one")))
    player.finish()


def content_begun(script: str, negotiation: str = ALL) -> tuple[Dialogue, Script]:
    made, player = in_message(SENDMAIL, ">> T\n<< c\n>> N\n<< c\n" + script, negotiation)
    player.run(made.data())
    player.run(made.eoh())
    return made, player


def test_body_is_cut_at_65535_bytes() -> None:
    made, player = content_begun(f">> B {'x' * 65535}\n<< c\n>> B xy\n<< c")
    player.run(made.body(b"x" * 65536 + b"y"))
    player.finish()


def test_body_of_exactly_one_chunk_has_no_empty_one_after_it() -> None:
    made, player = content_begun(f">> B {'x' * 65535}\n<< c")
    player.run(made.body(b"x" * 65535))
    player.finish()


def test_empty_body_is_no_body() -> None:
    made, player = content_begun("")
    assert player.run(made.body(b"")).status is Status.CONTINUE
    player.finish()


def test_skip_ends_the_body_and_eom_follows() -> None:
    made, player = content_begun(f">> B {'x' * 65535}\n<< s\n>> D E\n>> E\n<< c")
    assert player.run(made.body(b"x" * 200_000)).status is Status.SKIP
    assert player.run(made.eom()) == Verdict(Status.CONTINUE, "eom")
    player.finish()


def test_skip_that_was_not_agreed_raises() -> None:
    made, player = content_begun(">> B x\n<< s", OFFER + "<< O 6 1ff 0\n")
    with pytest.raises(RemoteProtocolError):
        player.run(made.body(b"x"))


def test_changes_and_progress_precede_the_answer_at_eom() -> None:
    made, player = content_begun(">> D E\n>> E\n<< p\n<< h X-A␀1␀\n<< p\n<< b new\n<< a")
    assert player.run(made.eom()).status is Status.ACCEPT
    assert [type(change).__name__ for change in made.changes] == ["AddHeader", "ReplBody"]
    player.finish()


def test_changes_are_forgotten_at_the_next_message() -> None:
    made, player = content_begun(">> D E\n>> E\n<< h X-A␀1␀\n<< c\n>> D M\n>> M <c@x>␀\n<< c")
    player.run(made.eom())
    player.run(made.mail(b"<c@x>"))
    assert made.changes == []


def test_change_without_a_grant_raises() -> None:
    made, player = content_begun(">> D E\n>> E\n<< h X-A␀1␀", OFFER + "<< O 6 10 0\n")
    with pytest.raises(RemoteProtocolError, match="AddHeader"):
        player.run(made.eom())


def test_progress_before_eom_is_an_error_for_sendmail() -> None:
    made, player = opened(SENDMAIL, ">> D M\n>> M <a@x>␀\n<< p\n<< c")
    with pytest.raises(RemoteProtocolError):
        player.run(made.mail(b"<a@x>"))


def test_progress_before_eom_is_fine_for_postfix() -> None:
    made, player = opened(POSTFIX, ">> D M\n>> M <a@x>␀\n<< p\n<< c")
    assert player.run(made.mail(b"<a@x>")).status is Status.CONTINUE


# --- verdicts


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("a", Verdict(Status.ACCEPT, "envfrom")),
        ("r", Verdict(Status.REJECT, "envfrom")),
        ("t", Verdict(Status.TEMPFAIL, "envfrom")),
        ("d", Verdict(Status.DISCARD, "envfrom")),
        ("y 550 5.7.1 no␀", Verdict(Status.REJECT, "envfrom", "550 5.7.1 no")),
        ("y 451 4.7.1 100%% sure␀", Verdict(Status.TEMPFAIL, "envfrom", "451 4.7.1 100% sure")),
        (
            r"y 550-5.7.1 one\r\n550 5.7.1 two␀",
            Verdict(Status.REJECT, "envfrom", "550-5.7.1 one\n550 5.7.1 two"),
        ),
    ],
)
def test_answer_at_mail(answer: str, verdict: Verdict) -> None:
    made, player = opened(SENDMAIL, f">> D M\n>> M <a@x>␀\n<< {answer}")
    assert player.run(made.mail(b"<a@x>")) == verdict
    player.run(made.rcpt(b"<b@y>"))  # nothing more is shown of this message
    player.finish()


def test_refused_recipient_does_not_end_the_message() -> None:
    made, player = in_message(SENDMAIL, ">> D R\n>> R <c@y>␀\n<< r\n>> D R\n>> R <d@y>␀\n<< c")
    assert player.run(made.rcpt(b"<c@y>")).status is Status.REJECT
    assert player.run(made.rcpt(b"<d@y>")).status is Status.CONTINUE
    player.finish()


CONNECT_PARTINGS = [
    (POSTFIX, "a", ">> CLOSE"),
    (POSTFIX, "r", ">> CLOSE"),
    (POSTFIX, "y 421 4.7.0 bye␀", ">> CLOSE"),
    (SENDMAIL, "a", ">> Q\n>> CLOSE"),
    (SENDMAIL, "t", ">> Q\n>> CLOSE"),
    (SENDMAIL, "y 550 5.7.1 no␀", ">> Q\n>> CLOSE"),
]


@pytest.mark.parametrize(("dialect", "answer", "parting"), CONNECT_PARTINGS)
def test_verdict_at_connect_stands_and_ends_the_connection(
    dialect: Dialect, answer: str, parting: str
) -> None:
    made = dialogue(dialect)
    player = Script(f"{ALL}>> D C\n{C}\n<< {answer}\n{parting}")
    player.run(made.open())
    verdict = player.run(made.connect(CLIENT.connect(dialect)))
    player.finish()
    assert made.standing == verdict
    assert made.closed
    player.run(made.mail(b"<a@x>"))
    player.run(made.quit())  # nothing is sent any more


HELO_PARTINGS = [
    (POSTFIX, "r", ">> CLOSE", ""),
    (POSTFIX, "a", ">> CLOSE", ""),
    (SENDMAIL, "a", ">> Q\n>> CLOSE", ""),
    (SENDMAIL, "r", "", ">> Q\n>> CLOSE"),
    (SENDMAIL, "y 450 4.7.1 later␀", "", ">> Q\n>> CLOSE"),
    (SENDMAIL, "y 421 4.7.1 bye␀", ">> Q\n>> CLOSE", ""),
]


@pytest.mark.parametrize(("dialect", "answer", "at_once", "at_quit"), HELO_PARTINGS)
def test_verdict_at_helo_stands(dialect: Dialect, answer: str, at_once: str, at_quit: str) -> None:
    made = dialogue(dialect)
    player = Script(f"{ALL}>> D C\n{C}\n<< c\n>> D H\n>> H x␀\n<< {answer}\n{at_once}\n{at_quit}")
    player.run(made.open())
    player.run(made.connect(CLIENT.connect(dialect)))
    player.run(made.helo(b"x"))
    assert made.closed is bool(at_once)
    player.run(made.mail(b"<a@x>"))
    player.run(made.quit())
    player.finish()


def test_standing_refusal_is_the_answer_to_mail() -> None:
    made = dialogue(SENDMAIL)
    player = Script(f"{ALL}>> D C\n{C}\n<< y 550 5.7.1 no␀\n>> Q\n>> CLOSE")
    player.run(made.open())
    player.run(made.connect(CLIENT.connect(SENDMAIL)))
    assert player.run(made.mail(b"<a@x>")) == Verdict(Status.REJECT, "connect", "550 5.7.1 no")


@pytest.mark.parametrize(("dialect", "end"), [(POSTFIX, ">> A\n>> A\n>> Q"), (SENDMAIL, ">> Q")])
def test_421_ends_the_session(dialect: Dialect, end: str) -> None:
    made, player = in_message(dialect, f">> D R\n>> R <c@y>␀\n<< y 421 4.7.0 bye␀\n{end}\n>> CLOSE")
    verdict = player.run(made.rcpt(b"<c@y>"))
    assert verdict.hangs_up
    assert verdict.status is Status.TEMPFAIL
    player.finish()


# --- aborts and the end


def test_postfix_aborts_every_message_and_the_session() -> None:
    end = ">> D T\n>> T\n<< c\n>> D N\n>> N\n<< c\n>> D E\n>> E\n<< c\n>> A\n>> A\n>> Q\n>> CLOSE"
    made, player = in_message(POSTFIX, end)
    for step in (made.data(), made.eoh(), made.eom(), made.reset(), made.quit()):
        player.run(step)
    player.finish()


def test_sendmail_aborts_no_finished_message() -> None:
    made, player = in_message(
        SENDMAIL, ">> T\n<< c\n>> N\n<< c\n>> D E\n>> E\n<< c\n>> Q\n>> CLOSE"
    )
    for step in (made.data(), made.eoh(), made.eom(), made.reset(), made.quit()):
        player.run(step)
    player.finish()


def test_postfix_aborts_nothing_without_helo_and_message() -> None:
    made = dialogue(POSTFIX)
    player = Script(f"{ALL}>> D C\n{C}\n<< c\n>> Q\n>> CLOSE")
    for step in (made.open(), made.connect(CLIENT.connect(POSTFIX)), made.reset(), made.quit()):
        player.run(step)
    player.finish()


@pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL])
def test_reset_aborts_an_open_message_once(dialect: Dialect) -> None:
    made, player = in_message(dialect, ">> A")
    player.run(made.reset())
    player.run(made.reset())
    player.finish()


def test_sendmail_aborts_no_message_that_mail_was_not_answered_for() -> None:
    made, player = opened(SENDMAIL, ">> D M\n>> M <a@x>␀", OFFER + "<< O 6 1ff 4000\n")
    player.run(made.mail(b"<a@x>"))
    player.run(made.reset())
    player.finish()


def test_postfix_aborts_after_a_refused_sender() -> None:
    made, player = opened(POSTFIX, ">> D M\n>> M <a@x>␀\n<< r\n>> A\n>> D M\n>> M <b@x>␀\n<< c")
    player.run(made.mail(b"<a@x>"))
    player.run(made.mail(b"<b@x>"))
    player.finish()


def test_sendmail_says_nothing_after_a_refused_sender() -> None:
    made, player = opened(SENDMAIL, ">> D M\n>> M <a@x>␀\n<< r\n>> D M\n>> M <b@x>␀\n<< c")
    player.run(made.mail(b"<a@x>"))
    player.run(made.mail(b"<b@x>"))
    player.finish()


def test_second_helo_in_a_message_comes_before_the_aborts_of_postfix() -> None:
    made, player = in_message(POSTFIX, ">> D H\n>> H again␀\n<< c\n>> A\n>> A")
    player.run(made.helo(b"again"))
    player.finish()


def test_second_helo_in_a_message_comes_after_the_abort_of_sendmail() -> None:
    made, player = in_message(SENDMAIL, ">> A\n>> D H\n>> H again␀\n<< c")
    player.run(made.helo(b"again"))
    player.finish()


def test_close_says_nothing_and_quit_after_it_neither() -> None:
    made, player = in_message(POSTFIX, ">> CLOSE")
    player.run(made.close())
    player.run(made.close())
    player.run(made.quit())
    player.finish()


@pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL])
def test_filter_that_closes_raises_with_the_stage(dialect: Dialect) -> None:
    made, player = opened(dialect, ">> D M\n>> M <a@x>␀\n<< EOF")
    with pytest.raises(ConnectionClosed, match="envfrom"):
        player.run(made.mail(b"<a@x>"))
    assert made.stage == "envfrom"


# --- recipients that the MTA refuses


def test_refused_recipient_is_shown_where_the_filter_asked_for_it() -> None:
    made = dialogue(POSTFIX, {key: value for key, value in QUIET.items() if key != "envrcpt"})
    player = Script(
        OFFER + "<< O 6 1ff 802\n>> D C\n" + C + "\n<< c\n>> D H\n>> D M\n>> M <a@x>␀\n<< c\n"
        ">> D R{rcpt_addr}␀User unknown␀{rcpt_host}␀5.1.1␀{rcpt_mailer}␀error␀\n>> R <b@y>␀\n<< c"
    )
    for step in (
        made.open(), made.connect(CLIENT.connect(POSTFIX)), made.helo(b"x"), made.mail(b"<a@x>"),
        made.rcpt(b"<b@y>", (), "550 5.1.1 User unknown"),
    ):  # fmt: skip
        player.run(step)
    player.finish()


@pytest.mark.parametrize(("dialect", "shown"), [(POSTFIX, ""), (SENDMAIL, ">> D R")])
def test_refused_recipient_is_not_shown_otherwise(dialect: Dialect, shown: str) -> None:
    made, player = in_message(dialect, shown)
    verdict = player.run(made.rcpt(b"<c@y>", (), "550 5.1.1 User unknown"))
    assert verdict.status is Status.CONTINUE
    player.finish()
