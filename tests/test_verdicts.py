from __future__ import annotations

from typing import Any

import pytest

from pmilter import Context, Reply, Status
from tests.support.playbook import (
    CLIENT,
    COMMANDS,
    ENVELOPE,
    PLAIN,
    QUIET,
    Playbook,
    filter_of,
    raises,
    returns,
)

SILENT = r"""
>> C client.example.com␀U
>> H client.example.com␀
"""
"""Connect and HELO where no answer is asked for."""

VERDICTS = [
    (Status.REJECT, "r"),
    (Status.TEMPFAIL, "t"),
    (Status.ACCEPT, "a"),
    (Status.DISCARD, "d"),
    (Reply(451, "4.7.1", "100% later"), "y 451 4.7.1 100%% later␀"),
]


def end_message(playbook: Playbook, stage: str, answer: str) -> None:
    """Go from a stage to the end of the message, which shall have this answer."""
    if stage == "envfrom":
        assert playbook.send("R", b"<b@example.org>\0").answers() in (["c"], [])
    playbook.play(f">> E\n<< {answer}")


# --- at stages with an answer


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize(("verdict", "answer"), VERDICTS)
def test_verdict_is_the_answer_at_its_stage(stage: str, verdict: Any, answer: str) -> None:
    milter = filter_of({stage: returns(verdict)})
    playbook = Playbook(milter).play(PLAIN)
    if verdict is Status.DISCARD and stage in {"connect", "helo"}:
        answer = "t"
    if verdict in (Status.ACCEPT, Status.DISCARD) and stage == "unknown":
        answer = "c"  # the MTA would take it for a verdict on the message to come
    assert playbook.reach(milter, stage) == [answer]
    assert not playbook.ended


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize("result", [None, Status.CONTINUE])
def test_none_means_continue(stage: str, result: object) -> None:
    milter = filter_of({stage: returns(result)})
    playbook = Playbook(milter).play(PLAIN)
    assert playbook.reach(milter, stage) == ["c"]


@pytest.mark.parametrize("stage", ["envfrom", "data", "header", "eoh", "body"])
@pytest.mark.parametrize(("verdict", "answer"), VERDICTS)
def test_what_still_arrives_of_a_decided_message_has_the_same_answer_and_is_not_shown(
    stage: str, verdict: object, answer: str
) -> None:
    later = {name: raises(AssertionError(name)) for name in ("eom", "abort")}
    milter = filter_of({**later, stage: returns(verdict)})
    playbook = Playbook(milter).play(PLAIN)
    assert playbook.reach(milter, stage) == [answer]
    assert playbook.play(f">> E\n<< {answer}\n>> A\n>> Q\n<< EOF").calls == [playbook.calls[0]]


@pytest.mark.parametrize("verdict", [Status.REJECT, Status.TEMPFAIL, Reply(550, None, "no")])
def test_refused_recipient_is_refused_alone(verdict: object) -> None:
    seen: list[object] = []

    def envrcpt(ctx: Context, rcpt: str, *_: str) -> object:
        return verdict if rcpt == "<bad@example.org>" else None

    def eom(ctx: Context) -> None:
        seen.append(ctx.recipients)

    playbook = Playbook(filter_of({"envrcpt": envrcpt, "eom": eom}))
    playbook.play(CLIENT + ENVELOPE)
    assert playbook.send("R", b"<bad@example.org>\0").answers() != ["c"]
    playbook.play(">> R <c@example.org>␀\n<< c\n>> E\n<< c")
    assert seen == [["<b@example.org>", "<c@example.org>"]]


@pytest.mark.parametrize(("verdict", "answer"), [(Status.ACCEPT, "a"), (Status.DISCARD, "d")])
def test_accept_and_discard_at_a_recipient_concern_the_message(
    verdict: object, answer: str
) -> None:
    playbook = Playbook(filter_of({"envrcpt": returns(verdict), "eom": returns(Status.REJECT)}))
    playbook.play(
        rf"""{CLIENT}
        >> M <a@example.com>␀
        << c
        >> R <b@example.org>␀
        << {answer}
        >> R <c@example.org>␀
        << {answer}
        >> E
        << {answer}"""
    )
    assert playbook.calls == [("envrcpt", "<b@example.org>")]


def test_verdict_on_an_unknown_command_leaves_the_message_alone() -> None:
    playbook = Playbook(filter_of({"unknown": returns(Reply(502, "5.5.2", "no such thing"))}))
    playbook.play(
        rf"""{CLIENT}{ENVELOPE}
        >> U FROB␀
        << y 502 5.5.2 no such thing␀
        >> R <c@example.org>␀
        << c
        >> E
        << c"""
    )


# --- at stages without an answer


@pytest.mark.parametrize("stage", ["envfrom", "envrcpt", "data", "header", "eoh", "body"])
@pytest.mark.parametrize(("verdict", "answer"), VERDICTS)
def test_verdict_at_a_noreply_stage_is_given_at_the_next_command_that_has_a_reply(
    stage: str, verdict: object, answer: str
) -> None:
    milter = filter_of(
        {stage: returns(verdict), "eom": raises(AssertionError("shown"))}, noreply=[stage]
    )
    playbook = Playbook(milter).play(QUIET)
    assert playbook.reach(milter, stage) == []
    end_message(playbook, stage, answer)


@pytest.mark.parametrize("stage", ["envfrom", "envrcpt", "header", "body"])
def test_where_the_mta_waits_all_the_same_the_library_answers_for_a_noreply_stage(
    stage: str,
) -> None:
    milter = filter_of({stage: returns(Status.REJECT)}, noreply=[stage])
    playbook = Playbook(milter).play(PLAIN)
    assert playbook.reach(milter, stage) == ["c"]
    end_message(playbook, stage, "r")


