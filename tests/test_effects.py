"""What a dispatcher is asked to do, in order: the contract between conversations and those who perform them."""

from __future__ import annotations

from typing import Any

import pytest

from pmilter import Milter, Status
from pmilter.conversation import Conversation
from pmilter.effects import Call, Receive, call_at_once
from pmilter.outcomes import CallFailed
from pmilter.program import Program
from tests.support.notation import parse
from tests.support.playbook import filter_of, raises, returns


def conversation(milter: Milter) -> Any:
    return Conversation(Program(milter.plan())).run()


def test_effects_of_one_command() -> None:
    function = returns(Status.REJECT)
    talk = conversation(filter_of({"helo": function}, keep=()))
    receive = next(talk)
    assert isinstance(receive, Receive)
    assert receive.timeout == 60.0

    answer = talk.send(parse("O 6 1ff 77f"))
    assert isinstance(answer, Receive)
    assert answer.answer == parse("O 6 0 37d")

    call = talk.send(parse("H x␀"))
    assert isinstance(call, Call)
    assert (call.function, call.stage, call.arguments[1:]) == (function, "helo", ("x",))

    answer = talk.send(call.function(*call.arguments))
    assert isinstance(answer, Receive)
    assert answer.answer == parse("r")


def test_end_of_file_ends_the_conversation_by_returning() -> None:
    talk = conversation(filter_of({"helo": returns(None)}))
    next(talk)
    assert next(iter_sends(talk, b""), None) is None


def iter_sends(talk: Any, data: bytes) -> Any:
    try:
        yield talk.send(data)
    except StopIteration:
        return


def test_conversation_that_is_dropped_runs_nothing_more() -> None:
    milter = filter_of({"connect": returns(None), "close": returns(None)})
    talk = conversation(milter)
    next(talk)
    talk.send(parse("O 6 1ff 77f"))
    call = talk.send(parse("C x␀U"))
    assert call.stage == "connect"
    talk.close()


@pytest.mark.parametrize("error", [ValueError(), GeneratorExit(), KeyboardInterrupt()])
def test_whatever_a_callback_raises_at_once_arrives_whole(error: BaseException) -> None:
    call = Call()
    call.function, call.arguments = raises(error), ()
    with pytest.raises(CallFailed) as caught:
        call_at_once(call)
    assert caught.value.error is error


def test_call_at_once_returns_what_the_callback_returns() -> None:
    call = Call()
    call.function, call.arguments = (lambda *arguments: arguments), (1, 2)
    assert call_at_once(call) == (1, 2)
