from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import (
    Action,
    Context,
    Limits,
    MacroStage,
    Milter,
    Options,
    Reply,
    Status,
    Step,
)
from pmilter.conversation import Conversation
from pmilter.effects import Call, Late, Receive, Send, call_at_once
from pmilter.outcomes import CallTimedOut
from pmilter.program import Program
from pmilter.service import Service
from tests.support.notation import frame, parse
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

if TYPE_CHECKING:
    from collections.abc import Callable

FALLBACK_ANSWERS = [
    (Status.TEMPFAIL, "t"),
    (Status.REJECT, "r"),
    (Status.ACCEPT, "a"),
    (Status.CONTINUE, "c"),
    ("shutdown", "y 421 4.7.0 Service not available, closing transmission channel␀"),
]


def everything(**others: Callable[..., Any]) -> Milter:
    """Return a filter with a callback for every stage, all of which go on."""
    quiet = {stage: returns(None) for stage in (*COMMANDS, "abort", "close")}
    return filter_of(quiet | others)


# --- negotiation


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("6 1ff 1fffff", "6 1 537a"),
        ("7 3ff ffffffff", "6 1 537a"),
        ("6 1ff 77f", "6 1 37a"),
        ("6 0 0", "6 0 0"),
        ("5 1ff 37f", "5 1 37a"),
        ("4 1ff 37f", "4 1 37a"),
        ("3 1ff 17f", "3 1 17a"),
        ("2 3f 7f", "2 1 7a"),
    ],
)
def test_answer_never_claims_what_was_not_offered(offer: str, answer: str) -> None:
    milter = filter_of({"eom": returns(None)}, actions=Action.ADDHDRS, keep=("connect", "envfrom"))
    Playbook(milter).play(f">> O {offer}\n<< O {answer}")


@pytest.mark.parametrize(
    ("stage", "off", "noreply"),
    [
        ("connect", 0x1, 0x1000),
        ("helo", 0x2, 0x2000),
        ("envfrom", 0x4, 0x4000),
        ("envrcpt", 0x8, 0x8000),
        ("body", 0x10, 0x80000),
        ("header", 0x20, 0x80),
        ("eoh", 0x40, 0x40000),
        ("unknown", 0x100, 0x20000),
        ("data", 0x200, 0x10000),
    ],
)
def test_each_stage_is_asked_for_by_its_callback(stage: str, off: int, noreply: int) -> None:
    alone = 0x37F & ~off | (0x400 if stage == "body" else 0)
    script = ">> O 6 1ff 1fffff\n<< O 6 0 "
    milter = filter_of({stage: returns(None)}, keep=())
    Playbook(milter).play(f"{script}{alone:x}")
    milter = filter_of({stage: returns(None)}, keep=(), noreply=[stage])
    Playbook(milter).play(f"{script}{alone | noreply:x}")
    if stage in {"connect", "helo", "envfrom", "envrcpt"}:
        milter = filter_of({"eom": returns(None)}, keep=(stage,))
        Playbook(milter).play(f"{script}{alone | noreply:x}")


def test_macros_of_callbacks_are_asked_for() -> None:
    milter = Milter(keep=())
    milter.on("envrcpt", macros="rcpt_addr")(lambda *_: None)
    milter.on("eom", macros=["i", "{auth_type}"])(returns(None))
    Playbook(milter).play(
        ">> O 6 1ff 1fffff\n"
        r"<< O 6 100 377+␀␀␀\x03{rcpt_addr}␀␀␀␀\x05i {auth_type}␀␀␀␀\x06i {auth_type}␀"
    )
    Playbook(milter).play(">> O 6 ff 1fffff\n<< O 6 0 377")


def test_macros_of_two_callbacks_that_share_a_list_are_all_asked_for() -> None:
    milter = Milter(keep=())
    milter.on("header", macros="a")(lambda *_: None)
    milter.on("eoh", macros="b")(returns(None))
    (answer,) = Playbook(milter).receive(parse("O 6 1ff 1fffff")).answers()
    assert {"a", "b"} <= set(answer.replace("␀", " ").replace(r"\x06", "").split("+")[1].split())


def test_mta_of_version_1_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    playbook = Playbook(everything()).play(">> O 1 f 3f\n<< EOF")
    assert playbook.calls == []
    assert "version 1" in caplog.text