@pytest.mark.parametrize("stage", ["envfrom", "header", "body"])
def test_exception_at_a_noreply_stage_is_kept_as_its_fallback(stage: str) -> None:
    milter = filter_of(
        {stage: raises(ValueError("broken"))}, noreply=[stage], fallback={stage: Status.REJECT}
    )
    playbook = Playbook(milter).play(QUIET)
    assert playbook.reach(milter, stage) == []
    end_message(playbook, stage, "r")


def test_setreply_at_a_noreply_stage_is_kept_with_its_verdict() -> None:
    def header(ctx: Context, _name: str, _value: str) -> Status:
        ctx.setreply(554, "5.7.1", "spam")
        return Status.REJECT

    milter = filter_of({"header": header}, noreply=["header"])
    playbook = Playbook(milter).play(QUIET)
    playbook.reach(milter, "header")
    playbook.play(">> E\n<< y 554 5.7.1 spam␀")


@pytest.mark.parametrize("stage", ["envfrom", "envrcpt"])
@pytest.mark.parametrize("offer", [PLAIN, QUIET])
def test_kept_verdict_is_never_given_at_another_recipient(stage: str, offer: str) -> None:
    def envrcpt(ctx: Context, rcpt: str, *_: str) -> Status | None:
        return Status.REJECT if rcpt == "<b@example.org>" else None

    refuses = {"envfrom": returns(Status.REJECT), "envrcpt": envrcpt}
    others = {"unknown": returns(None), "data": returns(None)}
    milter = filter_of({**others, stage: refuses[stage]}, noreply=[stage])
    playbook = Playbook(milter).play(offer)
    playbook.reach(milter, "envrcpt")
    assert playbook.send("R", b"<c@example.org>\0").answers() in ([], ["c"])
    playbook.play(">> U FROB␀\n<< c\n>> T\n<< r")


def test_kept_verdict_ends_with_its_message() -> None:
    playbook = Playbook(filter_of({"header": returns(Status.REJECT)}, noreply=["header"]))
    playbook.play(
        rf"""{QUIET}{SILENT}
        >> M <a@example.com>␀
        >> R <b@example.org>␀
        >> L Subject␀hello␀
        >> A
        >> M <a@example.com>␀
        >> R <b@example.org>␀
        >> E
        << c"""
    )


@pytest.mark.parametrize("stage", ["connect", "helo"])
def test_verdict_kept_at_a_stage_of_the_connection_is_given_at_the_first_reply(stage: str) -> None:
    milter = filter_of({stage: returns(Status.REJECT), "envfrom": returns(None)}, noreply=[stage])
    Playbook(milter).play(QUIET + SILENT + ">> M <a@example.com>␀\n<< r")


@pytest.mark.parametrize("result", [Status.NOREPLY, Status.CONTINUE, None])
def test_noreply_callback_without_a_verdict(result: object) -> None:
    milter = filter_of({"header": returns(result), "eom": returns(None)}, noreply=["header"])
    for offer in (PLAIN, QUIET):
        playbook = Playbook(milter).play(offer)
        assert playbook.reach(milter, "header") in (["c"], [])
        playbook.play(">> E\n<< c")


# --- skip


def test_skip_is_sent_where_the_mta_has_it() -> None:
    playbook = Playbook(filter_of({"body": returns(Status.SKIP)}))
    playbook.play(CLIENT + ENVELOPE + ">> B one\n<< s\n>> E\n<< c")


BODIES = rf"""{ENVELOPE}
>> B one
<< c
>> B two
<< c
>> E
<< c
"""


def test_where_the_mta_lacks_skip_the_library_goes_on_and_shows_no_more_body() -> None:
    playbook = Playbook(filter_of({"body": returns(Status.SKIP), "eom": returns(None)}))
    playbook.play(CLIENT.replace("77f", "37f") + BODIES + BODIES)
    assert playbook.calls == [("body", b"one"), ("eom",)] * 2


def test_skip_from_a_noreply_body() -> None:
    milter = filter_of({"body": returns(Status.SKIP), "eom": returns(None)}, noreply=["body"])
    playbook = Playbook(milter)
    playbook.play(
        rf"""{QUIET}{SILENT}
        >> M <a@example.com>␀
        >> R <b@example.org>␀
        >> B one
        >> B two
        >> E
        << c"""
    )
    assert playbook.calls == [("body", b"one"), ("eom",)]


# --- what a filter may not return


ILLEGAL = [
    *[(stage, Status.SKIP) for stage in COMMANDS if stage != "body"],
    *[(stage, Status.NOREPLY) for stage in COMMANDS],
    *[(stage, Status.ALL_OPTS) for stage in COMMANDS],
    ("connect", Status.DISCARD),
    ("helo", Status.DISCARD),
    *[
        ("envrcpt", wrong)
        for wrong in (0, 1, 100, 101, True, "CONTINUE", "", b"", [], {}, object())
    ],
    ("eom", lambda: None),
]


@pytest.mark.parametrize(("stage", "result"), ILLEGAL)
def test_what_may_not_be_returned_counts_as_an_exception(
    stage: str, result: object, caplog: pytest.LogCaptureFixture
) -> None:
    milter = filter_of({stage: returns(result)}, fallback={stage: Status.REJECT})
    playbook = Playbook(milter).play(PLAIN)
    assert playbook.reach(milter, stage) == ["r"]
    assert not playbook.ended
    (line,) = caplog.messages
    assert f"the {stage} callback returned {result!r}" in line
    assert "REJECT" in line
