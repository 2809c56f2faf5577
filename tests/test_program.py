from __future__ import annotations

from typing import Any

import pytest

from pmilter import Action, NegotiationError, Options, Status, Step
from pmilter.program import VERDICTS, Program
from pmilter.protocol import offer
from pmilter.protocol.constants import Command
from pmilter.protocol.rules import RULES
from pmilter.protocol.terms import terms
from tests.support.playbook import COMMANDS, filter_of, returns

POSTFIX = Options(6, Action(0x1FF), Step(0x1FFFFF))


def program(*stages: str, **options: Any) -> Program:
    return Program(filter_of({stage: returns(None) for stage in stages}, **options).plan())


def test_every_command_with_an_answer_has_a_stage() -> None:
    compiled = program()
    stages = {code: stage for code, stage in compiled.stages.items() if stage is not None}
    assert {stage.name for stage in stages.values()} | {compiled.eom.name} == set(COMMANDS)
    assert all(code == stage.command for code, stage in stages.items())


def test_stages_can_be_looked_up_for_every_command_there_is() -> None:
    assert program().stages.keys() == RULES.keys()


def test_callbacks_without_an_answer_stand_apart() -> None:
    compiled = program("negotiate", "abort", "close")
    assert all((compiled.negotiate, compiled.abort, compiled.close))
    assert not any(stage.function for stage in compiled.stages.values() if stage is not None)
    bare = program()
    assert (bare.negotiate, bare.abort, bare.close) == (None, None, None)


COMMON = {Status.CONTINUE, Status.ACCEPT, Status.REJECT, Status.TEMPFAIL}


@pytest.mark.parametrize(
    ("command", "legal"),
    [
        (Command.CONNECT, COMMON),
        (Command.HELO, COMMON),
        (Command.MAIL, COMMON | {Status.DISCARD}),
        (Command.RCPT, COMMON | {Status.DISCARD}),
        (Command.DATA, COMMON | {Status.DISCARD}),
        (Command.UNKNOWN, COMMON | {Status.DISCARD}),
        (Command.HEADER, COMMON | {Status.DISCARD}),
        (Command.EOH, COMMON | {Status.DISCARD}),
        (Command.BODY, COMMON | {Status.DISCARD, Status.SKIP}),
    ],
)
def test_what_a_stage_may_return(command: Command, legal: set[Status]) -> None:
    name = RULES[command].name
    assert may_return(program(name), command) == legal
    quiet = filter_of({name: returns(None)}, noreply=[name])
    assert may_return(Program(quiet.plan()), command) == legal | {Status.NOREPLY}


def may_return(compiled: Program, command: Command) -> set[Status]:
    stage = compiled.stages[command]
    assert stage is not None
    return set(stage.legal)


def test_what_eom_may_return() -> None:
    assert set(program("eom").eom.legal) == COMMON | {Status.DISCARD}


def test_every_status_but_all_opts_has_a_message() -> None:
    assert set(VERDICTS) == set(Status) - {Status.ALL_OPTS}


def test_choice_is_the_wish_within_the_offer() -> None:
    compiled = program("eom", keep=(), actions=Action.ADDHDRS)
    assert compiled.choose(POSTFIX) == Options(6, Action.ADDHDRS, Step(0x37F))
    assert compiled.choose(Options(2, 0, 0x7F)) == Options(2, 0, 0x7F)


def test_offer_of_version_1_is_refused() -> None:
    with pytest.raises(NegotiationError) as caught:
        program("eom").choose(Options(1, 0xF, 0x3F))
    assert caught.value.offered == Options(1, 0xF, 0x3F)


def test_what_is_missing_is_said_once_an_offer(caplog: pytest.LogCaptureFixture) -> None:
    compiled = program("eom", actions=Action.QUARANTINE, steps=Step.HDR_LEADSPC)
    for _ in range(3):
        compiled.choose(Options(2, 0x1F, 0x7F))
        compiled.choose(POSTFIX)
    actions, steps = caplog.messages
    assert "QUARANTINE" in actions
    assert "HDR_LEADSPC" in steps


def test_strange_offers_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    compiled = program("eom", actions=Action.QUARANTINE)
    for number in range(300):
        compiled.choose(Options(6, 0, number))
    assert len(caplog.records) <= 16


def test_what_is_prepared_is_there_for_the_first_connection() -> None:
    prepared = program("helo")
    prepared.prepare()
    misses = terms.cache_info().misses
    agreed = prepared.choose(offer())
    terms(agreed.version, int(agreed.steps))
    assert terms.cache_info().misses == misses