@pytest.mark.parametrize(
    ("missing", "said"), [(Action.QUARANTINE, "QUARANTINE"), (Action.CHGFROM, "CHGFROM")]
)
def test_action_that_is_not_offered_is_left_out_and_said_once(
    missing: Action, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    program = Program(filter_of({"eom": returns(None)}, actions=Action(0x1FF)).plan())
    left = 0x1FF & ~missing
    for _ in range(3):
        Playbook(program).play(f">> O 6 {left:x} 77f\n<< O 6 {left:x} 370")
    (line,) = caplog.messages
    assert said in line
    assert "test" in line


# --- the negotiate callback


def own(result: object) -> Milter:
    return filter_of(
        {"negotiate": returns(result), "envrcpt": returns(None)},
        actions=Action.ADDHDRS,
        keep=(),
    )


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (None, "6 1 377"),
        (Status.CONTINUE, "6 1 377"),
        (Status.ALL_OPTS, "6 1ff 377"),
        (Options(6, Action.CHGBODY, Step.NOBODY), "6 2 10"),
        (Options(2, 0, 0), "2 0 0"),
        (Options(6, 0, 0, {0: b"j"}), "6 0 0"),
        (Options(6, 0x100, 0, {0: b"j"}), "6 100 0+␀␀␀␀j␀"),
    ],
)
def test_negotiate_may_answer_for_itself(
    result: object, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    playbook = Playbook(own(result)).play(f">> O 6 1ff 1fffff\n<< O {answer}")
    choice = Options(6, 1, 0x377)
    assert playbook.calls == [("negotiate", Options(6, 0x1FF, 0x1FFFFF), choice)]
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


def test_all_opts_takes_what_is_offered_only() -> None:
    Playbook(own(Status.ALL_OPTS)).play(">> O 6 3f 7f\n<< O 6 3f 77")


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        (Options(6, 0x1FF, 0), "6 3f 0"),
        (Options(6, 0, 0x1FFFFF), "6 0 7f"),
        (Options(7, 0, 0), "6 0 0"),
        (Options(0, 0, 0), "2 0 0"),
        (Options(6, 0x100, 0, {0: b"j"}), "6 0 0"),
    ],
)
def test_bits_outside_the_offer_are_dropped_with_one_warning(
    result: Options, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    Playbook(own(result)).play(f">> O 6 3f 7f\n<< O {answer}")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING


FAILURES = [
    raises(ValueError("broken")),
    raises(SystemExit(1)),
    returns(5),
    returns(Status.REJECT),
    returns("CONTINUE"),
    returns((6, 0, 0)),
]


@pytest.mark.parametrize("negotiate", FAILURES)
@pytest.mark.parametrize(("fallback", "answer"), FALLBACK_ANSWERS)
def test_where_negotiate_fails_the_first_command_gets_the_fallback(
    negotiate: Callable[..., Any], fallback: Any, answer: str
) -> None:
    milter = filter_of(
        {"negotiate": negotiate, "connect": returns(None), "envfrom": returns(None)},
        fallback={"negotiate": fallback},
        actions=Action.ADDHDRS,
    )
    playbook = Playbook(milter)
    playbook.play(f">> O 6 1ff 77f\n<< O 6 1 370\n>> C x␀U\n<< {answer}")
    playbook.play(">> M <a@x>␀\n<< c")
    assert playbook.calls[-1] == ("envfrom", "<a@x>")


def test_where_negotiate_fails_only_the_first_command_is_not_shown() -> None:
    milter = everything(negotiate=raises(ValueError("broken")))
    playbook = Playbook(milter).play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< t\n>> H x␀\n<< c")
    assert [call[0] for call in playbook.calls] == ["negotiate", "helo"]


def test_where_negotiate_fails_the_first_command_with_a_reply_is_meant() -> None:
    milter = filter_of({"negotiate": raises(ValueError("broken")), "data": returns(None)})
    Playbook(milter).play(
        ">> O 6 1ff 1fffff\n<< O *\n>> C x␀U\n>> H x␀\n>> M <a@x>␀\n>> R <b@x>␀\n>> T\n<< t"
    )


def test_where_negotiate_fails_nothing_of_what_it_asked_for_is_answered() -> None:
    def negotiate(ctx: Context, _offer: Options, _choice: Options) -> None:
        ctx.setsymlist("eom", "i")
        ctx.setreply(550, None, "text")
        raise ValueError("broken")

    milter = filter_of({"negotiate": negotiate, "connect": returns(Status.REJECT)}, keep=())
    Playbook(milter).play(">> O 6 1ff 1fffff\n<< O 6 0 37e\n>> C x␀U\n<< t")


@pytest.mark.parametrize(
    "options",
    [
        Options("6", 0, 0),  # type: ignore[arg-type]  # that is the point
        Options(6, 0, 0, None).replace(symlists={0: "j"}, actions=Action(0x100)),  # type: ignore[dict-item]  # that is the point
        Options(6, 0x100, 0, {0: b"a\0b"}),
        Options(6, 0x100, 0, {-1: b"a"}),
        Options(6, 0x100, 0, {0: b"x" * 70_000}),
    ],
)
def test_options_that_cannot_be_sent_count_as_a_failure(options: Options) -> None:
    playbook = Playbook(own(options)).play(">> O 6 1ff 77f\n<< O 6 1 377\n>> R <b@x>␀\n<< c")
    playbook.play(">> E\n<< t")


def test_options_may_switch_off_a_stage_that_has_a_callback() -> None:
    playbook = Playbook(own(Options(6, 0, 0x37F))).play(">> O 6 1ff 77f\n<< O 6 0 37f\n>> E\n<< c")
    assert [call[0] for call in playbook.calls] == ["negotiate"]


def test_options_may_take_away_the_reply_of_a_stage_whose_verdict_is_then_kept() -> None:
    milter = filter_of(
        {
            "negotiate": lambda _ctx, _offer, choice: choice.replace(
                steps=choice.steps | Step.NR_HDR
            ),
            "header": returns(Status.REJECT),
        },
        keep=(),
    )
    Playbook(milter).play(">> O 6 1ff 1fffff\n<< O 6 0 3df\n>> L A␀1␀\n>> E\n<< r")


def test_choice_that_one_connection_changes_is_not_that_of_the_next() -> None:
    choices: list[object] = []

    def negotiate(_ctx: Context, _offer: Options, choice: Options) -> Options:
        choices.append((choice.steps, dict(choice.symlists)))
        choice.steps = Step(0)
        choice.symlists[0] = b"j"
        return choice

    milter = filter_of({"negotiate": negotiate, "eom": returns(None)}, keep=())
    program = Program(milter.plan())
    for _ in range(2):
        Playbook(program).receive(parse("O 6 1ff 1fffff"))
    assert choices == [(Step(0x37F), {}), (Step(0x37F), {})]


# --- arguments


def test_callbacks_get_what_the_mta_sent_byte_for_byte() -> None:
    playbook = Playbook(everything())
    playbook.play(
        r"""
        >> O 6 1ff 77f
        << O *
        >> C mx.example.com␀4\x00\x19192.0.2.1␀
        << c
        >> H h\xff\xc3\xbc␀
        << c
        >> U FR\xffB x␀
        << c
        >> M <a\xff@x>␀SIZE=5␀BODY=8BITMIME␀
        << c
        >> R <>␀␀
        << c
        >> R b␀NOTIFY=NEVER␀
        << c
        >> T
        << c
        >> L X-\xff␀a\n \xffb␀
        << c
        >> L X-Nul␀a␀b␀
        << c
        >> L ␀␀
        << c
        >> N
        << c
        >> B \x00\r\n.\xff
        << c
        >> B
        << c
        >> E
        << c
        >> Q
        << EOF
        """
    )
    assert playbook.calls == [
        ("connect", "mx.example.com", ("192.0.2.1", 25)),
        ("helo", "h\udcffü"),
        ("unknown", "FR\udcffB x"),
        ("envfrom", "<a\udcff@x>", "SIZE=5", "BODY=8BITMIME"),
        ("envrcpt", "<>", ""),
        ("envrcpt", "b", "NOTIFY=NEVER"),
        ("data",),
        ("header", "X-\udcff", "a\n \udcffb"),
        ("header", "X-Nul", "a\x00b"),
        ("header", "", ""),
        ("eoh",),
        ("body", b"\x00\r\n.\xff"),
        ("body", b""),
        ("eom",),
        ("close",),
    ]


def test_eight_bit_values_survive_the_round_trip() -> None:
    junk = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")

    def eom(ctx: Context) -> None:
        ctx.addheader("X", ctx.state.value)
        ctx.addheader("Y", ctx.getsymval("x") or "")
        for address in (*(ctx.recipients or ()), ctx.sender or ""):
            ctx.addrcpt(address)

    def header(ctx: Context, _name: str, value: str) -> None:
        ctx.state.value = value

    playbook = Playbook(filter_of({"header": header, "eom": eom}, actions=Action(0x1FF)))
    playbook.play(CLIENT).send("M", b"<\x80\xff@x>\0")
    playbook.send("R", b"<\xe9\xc3\xa9@x>\0").send("L", b"X\0" + junk + b"\0")
    playbook.send("D", b"Ex\0" + junk + b"\0").answers()
    playbook.send("E")
    assert playbook.raw() == [
        frame("h", b"X\0" + junk + b"\0"),
        frame("h", b"Y\0" + junk + b"\0"),
        frame("+", b"<\xe9\xc3\xa9@x>\0"),
        frame("+", b"<\x80\xff@x>\0"),
        frame("c"),
    ]


def test_end_of_message_with_a_last_chunk_is_a_body_and_an_end() -> None:
    playbook = Playbook(everything()).play(CLIENT + ENVELOPE)
    for line in ("T", "L A␀1␀", "N", "B one"):
        playbook.receive(parse(line)).answers()
    playbook.play(">> E two\n<< c")
    assert playbook.calls[-2:] == [("body", b"two"), ("eom",)]


@pytest.mark.parametrize(
    ("body", "answer", "shown"),
    [
        (returns(None), "c", True),
        (returns(Status.SKIP), "c", True),
        (returns(Status.REJECT), "r", False),
        (returns(Reply(550, None, "no")), "y 550 no␀", False),
        (raises(ValueError("broken")), "t", False),
        (returns(5), "t", False),
        (returns([]), "t", False),
        (returns(Status.ALL_OPTS), "t", False),
    ],
)
def test_last_chunk_is_answered_once(
    body: Callable[..., Any], answer: str, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    playbook = Playbook(filter_of({"body": body, "eom": returns(None)}))
    playbook.play(CLIENT + ENVELOPE + f">> E two\n<< {answer}")
    assert (playbook.calls[-1] == ("eom",)) is shown
    assert "pmilter itself" not in caplog.text
    playbook.play(ENVELOPE)


def test_setreply_at_the_last_chunk_is_dropped_before_eom() -> None:
    def body(ctx: Context, _chunk: bytes) -> None:
        ctx.setreply(550, None, "text")

    playbook = Playbook(filter_of({"body": body, "eom": returns(Status.REJECT)}))
    playbook.play(CLIENT + ENVELOPE + ">> E two\n<< r")


@pytest.mark.parametrize(("fallback", "answer"), [(Status.CONTINUE, b"c"), (Status.TEMPFAIL, b"t")])
def test_eom_is_not_called_beside_a_body_callback_that_is_late_with_the_last_chunk(
    fallback: Status, answer: bytes
) -> None:
    milter = filter_of(
        {"body": returns(None), "eom": returns(Status.ACCEPT)}, keep=(), fallback=fallback
    )
    talk: Any = Conversation(Program(milter.plan())).run()
    next(talk)
    talk.send(parse("O 6 1ff 77f"))
    call = talk.send(parse("E last chunk"))
    assert call.stage == "body"
    effect = talk.throw(CallTimedOut("body", 1.0, Late()))
    assert isinstance(effect, Receive)
    assert effect.answer == frame(answer.decode())


# --- exceptions


def test_log_that_raises_keeps_no_answer_from_the_mta() -> None:
    def refuse(_: logging.LogRecord) -> bool:
        raise KeyError("in a filter of the log's")

    playbook = Playbook(filter_of({"helo": raises(ValueError()), "close": raises(ValueError())}))
    playbook.play(PLAIN + ">> C x␀U\n<< c")
    logger = logging.getLogger("pmilter")
    logger.addFilter(refuse)
    try:
        playbook.play(">> H x␀\n<< t\n>> Q\n<< EOF")
    finally:
        logger.removeFilter(refuse)


class OddError(BaseException):
    """Neither an Exception nor one of Python's own."""


ERRORS = [
    ValueError("broken"),
    SystemExit(1),
    KeyboardInterrupt(),
    StopIteration("stop"),
    asyncio.CancelledError(),
    OddError(),
    TimeoutError("slow"),
    ConnectionResetError("a peer of the filter's own"),
    RecursionError(),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("stage", ["connect", "header", "eom"])
def test_exception_is_logged_with_its_traceback_and_answered_with_the_fallback(
    error: BaseException, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    milter = filter_of({stage: raises(error)}, fallback={stage: Status.REJECT})
    playbook = Playbook(milter).play(PLAIN)
    assert playbook.reach(milter, stage) == ["r"]
    assert not playbook.ended
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert f"the {stage} callback failed, answering REJECT" in record.getMessage()


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize(("fallback", "answer"), FALLBACK_ANSWERS)
def test_every_stage_has_the_fallback_that_was_set(stage: str, fallback: Any, answer: str) -> None:
    for option in (fallback, {stage: fallback}):
        milter = filter_of({stage: raises(ValueError("broken"))}, fallback=option)
        playbook = Playbook(milter).play(PLAIN)
        # An acceptance of an unknown command would be taken for one of the message to come.
        expected = "c" if stage == "unknown" and answer == "a" else answer
        assert playbook.reach(milter, stage) == [expected]


def test_connection_stays_usable_after_an_exception() -> None:
    failing = {"<bad@x>": True}

    def envfrom(_ctx: Context, address: str, *_: str) -> None:
        if address in failing:
            raise ValueError("broken")

    Playbook(filter_of({"envfrom": envfrom})).play(
        CLIENT + ">> M <bad@x>␀\n<< t\n>> A\n" + ENVELOPE + ">> E\n<< c\n>> Q\n<< EOF"
    )


@pytest.mark.parametrize("stage", ["abort", "close"])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_exception_in_abort_or_close_is_logged_and_changes_nothing(
    stage: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    playbook = Playbook(filter_of({stage: raises(error), "envfrom": returns(None)}))
    playbook.play(CLIENT + ENVELOPE + ">> A\n" + ENVELOPE + ">> E\n<< c\n>> Q\n<< EOF")
    assert [call[0] for call in playbook.calls].count(stage) == 1
    assert [r.getMessage().partition("] ")[2] for r in caplog.records] == [
        f"the {stage} callback failed"
    ]


@pytest.mark.parametrize("stage", ["abort", "close"])
@pytest.mark.parametrize("result", [Status.REJECT, 5, Reply(550)])
def test_what_abort_and_close_return_is_ignored(
    stage: str, result: object, caplog: pytest.LogCaptureFixture
) -> None:
    playbook = Playbook(filter_of({stage: returns(result), "envfrom": returns(None)}))
    playbook.play(CLIENT + ENVELOPE + ">> A\n" + ENVELOPE + ">> E\n<< c\n>> Q\n<< EOF")
    assert caplog.messages == []


# --- abort and close


def ends(script: str, *, milter: Milter | None = None) -> list[object]:
    """Return the abort and close calls of a script."""
    playbook = Playbook(milter or everything()).play(CLIENT + script)
    return [call[0] for call in playbook.calls if call[0] in {"abort", "close"}]


DELIVERED = ENVELOPE + ">> T\n<< c\n>> N\n<< c\n>> E\n<< c\n"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (ENVELOPE + ">> A", ["abort"]),
        (ENVELOPE + ">> A\n>> A\n>> A", ["abort"]),
        (ENVELOPE + ">> A\n" + ENVELOPE + ">> A", ["abort", "abort"]),
        (DELIVERED + ">> A\n>> A", []),
        (DELIVERED + ">> A\n>> A\n>> Q\n<< EOF", ["close"]),
        (">> A", []),
        (ENVELOPE + ">> Q\n<< EOF", ["abort", "close"]),
        (ENVELOPE + ">> EOF\n<< EOF", ["abort", "close"]),
        (ENVELOPE + ">> T\n<< c\n>> L A␀1␀\n<< c\n>> EOF\n<< EOF", ["abort", "close"]),
        (ENVELOPE + ">> A\n>> Q\n<< EOF", ["abort", "close"]),
        (DELIVERED + ">> EOF\n<< EOF", ["close"]),
        (">> Q\n<< EOF", ["close"]),
        (">> EOF\n<< EOF", ["close"]),
        (ENVELOPE + ">> H again␀\n<< c\n>> A", ["abort"]),
        (ENVELOPE + ">> M <again@x>␀\n<< c", ["abort"]),
        (ENVELOPE + ">> U x␀\n<< c\n>> EOF\n<< EOF", ["abort", "close"]),
        (ENVELOPE + ">> K", ["abort", "close"]),
        (">> K", ["close"]),
        (DELIVERED + ">> K\n>> EOF\n<< EOF", ["close"]),
    ],
)
def test_abort_and_close_run_once(script: str, expected: list[str]) -> None:
    assert ends(script) == expected


@pytest.mark.parametrize("verdict", [Status.ACCEPT, Status.REJECT, Status.TEMPFAIL, Status.DISCARD])
@pytest.mark.parametrize("stage", ["envfrom", "data", "header", "eoh", "body", "eom"])
@pytest.mark.parametrize("end", [">> A\n", ">> A\n>> A\n>> Q\n<< EOF\n", ">> EOF\n<< EOF\n"])
def test_no_abort_for_a_message_that_a_verdict_ended(verdict: Status, stage: str, end: str) -> None:
    milter = filter_of({stage: returns(verdict), "abort": returns(None)})
    playbook = Playbook(milter).play(PLAIN)
    playbook.reach(milter, stage)
    playbook.play(end)
    assert ("abort",) not in playbook.calls


@pytest.mark.parametrize("verdict", [Status.REJECT, Status.TEMPFAIL])
def test_abort_after_refused_recipients(verdict: Status) -> None:
    milter = filter_of({"envrcpt": returns(verdict), "abort": returns(None)})
    playbook = Playbook(milter).play(PLAIN)
    playbook.reach(milter, "envrcpt")
    playbook.play(">> A\n>> A")
    assert playbook.calls.count(("abort",)) == 1


def test_abort_where_a_message_of_a_quiet_filter_ends_before_its_content() -> None:
    milter = filter_of({"envfrom": returns(None), "abort": returns(None)}, noreply=["envfrom"])
    playbook = Playbook(milter).play(QUIET)
    playbook.play(">> C x␀U\n>> H x␀\n>> M <a@x>␀\n>> R <b@x>␀\n>> M <c@x>␀")
    assert [call[0] for call in playbook.calls] == ["envfrom", "abort", "envfrom"]


def test_abort_still_sees_the_message_and_close_does_not() -> None:
    seen: list[tuple[object, ...]] = []

    def look(ctx: Context) -> None:
        seen.append((ctx.sender, ctx.recipients, ctx.hostname, vars(ctx.state)))

    def envfrom(ctx: Context, *_: str) -> None:
        ctx.state.mine = 1

    milter = filter_of({"envfrom": envfrom, "abort": look, "close": look})
    Playbook(milter).play(CLIENT + ENVELOPE + ">> EOF\n<< EOF")
    assert seen == [
        ("<a@example.com>", ["<b@example.org>"], "client.example.com", {"mine": 1}),
        (None, None, "client.example.com", {}),
    ]


def test_no_close_where_no_callback_ran() -> None:
    playbook = Playbook(filter_of({"eom": returns(None), "close": returns(None)}))
    playbook.play(CLIENT + ENVELOPE + ">> Q\n<< EOF")
    assert playbook.calls == []


def test_close_where_only_negotiate_ran() -> None:
    playbook = Playbook(filter_of({"negotiate": returns(None), "close": returns(None)}))
    playbook.play(PLAIN + ">> Q\n<< EOF")
    assert [call[0] for call in playbook.calls] == ["negotiate", "close"]


def test_nothing_is_sent_after_quit() -> None:
    playbook = Playbook(everything()).play(CLIENT)
    playbook.receive(parse("Q") + parse("M <a@x>␀"))
    assert playbook.ended
    assert playbook.answers() == []
    assert playbook.calls[-1] == ("close",)


def test_lost_connection_runs_abort_and_close(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pmilter")
    playbook = Playbook(everything()).play(CLIENT + ENVELOPE)
    playbook.broken = True
    playbook.send("T")
    assert playbook.ended
    assert playbook.calls[-2:] == [("abort",), ("close",)]
    (line,) = caplog.messages
    assert "192.0.2.25:4711" in line


# --- QUIT_NC


class Tail:
    """Whose end shows that of all that holds it."""


@pytest.mark.parametrize("perform", [None, call_at_once])
def test_what_has_ended_is_gone_without_the_garbage_collector(
    perform: Callable[[Call], Any] | None,
) -> None:
    def hold(ctx: Context) -> None:
        ctx.priv = Tail()
        tails.append(weakref.ref(ctx.priv))

    tails: list[weakref.ref[Tail]] = []
    talk: Any = Conversation(Program(everything(eom=hold).plan()), perform=perform).run()
    next(talk)
    gc.disable()
    try:
        with contextlib.suppress(StopIteration):
            for line in ("O 6 1ff 77f", *COMMANDS.values(), "Q"):
                effect = talk.send(parse(line))
                while type(effect) is Call:
                    effect = talk.send(effect.function(*effect.arguments))
        del effect, talk
        assert [tail() for tail in tails] == [None]
    finally:
        gc.enable()


def test_quit_nc_resets_everything_but_the_agreement() -> None:
    seen: list[tuple[object, ...]] = []

    def look(ctx: Context, *_: object) -> None:
        seen.append(
            (ctx.priv, ctx.helo, ctx.sender, dict(ctx.macros), dict(vars(ctx.state)), ctx.steps)
        )
        ctx.priv = 1
        ctx.state.mine = 1

    playbook = Playbook(filter_of({"connect": look, "envfrom": look, "close": returns(None)}))
    session = r"""
        >> D Cj␀mx␀
        >> C x␀U
        << c
        >> H x␀
        << c
        >> M <a@x>␀
        << c
        """
    playbook.play(PLAIN + session + ">> K\n" + session.replace(">> D Cj␀mx␀\n", ""))
    steps = Step(0x370)
    assert seen == [
        (None, None, None, {"j": "mx"}, {}, steps),
        (1, "x", "<a@x>", {"j": "mx"}, {}, steps),
        (None, None, None, {}, {}, steps),
        (1, "x", "<a@x>", {}, {}, steps),
    ]


def test_quit_nc_forgets_kept_verdicts() -> None:
    milter = filter_of(
        {
            "connect": lambda _c, host, _a: Status.REJECT if host == "bad" else None,
            "data": returns(None),
        },
        noreply=["connect"],
    )
    message = ">> M <a@x>␀\n>> R <b@x>␀\n>> T\n"
    Playbook(milter).play(f"{QUIET}>> C bad␀U\n{message}<< r\n>> K\n>> C good␀U\n{message}<< c")


# --- hostile input

BEGUN = ">> O 6 1ff 77f\n<< O *\n"
OPENED = CLIENT + ENVELOPE

HOSTILE: list[tuple[str, str, bytes, str]] = [
    ("length 0 at the start", "", b"\0\0\0\0Q", "START"),
    ("length 0", OPENED, b"\0\0\0\0Q", "RCPT"),
    ("negative length", OPENED, b"\xff\xff\xff\xffA", "RCPT"),
    ("least negative length", OPENED, b"\x80\0\0\0A", "RCPT"),
    ("huge length", OPENED, b"\x7f\xff\xff\xffB", "RCPT"),
    ("length over the limit", OPENED, b"\0\x10\0\x01B", "RCPT"),
    ("negotiation too short", "", frame("O", b"\0\0\0\x06\0\0\1\xff"), "START"),
    ("empty negotiation", "", frame("O"), "START"),
    ("connect first", "", frame("C", b"x\0U"), "START"),
    ("macros first", "", frame("D", b"Cj\0mx\0"), "START"),
    ("second negotiation", BEGUN, parse("O 6 1ff 77f"), "OPTNEG"),
    ("second negotiation in a message", OPENED, parse("O 6 1ff 77f"), "RCPT"),
    ("second connect", CLIENT, frame("C", b"x\0U"), "HELO"),
    ("recipient first", CLIENT, frame("R", b"<b@x>\0"), "HELO"),
    ("end of message first", CLIENT, frame("E"), "HELO"),
    ("data without recipient", CLIENT + ">> M <a@x>␀\n<< c", frame("T"), "MAIL"),
    (
        "header after the body",
        OPENED + ">> T\n<< c\n>> N\n<< c\n>> B x\n<< c",
        frame("L", b"A\0B\0"),
        "BODY",
    ),
    ("unknown command", OPENED, frame("Z"), "RCPT"),
    ("unknown command 0", OPENED, frame("\0"), "RCPT"),
    ("a reply for a command", OPENED, frame("c"), "RCPT"),
    ("connect without a family", BEGUN, frame("C", b"x\0"), "OPTNEG"),
    ("connect without NUL", BEGUN, frame("C", b"x"), "OPTNEG"),
    ("connect without a payload", BEGUN, frame("C"), "OPTNEG"),
    ("connect of a strange family", BEGUN, frame("C", b"x\0X\0\0a\0"), "OPTNEG"),
    ("connect with a cut port", BEGUN, frame("C", b"x\x004\0"), "OPTNEG"),
    ("connect without the last NUL", BEGUN, frame("C", b"x\x004\0\x19192.0.2.1"), "OPTNEG"),
    ("HELO without a payload", CLIENT, frame("H"), "HELO"),
    ("HELO without NUL", CLIENT, frame("H", b"x"), "HELO"),
    ("MAIL without a payload", CLIENT, frame("M"), "HELO"),
    ("MAIL without NUL", CLIENT, frame("M", b"<a@x>"), "HELO"),
    ("MAIL without the last NUL", CLIENT, frame("M", b"<a@x>\0SIZE=5"), "HELO"),
    ("RCPT without a payload", OPENED, frame("R"), "RCPT"),
    ("RCPT without NUL", OPENED, frame("R", b"<b@x>"), "RCPT"),
    ("unknown without NUL", OPENED, frame("U", b"FROB"), "RCPT"),
    ("unknown without a payload", OPENED, frame("U"), "RCPT"),
    ("header without a payload", OPENED + ">> T\n<< c", frame("L"), "DATA"),
    ("header without NUL", OPENED + ">> T\n<< c", frame("L", b"A"), "DATA"),
    ("header of one string", OPENED + ">> T\n<< c", frame("L", b"A\0"), "DATA"),
    ("header without the last NUL", OPENED + ">> T\n<< c", frame("L", b"A\0B"), "DATA"),
    ("macros without a payload", OPENED, frame("D"), "RCPT"),
    ("macro without a value", OPENED, frame("D", b"Ri\0"), "RCPT"),
    ("macro without NUL", OPENED, frame("D", b"Ri\0x"), "RCPT"),
    ("too many macros", OPENED, frame("D", b"R" + b"i\0x\0" * 257), "RCPT"),
]
"""What it is, what comes before, the bytes, the state in which the connection is before them."""

QUIET_FILTER = {"eom": returns(None)}


@pytest.mark.parametrize(
    ("before", "data", "state"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_hostile_input_closes_with_one_line_that_names_peer_state_and_reason(
    before: str, data: bytes, state: str, chunked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    playbook = Playbook(everything()).play(before)
    if chunked:
        for byte in data:
            if not playbook.ended:
                playbook.receive(bytes((byte,)))
    else:
        playbook.receive(data)
    assert playbook.ended
    assert playbook.answers() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    line = record.getMessage()
    assert line.startswith("192.0.2.25:4711: closing in state ")
    assert state in line or "malformed" in line  # the malformed command may count for the state
    assert len(line.rpartition(": ")[2]) > 10
    assert line.isprintable()


@pytest.mark.parametrize(
    ("before", "data"), [row[1:3] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_hostile_input_is_refused_though_no_callback_looks_at_it(
    before: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    if data[4:5] in {b"U", b"L"} or ">> T" in before:
        pytest.skip("negotiated away without a callback")
    playbook = Playbook(filter_of(QUIET_FILTER)).play(before).receive(data)
    assert playbook.ended
    assert playbook.answers() == []
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GET / HTTP/1.1\r\nHost: mx\r\n\r\n", "HTTP"),
        (b"POST /x HTTP/1.1\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "TLS"),
        (b"EHLO client.example.com\r\n", "SMTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY"),
    ],
)
def test_other_protocols_are_named(
    data: bytes, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    playbook = Playbook(everything()).receive(data)
    assert playbook.ended
    assert playbook.calls == []
    (line,) = caplog.messages
    assert name in line
    assert "192.0.2.25:4711" in line


def test_commands_before_the_bad_one_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    playbook = Playbook(everything()).play(CLIENT)
    playbook.receive(parse("M <a@x>␀") + parse("R <b@x>␀") + frame("Z"))
    assert playbook.answers() == ["c", "c"]
    assert playbook.ended
    assert playbook.calls[-2:] == [("abort",), ("close",)]
    assert len(caplog.records) == 1


def test_message_whose_first_command_is_malformed_was_never_opened() -> None:
    playbook = Playbook(everything()).play(CLIENT).receive(frame("M", b"<a@x>"))
    assert playbook.ended
    assert playbook.calls[-1] == ("close",)
    assert ("abort",) not in playbook.calls


def test_largest_frame_is_taken_and_one_byte_more_is_not() -> None:
    milter = filter_of({"body": returns(None)})
    chunk = b"x" * 1_048_575
    playbook = Playbook(milter).play(CLIENT + ENVELOPE).send("B", chunk)
    assert playbook.answers() == ["c"]
    assert playbook.calls == [("body", chunk)]
    assert playbook.receive(frame("B", chunk + b"x")[:5]).ended


def test_memory_grows_with_what_came_and_not_with_what_was_announced() -> None:
    playbook = Playbook(everything()).play(CLIENT + ENVELOPE)
    tracemalloc.start()
    try:
        playbook.receive(b"\0\x0f\xff\xffB" + b"x" * 1000)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()
    assert not playbook.ended


@pytest.mark.parametrize("begun", [b"\0", b"\0\0\0\x05", b"\0\0\0\x05M<a"])
def test_half_a_frame_and_then_the_end(begun: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pmilter")
    playbook = Playbook(everything()).play(CLIENT).receive(begun).receive(b"")
    assert playbook.ended
    assert playbook.calls[-1] == ("close",)
    (line,) = caplog.messages
    assert line.startswith("192.0.2.25:4711: closing in state HELO: ")
    assert "frame" in line


def test_answers_to_many_commands_are_not_all_held_in_memory() -> None:
    reply = Reply(550, "5.7.1", *["x" * 980] * 32)
    playbook = Playbook(filter_of({"unknown": returns(reply)})).play(CLIENT)
    playbook.receive(parse("U ␀") * 300)
    assert len(playbook.answers()) == 300
    assert max(playbook.sends) < 2_000_000


# --- patience


def test_waiting_for_the_first_packet_has_its_own_time() -> None:
    playbook = Playbook(everything())
    assert playbook.timeout == 60.0
    assert Playbook(filter_of({}, limits=Limits(negotiation=5))).timeout == 5


def test_time_between_commands_is_the_timeout_of_the_filter() -> None:
    milter = everything()
    assert Playbook(milter).play(PLAIN).timeout == 7210.0
    milter.settimeout(5)
    assert Playbook(milter).play(CLIENT).timeout == 5
    milter.settimeout(None)
    assert Playbook(milter).play(CLIENT).timeout is None


def test_rest_of_a_frame_has_60_seconds_as_a_whole() -> None:
    playbook = Playbook(everything()).play(CLIENT).receive(b"\0\0\0\x09M<")
    assert playbook.timeout == 60.0
    playbook.now = 59.0
    assert playbook.receive(b"a").timeout == 1.0
    playbook.now = 61.0
    assert playbook.receive(b"@").ended


def test_each_frame_has_its_own_60_seconds() -> None:
    playbook = Playbook(everything()).play(CLIENT)
    for start in (0.0, 50.0, 100.0):
        playbook.now = start
        playbook.receive(b"\0\0\0\x03U")
        playbook.now = start + 50
        assert playbook.receive(b"x\0\0\0").timeout == 60.0
        playbook.receive(b"\0\x03Ux\0")
        assert playbook.timeout == 7210.0
    assert set(playbook.answers()) == {"c"}


@pytest.mark.parametrize("script", ["", PLAIN, CLIENT, OPENED])
def test_silence_closes_with_one_line(script: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pmilter")
    playbook = Playbook(everything()).play(script).time_out()
    assert playbook.ended
    assert playbook.answers() == []
    (line,) = caplog.messages
    assert "192.0.2.25:4711: closing in state " in line


# --- pipelining


def test_any_chunking_gives_the_same_answers() -> None:
    stream = b"".join(
        parse(line)
        for line in (
            "O 6 1ff 77f",
            "D Cj␀mx␀",
            *COMMANDS.values(),
            "A",
            "M <a@x>␀",
            "R <b@x>␀",
            "Q",
        )
    )
    transcripts = set()
    for size in (1, 2, 3, 7, 100, len(stream)):
        playbook = Playbook(everything())
        for start in range(0, len(stream), size):
            playbook.receive(stream[start : start + size])
        assert playbook.ended
        transcripts.add((tuple(playbook.answers()), tuple(playbook.calls)))
    assert len(transcripts) == 1


# --- stopping


def stopping(script: str, milter: Milter | None = None) -> Playbook:
    """Return a playbook whose service is told to stop after a script."""
    service = Service()
    playbook = Playbook(milter or everything(), service=service).play(script)
    service.stopping = True
    return playbook


GOODBYE = "<< y 421 4.3.2 Service shutting down, try again later␀\n<< EOF"


@pytest.mark.parametrize(
    ("before", "command"),
    [
        (PLAIN, "C x␀U"),
        (PLAIN + ">> C x␀U\n<< c", "H x␀"),
        (PLAIN + ">> C x␀U\n<< c", "M <a@x>␀"),
        (CLIENT, "M <a@x>␀"),
        (CLIENT, "H again␀"),
        (CLIENT, "U FROB␀"),
        (CLIENT + DELIVERED, "M <a@x>␀"),
        (CLIENT + ENVELOPE + ">> A\n", "M <a@x>␀"),
        (CLIENT + ENVELOPE, "H again␀"),
        (CLIENT + ENVELOPE, "M <again@x>␀"),
    ],
)
def test_outside_a_message_the_next_command_gets_421_4_3_2(before: str, command: str) -> None:
    playbook = stopping(before)
    calls = len(playbook.calls)
    playbook.play(f">> {command}\n{GOODBYE}")
    assert {call[0] for call in playbook.calls[calls:]} <= {"abort", "close"}


def test_a_new_connection_is_negotiated_and_then_told() -> None:
    stopping("").play(f">> O 6 1ff 77f\n<< O *\n>> C x␀U\n{GOODBYE}")


def test_open_message_is_finished_and_the_next_one_refused() -> None:
    playbook = stopping(CLIENT + ENVELOPE)
    playbook.play(
        f""">> R <c@x>␀
        << c
        >> T
        << c
        >> L A␀1␀
        << c
        >> N
        << c
        >> B x
        << c
        >> E
        << c
        >> A
        >> M <a@x>␀
        {GOODBYE}"""
    )
    assert playbook.calls[-2:] == [("eom",), ("close",)]


def test_message_that_had_its_verdict_has_it_to_its_end() -> None:
    milter = filter_of({"data": returns(Status.REJECT), "header": returns(None)})
    playbook = stopping(CLIENT + ENVELOPE + ">> T\n<< r\n", milter)
    playbook.play(f">> L A␀1␀\n<< r\n>> E\n<< r\n>> M <a@x>␀\n{GOODBYE}")


def test_where_no_reply_is_due_the_next_command_with_one_gets_it() -> None:
    milter = filter_of({"eom": returns(None), "abort": returns(None), "close": returns(None)})
    playbook = stopping(f"{QUIET}>> C x␀U\n>> H x␀\n", milter)
    playbook.play(f">> M <a@x>␀\n>> R <b@x>␀\n>> E\n{GOODBYE}")
    assert playbook.calls == []


def test_message_refused_for_the_stop_is_not_aborted() -> None:
    milter = filter_of({"envrcpt": returns(None), "helo": returns(None), "abort": returns(None)})
    playbook = stopping(f"{QUIET}>> C x␀U\n>> H x␀\n<< c\n", milter)
    playbook.play(f">> M <a@x>␀\n>> R <b@x>␀\n{GOODBYE}")
    assert playbook.calls == [("helo", "x")]


def test_quit_is_still_a_quit() -> None:
    playbook = stopping(CLIENT).play(">> Q\n<< EOF")
    assert playbook.calls[-1] == ("close",)


def test_stop_from_a_callback_finishes_its_message() -> None:
    service = Service()

    def header(*_: object) -> None:
        service.stopping = True

    playbook = Playbook(everything(header=header), service=service)
    playbook.play(
        f"""{CLIENT}{ENVELOPE}
        >> T
        << c
        >> L A␀1␀
        << c
        >> N
        << c
        >> E
        << c
        >> M <a@x>␀
        {GOODBYE}"""
    )


# --- health probes


class Counting(Service):
    """A service that counts the probes."""

    def __init__(self) -> None:
        super().__init__()
        self.probes = 0

    def note_probe(self) -> None:
        """Count."""
        self.probes += 1


NEGOTIATED = ">> O 6 1ff 77f\n<< O *\n"


@pytest.mark.parametrize(
    ("script", "is_probe"),
    [
        (">> EOF\n<< EOF", True),
        (">> Q\n<< EOF", True),
        (NEGOTIATED + ">> EOF\n<< EOF", True),
        (NEGOTIATED + ">> Q\n<< EOF", True),
        (NEGOTIATED + ">> D Cj␀mx␀\n>> Q\n<< EOF", True),
        (NEGOTIATED + ">> K\n>> Q\n<< EOF", False),
        (NEGOTIATED + ">> C x␀U\n<< c\n>> Q\n<< EOF", False),
        (NEGOTIATED + ">> H x\n<< EOF", False),
        (NEGOTIATED + NEGOTIATED.replace("<< O *", "<< EOF"), False),
        (">> C x␀U\n<< EOF", False),
        (">> O 1 f 3f\n<< EOF", False),
    ],
)
def test_probe_is_what_has_nothing_but_the_negotiation(script: str, is_probe: bool) -> None:
    service = Counting()
    playbook = Playbook(filter_of({"eom": returns(None)}), service=service).play(script)
    assert service.probes == is_probe
    assert playbook.calls == []


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\x0d", b"GET / HTTP/1.0\r\n\r\n"])
def test_nonsense_is_no_probe(data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service = Counting()
    playbook = Playbook(everything(), service=service).receive(data)
    if not playbook.ended:
        playbook.receive(b"")
    assert service.probes == 0
    assert len(caplog.records) == 1


def test_silence_is_no_probe() -> None:
    service = Counting()
    assert Playbook(everything(), service=service).time_out().ended
    assert service.probes == 0


def test_session_without_any_callback_is_no_probe() -> None:
    service = Counting()
    milter = filter_of({"abort": returns(None)}, keep=())
    playbook = Playbook(milter, service=service)
    playbook.play(">> O 6 0 7f\n<< O *\n>> T\n<< c\n>> EOF\n<< EOF")
    assert service.probes == 0
    assert playbook.calls == [("abort",)]


def test_macro_stage_of_every_callback_is_known() -> None:
    for stage in MacroStage:
        assert stage.name.lower() in COMMANDS


# --- what a review found


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [(None, "c"), (Status.ACCEPT, "c"), (Status.REJECT, "r"), (Status.TEMPFAIL, "t")],
)
def test_unknown_command_after_a_verdict_on_the_message_does_not_change_it(
    verdict: Status | None, answer: str
) -> None:
    milter = everything(envfrom=returns(Status.REJECT), unknown=returns(verdict))
    Playbook(milter).play(
        rf"""{CLIENT}
        >> M <a@example.com>␀
        << r
        >> U FROB␀
        << {answer}
        >> R <b@example.org>␀
        << r
        >> T
        << r
        """
    )


@pytest.mark.parametrize("command", ["T x", "N x", "L no end", "U no end"])
def test_what_a_command_carries_may_be_malformed_where_nobody_looks_at_it(command: str) -> None:
    before = {"T": "", "U": "", "L": ">> T\n<< c\n", "N": ">> T\n<< c\n"}[command[0]]
    Playbook(filter_of({"eom": returns(None)})).play(
        rf"""
        >> O 6 0 0
        << O *
        >> C x␀U
        << c
        >> H x␀
        << c
        {ENVELOPE}{before}
        >> {command}
        << c
        """
    )


def test_answers_to_a_flood_of_commands_are_sent_in_pieces() -> None:
    talk: Any = Conversation(Program(everything().plan()), perform=call_at_once).run()
    next(talk)
    for line in ("O 6 1ff 77f", COMMANDS["connect"], COMMANDS["helo"]):
        talk.send(parse(line))
    sizes = []
    effect = talk.send(parse("U x␀") * 20_000)
    while type(effect) is Send:
        sizes.append(len(effect.data))
        effect = talk.send(None)
    assert sum(sizes) + len(effect.answer) == 20_000 * len(frame("c"))
    assert max(sizes) < 20_000


def test_parameters_over_the_limit_are_counted_and_not_taken_apart() -> None:
    callbacks = {stage: returns(None) for stage in COMMANDS}
    playbook = Playbook(filter_of(callbacks, limits=Limits(arguments=8)))
    playbook.play(CLIENT + ">> M <a@example.com>␀\n<< c\n")
    tracemalloc.start()
    try:
        assert playbook.receive(frame("R", b"x\0" * 400_000)).answers() == ["t"]
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_callback_that_is_late_still_has_no_other_beside_it_in_the_next_smtp_session() -> None:
    milter = everything(helo=returns(None), connect=returns(Status.REJECT))
    talk: Any = Conversation(Program(milter.plan())).run()
    next(talk)
    talk.send(parse("O 6 1ff 77f"))
    assert talk.send(parse("C x␀U")).stage == "connect"
    talk.send(None)
    assert talk.send(parse("H x␀")).stage == "helo"
    late = Late()
    effect = talk.throw(CallTimedOut("helo", 1.0, late))
    assert effect.answer == frame("t")
    talk.send(parse("K"))
    assert talk.send(parse("C x␀U")).answer == frame("t")  # and nothing was called
    late.finish()
