"""Commands out, answers in, before any policy: negotiation, macros beside commands, verdicts, time limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pmilter.client import POSTFIX, SENDMAIL, GivenMacros
from pmilter.client.exchange import Exchange, Verdict
from pmilter.effects import Receive, Send
from pmilter.errors import ConnectionClosed, LimitExceeded, NegotiationError, RemoteProtocolError
from pmilter.protocol.constants import Command, Family, Status, Step
from pmilter.protocol.messages import Abort, Connect, Helo, Mail, Rcpt
from tests.client.mta_script import ALL, OFFER, Script

if TYPE_CHECKING:
    from pmilter.client import Dialect


def test_open_returns_the_agreement() -> None:
    made, player = Exchange(POSTFIX), Script(ALL)
    agreement = player.run(made.open())
    assert (agreement.version, agreement.actions, agreement.steps) == (6, 0x1FF, Step.SKIP)


@pytest.mark.parametrize("dialect", [POSTFIX, SENDMAIL])
def test_answer_above_the_offer_fails_the_negotiation(dialect: Dialect) -> None:
    with pytest.raises(NegotiationError):
        Script(OFFER + "<< O 7 1ff 0").run(Exchange(dialect).open())


def test_steps_not_offered_fail_with_sendmail() -> None:
    made = Exchange(SENDMAIL, SENDMAIL.offer(2))
    with pytest.raises(NegotiationError):
        Script(">> O 2 3f 7f\n<< O 2 3f 400").run(made.open())


def test_steps_not_offered_are_honoured_by_postfix() -> None:
    made = Exchange(POSTFIX, POSTFIX.offer(2))
    agreement = Script(">> O 2 1ff 7f\n<< O 2 1ff 401").run(made.open())
    assert agreement.steps & Step.NOCONNECT
    assert agreement.steps & Step.SKIP


def test_end_of_file_in_negotiation_raises() -> None:
    with pytest.raises(ConnectionClosed, match="negotiate"):
        Script(OFFER + "<< EOF").run(Exchange(POSTFIX).open())


def opened(
    script: str, negotiation: str = ALL, dialect: Dialect = SENDMAIL
) -> tuple[Exchange, Script]:
    """An exchange after connect, and the script for the rest."""
    made = Exchange(dialect, timeouts={"helo": 30.0})
    made.macros.give(GivenMacros({"connect": {}, "helo": {}, "envfrom": {}, "envrcpt": {}}))
    player = Script(f"{negotiation}>> D C\n>> C x␀U\n<< c\n{script}")
    player.run(made.open())
    player.run(made.ask(Connect(b"x", Family.UNKNOWN)))
    return made, player


def test_nothing_is_agreed_before() -> None:
    made = Exchange(POSTFIX)
    assert made.steps == Step(0)
    assert not made.knows(Command.MAIL)


@pytest.mark.parametrize(
    ("version", "unknown", "data"),
    [(2, False, False), (3, True, False), (4, True, True), (6, True, True)],
)
def test_commands_of_a_version(version: int, unknown: bool, data: bool) -> None:
    made, _ = opened("", f"{OFFER}<< O {version} 0 0\n")
    assert (made.knows(Command.UNKNOWN), made.knows(Command.DATA)) == (unknown, data)


def test_answer_in_pieces_is_one_verdict() -> None:
    made, _ = opened("")
    steps = made.ask(Helo(b"x"))
    assert isinstance(next(steps), Send)
    assert isinstance(next(steps), Receive)
    frame = b"\x00\x00\x00\x0ey550 5.7.1 no\x00"
    for byte in frame[:-1]:
        assert isinstance(steps.send(bytes((byte,))), Receive)
    with pytest.raises(StopIteration) as stop:
        steps.send(frame[-1:])
    assert stop.value.value == Verdict(Status.REJECT, "helo", "550 5.7.1 no")


def test_command_without_an_answer() -> None:
    made, player = opened(">> A")
    player.run(made.tell(Abort()))
    player.finish()


def test_macros_alone() -> None:
    made, player = opened(">> D R")
    player.run(made.tell_macros(Command.RCPT))
    player.finish()


@pytest.mark.parametrize("answer", ["z", "c x", "O 6 0 0", "h A␀1␀", "4"])
def test_answer_that_is_none_raises(answer: str) -> None:
    made, player = opened(f">> D H\n>> H x␀\n<< {answer}")
    with pytest.raises(RemoteProtocolError):
        player.run(made.ask(Helo(b"x")))


def test_command_larger_than_a_frame_is_not_sent() -> None:
    made, player = opened(">> D M\n>> M <a@x>␀\n<< c\n")
    player.run(made.ask(Mail(b"<a@x>")))
    with pytest.raises(LimitExceeded):
        player.run(made.ask(Rcpt(b"<b@y>", [b"X" * 1000] * 100)))


def test_time_limits_are_those_of_the_stage() -> None:
    made, _ = opened("")
    waiting = made.ask(Helo(b"x"))
    next(waiting)
    effect = next(waiting)
    assert isinstance(effect, Receive)
    assert effect.timeout == 30.0
