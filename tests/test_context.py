from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import (
    Action,
    ConfigError,
    Context,
    LimitExceeded,
    LocalProtocolError,
    MacroStage,
    Options,
    Reply,
    Status,
    Step,
)
from tests.support.notation import parse
from tests.support.playbook import (
    CLIENT,
    COMMANDS,
    ENVELOPE,
    PLAIN,
    QUIET,
    Playbook,
    filter_of,
    returns,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EVERYTHING = Action(0x1FF)


def changes_of(
    ask: Callable[[Context], object], *, verdict: object = Status.ACCEPT, **options: Any
) -> list[str]:
    """Return what an eom callback that asks for something sends before its verdict."""

    def eom(ctx: Context) -> object:
        ask(ctx)
        return verdict

    milter = filter_of({"eom": eom}, **{"actions": EVERYTHING, **options})
    answers = Playbook(milter).play(CLIENT + ENVELOPE).send("E").answers()
    return answers[:-1]


def error_of(
    ask: Callable[[Context], object],
    *,
    stage: str = "eom",
    offer: str = PLAIN,
    actions: Action = EVERYTHING,
) -> Exception:
    """Return what asking for something raises in a stage's callback; nothing may be sent for it."""
    raised: list[Exception] = []

    def callback(ctx: Context, *_: object) -> None:
        try:
            ask(ctx)
        except (TypeError, ValueError, LimitExceeded) as error:
            raised.append(error)

    milter = filter_of({stage: callback}, actions=actions)
    playbook = Playbook(milter).play(offer)
    assert playbook.reach(milter, stage) == ["c"]
    assert raised, "nothing was raised"
    return raised[0]


def observed(
    observe: Callable[[Context], object], script: str, *stages: str, **options: Any
) -> list[object]:
    """Return what can be observed in the callbacks of some stages while a script is played."""
    seen: list[object] = []

    def callback(ctx: Context, *_: object) -> None:
        seen.append(observe(ctx))

    Playbook(filter_of(dict.fromkeys(stages, callback), **options)).play(script)
    return seen


# --- changes


@pytest.mark.parametrize(
    ("ask", "sent"),
    [
        (lambda ctx: ctx.addheader("X-Tagged", "yes"), r"h X-Tagged␀yes␀"),
        (lambda ctx: ctx.addheader("X-Empty", ""), r"h X-Empty␀␀"),
        (lambda ctx: ctx.addheader("X-Fold", "a\r\n b\n\tc"), r"h X-Fold␀a\n b\n\tc␀"),
        (lambda ctx: ctx.addheader("X-Space", " a"), r"h X-Space␀ a␀"),
        (lambda ctx: ctx.addheader("X-8bit", "ü\udcff"), r"h X-8bit␀\xc3\xbc\xff␀"),
        (lambda ctx: ctx.insheader("X-Top", "1"), r"i ␀␀␀␀X-Top␀1␀"),
        (lambda ctx: ctx.insheader("X-Below", "1", 1), r"i ␀␀␀\x01X-Below␀1␀"),
        (
            lambda ctx: ctx.insheader("X-End", "1", position=2**31 - 1),
            r"i \x7f\xff\xff\xffX-End␀1␀",
        ),
        (lambda ctx: ctx.chgheader("Subject", 1, "new"), r"m ␀␀␀\x01Subject␀new␀"),
        (lambda ctx: ctx.chgheader("Subject", 0, "new"), r"m ␀␀␀\x01Subject␀new␀"),
        (lambda ctx: ctx.chgheader("Subject", 3, "new"), r"m ␀␀␀\x03Subject␀new␀"),
        (lambda ctx: ctx.chgheader("Subject", 2, ""), r"m ␀␀␀\x02Subject␀␀"),
        (lambda ctx: ctx.chgheader("Subject", 2, None), r"m ␀␀␀\x02Subject␀␀"),
        (lambda ctx: ctx.addrcpt("<c@example.net>"), r"+ <c@example.net>␀"),
        (lambda ctx: ctx.addrcpt("c@example.net"), r"+ c@example.net␀"),
        (lambda ctx: ctx.addrcpt("<c@x>", "NOTIFY=NEVER"), r"2 <c@x>␀NOTIFY=NEVER␀"),
        (lambda ctx: ctx.addrcpt_par("<c@x>", "NOTIFY=NEVER"), r"2 <c@x>␀NOTIFY=NEVER␀"),
        (lambda ctx: ctx.addrcpt_par("<c@x>", None), r"2 <c@x>␀"),
        (lambda ctx: ctx.delrcpt("<b@example.org>"), r"- <b@example.org>␀"),
        (lambda ctx: ctx.replacebody(b"new\r\n"), r"b new\r\n"),
        (lambda ctx: ctx.replacebody(b""), r"b"),
        (lambda ctx: ctx.replacebody(b"\x00\xff"), r"b ␀\xff"),
        (lambda ctx: ctx.chgfrom("<d@x>"), r"e <d@x>␀"),
        (lambda ctx: ctx.chgfrom("<>"), r"e <>␀"),
        (lambda ctx: ctx.chgfrom("<d@x>", "RET=HDRS"), r"e <d@x>␀RET=HDRS␀"),
        (lambda ctx: ctx.setsender("<d@x>"), r"e <d@x>␀"),
        (lambda ctx: ctx.quarantine("suspicious"), r"q suspicious␀"),
    ],
)
def test_change_on_the_wire(ask: Callable[[Context], object], sent: str) -> None:
    assert changes_of(ask) == [sent]


def test_changes_go_in_order_and_the_body_last_in_one_run() -> None:
    def ask(ctx: Context) -> None:
        ctx.replacebody(b"a" * 65535)
        ctx.addheader("X-1", "1")
        ctx.replacebody(b"b" * 10)
        ctx.quarantine("why")
        ctx.addheader("X-0", "0")

    sent = changes_of(ask)
    assert sent[:3] == ["h X-1␀1␀", "q why␀", "h X-0␀0␀"]
    assert [line[:14] for line in sent[3:]] == ["b <65535 bytes", "b bbbbbbbbbb"]


@pytest.mark.parametrize(
    ("size", "chunks"), [(0, [0]), (1, [1]), (65535, [65535]), (65536, [65535, 1]), (200_000, None)]
)
def test_body_of_any_size_is_cut_into_full_chunks(size: int, chunks: list[int] | None) -> None:
    data = bytes(range(256)) * (size // 256 + 1)

    def eom(ctx: Context) -> None:
        ctx.replacebody(data[:size])

    playbook = Playbook(filter_of({"eom": eom}, actions=Action.CHGBODY))
    frames = playbook.play(CLIENT + ENVELOPE).send("E").raw()[:-1]
    assert b"".join(frame[5:] for frame in frames) == data[:size]
    assert all(frame[4:5] == b"b" for frame in frames)
    assert [len(frame) - 5 for frame in frames] == (chunks or [65535, 65535, 65535, 3395])


def test_replacebody_appends_across_calls() -> None:
    def ask(ctx: Context) -> None:
        for part in (b"one\r", b"", b"\ntwo"):
            ctx.replacebody(part)

    assert changes_of(ask) == [r"b one\r\ntwo"]


def test_buffer_given_to_replacebody_may_be_used_again() -> None:
    def ask(ctx: Any) -> None:
        buffer = bytearray(b"first")
        ctx.replacebody(buffer)
        buffer[:] = b"later"
        ctx.replacebody(memoryview(b"xsecondx")[1:-1])

    assert changes_of(ask) == ["b firstsecond"]


def test_header_of_the_largest_size_fits_and_one_byte_more_does_not() -> None:
    fits = "x" * (65535 - 2 - len("X-Big"))
    assert changes_of(lambda ctx: ctx.addheader("X-Big", fits))[0].startswith("h <65535 bytes")
    error = error_of(lambda ctx: ctx.addheader("X-Big", f"{fits}x"))
    assert isinstance(error, LimitExceeded)
    assert (error.limit, error.size) == (65535, 65536)


CHANGES: dict[str, tuple[Action, Callable[[Context], object]]] = {
    "addheader": (Action.ADDHDRS, lambda ctx: ctx.addheader("X", "1")),
    "insheader": (Action.ADDHDRS, lambda ctx: ctx.insheader("X", "1")),
    "chgheader": (Action.CHGHDRS, lambda ctx: ctx.chgheader("X", 1, "1")),
    "addrcpt": (Action.ADDRCPT, lambda ctx: ctx.addrcpt("<c@x>")),
    "addrcpt_par": (Action.ADDRCPT_PAR, lambda ctx: ctx.addrcpt_par("<c@x>", "NOTIFY=NEVER")),
    "delrcpt": (Action.DELRCPT, lambda ctx: ctx.delrcpt("<c@x>")),
    "replacebody": (Action.CHGBODY, lambda ctx: ctx.replacebody(b"x")),
    "chgfrom": (Action.CHGFROM, lambda ctx: ctx.chgfrom("<c@x>")),
    "setsender": (Action.CHGFROM, lambda ctx: ctx.setsender("<c@x>")),
    "quarantine": (Action.QUARANTINE, lambda ctx: ctx.quarantine("x")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_needs_its_grant_alone(name: str) -> None:
    grant, ask = CHANGES[name]
    assert len(changes_of(ask, actions=grant)) == 1
    error = error_of(ask, actions=EVERYTHING & ~grant)
    assert isinstance(error, LocalProtocolError)
    assert f"Action.{grant.name}" in str(error)


@pytest.mark.parametrize("name", CHANGES)
def test_change_that_the_mta_does_not_offer_raises_though_it_was_asked_for(name: str) -> None:
    grant, ask = CHANGES[name]
    error = error_of(ask, offer=PLAIN.replace("1ff", f"{0x1FF & ~grant:x}"))
    assert isinstance(error, LocalProtocolError)
    assert f"Action.{grant.name}" in str(error)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("stage", [stage for stage in COMMANDS if stage != "eom"])
def test_change_outside_eom_raises(name: str, stage: str) -> None:
    error = error_of(CHANGES[name][1], stage=stage)
    assert isinstance(error, LocalProtocolError)
    assert "eom" in str(error)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("stage", ["abort", "close"])
def test_change_in_abort_and_close_raises(name: str, stage: str) -> None:
    raised: list[Exception] = []

    def callback(ctx: Context) -> None:
        with pytest.raises(LocalProtocolError, match="eom") as caught:
            CHANGES[name][1](ctx)
        raised.append(caught.value)

    playbook = Playbook(filter_of({stage: callback, "helo": returns(None)}, actions=EVERYTHING))
    playbook.play(CLIENT + ENVELOPE + ">> A\n>> Q\n<< EOF")
    assert len(raised) == 1


@pytest.mark.parametrize("name", CHANGES)
def test_change_after_the_callback_has_returned_raises(name: str) -> None:
    kept: list[Context] = []
    playbook = Playbook(filter_of({"eom": kept.append}, actions=EVERYTHING))
    playbook.play(CLIENT + ENVELOPE + ">> E\n<< c")
    with pytest.raises(LocalProtocolError):
        CHANGES[name][1](kept[0])
    playbook.play(ENVELOPE)


WRONG: list[tuple[str, Callable[[Any], object], type[Exception]]] = [
    ("name", lambda ctx: ctx.addheader("", "x"), LocalProtocolError),
    ("name", lambda ctx: ctx.addheader("A B", "x"), LocalProtocolError),
    ("name", lambda ctx: ctx.addheader(None, "x"), TypeError),
    ("value", lambda ctx: ctx.addheader("X", "a\rb"), LocalProtocolError),
    ("value", lambda ctx: ctx.addheader("X", "a\nb"), LocalProtocolError),
    ("value", lambda ctx: ctx.addheader("X", "a\0b"), LocalProtocolError),
    ("value", lambda ctx: ctx.addheader("X", None), TypeError),
    ("value", lambda ctx: ctx.addheader("X", b"x"), TypeError),
    ("name", lambda ctx: ctx.insheader("", "x"), LocalProtocolError),
    ("position", lambda ctx: ctx.insheader("X", "x", -1), LocalProtocolError),
    ("position", lambda ctx: ctx.insheader("X", "x", 2**31), LocalProtocolError),
    ("position", lambda ctx: ctx.insheader("X", "x", "0"), TypeError),
    ("value", lambda ctx: ctx.insheader("X", "\n"), LocalProtocolError),
    ("index", lambda ctx: ctx.chgheader("X", -1, "x"), LocalProtocolError),
    ("index", lambda ctx: ctx.chgheader("X", "1", "x"), TypeError),
    ("index", lambda ctx: ctx.chgheader("X", True, "x"), TypeError),
    ("name", lambda ctx: ctx.chgheader("X:", 1, "x"), LocalProtocolError),
    ("value", lambda ctx: ctx.chgheader("X", 1, "x\r"), LocalProtocolError),
    ("value", lambda ctx: ctx.chgheader("X", 1, 5), TypeError),
    ("address", lambda ctx: ctx.addrcpt(""), LocalProtocolError),
    ("address", lambda ctx: ctx.addrcpt("<a@x>\r\n"), LocalProtocolError),
    ("address", lambda ctx: ctx.addrcpt("<a\0@x>"), LocalProtocolError),
    ("address", lambda ctx: ctx.addrcpt(None), TypeError),
    ("params", lambda ctx: ctx.addrcpt("<a@x>", "A=1\0B=2"), LocalProtocolError),
    ("params", lambda ctx: ctx.addrcpt("<a@x>", 5), TypeError),
    ("params", lambda ctx: ctx.addrcpt_par("<a@x>", "\n"), LocalProtocolError),
    ("address", lambda ctx: ctx.delrcpt(""), LocalProtocolError),
    ("address", lambda ctx: ctx.delrcpt(5), TypeError),
    ("address", lambda ctx: ctx.chgfrom(""), LocalProtocolError),
    ("address", lambda ctx: ctx.chgfrom("a\n"), LocalProtocolError),
    ("params", lambda ctx: ctx.chgfrom("<a@x>", "\0"), LocalProtocolError),
    ("address", lambda ctx: ctx.setsender(None), TypeError),
    ("data", lambda ctx: ctx.replacebody("text"), TypeError),
    ("data", lambda ctx: ctx.replacebody(None), TypeError),
    ("reason", lambda ctx: ctx.quarantine(""), LocalProtocolError),
    ("reason", lambda ctx: ctx.quarantine("a\nb"), LocalProtocolError),
    ("reason", lambda ctx: ctx.quarantine(None), TypeError),
    ("code", lambda ctx: ctx.setreply(250), LocalProtocolError),
    ("code", lambda ctx: ctx.setreply(None), TypeError),
    ("xcode", lambda ctx: ctx.setreply(550, "4.1.1"), LocalProtocolError),
    ("line", lambda ctx: ctx.setreply(550, None, "a\nb"), LocalProtocolError),
    ("line", lambda ctx: ctx.setreply(550, None, None), TypeError),
    ("lines", lambda ctx: ctx.setmlreply(550, None, ["x"] * 33), LocalProtocolError),
    ("line", lambda ctx: ctx.setmlreply(550, None, ["a", b"b"]), TypeError),
]


@pytest.mark.parametrize(("argument", "ask", "kind"), WRONG)
def test_wrong_argument_raises_at_once_is_named_and_sends_nothing(
    argument: str, ask: Callable[[Context], object], kind: type[Exception]
) -> None:
    error = error_of(ask)
    assert isinstance(error, kind)
    assert argument in str(error)


def test_changes_before_a_wrong_one_stay() -> None:
    def ask(ctx: Context) -> None:
        ctx.addheader("X-Good", "1")
        with pytest.raises(LocalProtocolError):
            ctx.addheader("X-Bad", "\n")

    assert changes_of(ask) == ["h X-Good␀1␀"]


@pytest.mark.parametrize("verdict", [Status.ACCEPT, Status.CONTINUE, None])
def test_changes_leave_with_a_verdict_that_delivers(verdict: object) -> None:
    assert changes_of(lambda ctx: ctx.addheader("X", "1"), verdict=verdict) == ["h X␀1␀"]


@pytest.mark.parametrize(
    "verdict",
    [Status.REJECT, Status.TEMPFAIL, Status.DISCARD, Reply(550, None, "no"), Status.SKIP, 5],
)
@pytest.mark.parametrize("fallback", [Status.TEMPFAIL, Status.ACCEPT, Status.CONTINUE])
def test_changes_are_dropped_with_every_other_outcome(verdict: object, fallback: Status) -> None:
    def ask(ctx: Context) -> None:
        ctx.addheader("X", "1")
        ctx.replacebody(b"x" * 300_000)

    assert changes_of(ask, verdict=verdict, fallback=fallback) == []


@pytest.mark.parametrize("fallback", [Status.TEMPFAIL, Status.ACCEPT, Status.CONTINUE])
def test_changes_are_dropped_with_an_exception_whatever_the_fallback(fallback: Status) -> None:
    def ask(ctx: Context) -> None:
        ctx.addheader("X", "1")
        ctx.replacebody(b"x")
        raise ValueError("broken")

    assert changes_of(ask, fallback=fallback) == []


def test_dropped_changes_do_not_reach_the_next_message() -> None:
    def eom(ctx: Context) -> Status:
        if ctx.sender == "<bad@example.com>":
            ctx.addheader("X", "1")
            ctx.replacebody(b"x")
            return Status.REJECT
        return Status.ACCEPT

    Playbook(filter_of({"eom": eom}, actions=EVERYTHING)).play(
        CLIENT + ENVELOPE.replace("<a@", "<bad@") + ">> E\n<< r" + ENVELOPE + ">> E\n<< a"
    )


def test_with_leading_spaces_agreed_values_go_out_as_given() -> None:
    def ask(ctx: Context) -> None:
        assert ctx.steps is not None
        assert Step.HDR_LEADSPC in ctx.steps
        ctx.addheader("X-One", " one")
        ctx.chgheader("X-Two", 1, "two")
        ctx.insheader("X-Three", "\tthree\n four")

    def eom(ctx: Context) -> None:
        ask(ctx)

    milter = filter_of({"eom": eom}, actions=EVERYTHING, steps=Step.HDR_LEADSPC)
    playbook = Playbook(milter).play(CLIENT.replace("77f", "10077f") + ENVELOPE)
    assert playbook.send("E").answers() == [
        "h X-One␀ one␀",
        "m ␀␀␀\\x01X-Two␀two␀",
        "i ␀␀␀␀X-Three␀\\tthree\\n four␀",
        "c",
    ]


# --- progress


def test_progress_is_sent_at_once_and_changes_stay() -> None:
    playbook: Playbook

    def eom(ctx: Context) -> None:
        ctx.addheader("X", "1")
        ctx.progress()
        assert playbook.answers() == ["p"]
        ctx.progress()

    playbook = Playbook(filter_of({"eom": eom}, actions=EVERYTHING))
    playbook.play(CLIENT + ENVELOPE + ">> E\n<< p\n<< h X␀1␀\n<< c")


def test_progress_does_not_overtake_answers_to_pipelined_commands() -> None:
    playbook = Playbook(filter_of({"eom": lambda ctx: ctx.progress(), "body": returns(None)}))
    playbook.play(CLIENT + ENVELOPE)
    playbook.receive(b"\0\0\0\x02Bx" + b"\0\0\0\x01E")
    assert playbook.answers() == ["c", "p", "c"]


@pytest.mark.parametrize("stage", [stage for stage in COMMANDS if stage != "eom"])
def test_progress_outside_eom_raises(stage: str) -> None:
    error = error_of(lambda ctx: ctx.progress(), stage=stage)
    assert isinstance(error, LocalProtocolError)


def test_progress_after_eom_raises_and_sends_nothing() -> None:
    kept: list[Context] = []
    playbook = Playbook(filter_of({"eom": kept.append}))
    playbook.play(CLIENT + ENVELOPE + ">> E\n<< c")
    with pytest.raises(LocalProtocolError, match="eom callback"):
        kept[0].progress()
    playbook.play(ENVELOPE)


def test_progress_where_nothing_can_be_written_raises() -> None:
    caught: list[Exception] = []

    def eom(ctx: Context) -> None:
        with pytest.raises(LocalProtocolError) as error:
            ctx.progress()
        caught.append(error.value)

    Playbook(filter_of({"eom": eom}), can_write=False).play(CLIENT + ENVELOPE + ">> E\n<< c")
    assert caught


# --- replies


@pytest.mark.parametrize("verdict", [Status.REJECT, Status.TEMPFAIL])
@pytest.mark.parametrize("stage", COMMANDS)
def test_setreply_gives_the_text_and_its_code_decides(stage: str, verdict: Status) -> None:
    def callback(ctx: Context, *_: object) -> Status:
        ctx.setreply(451, "4.7.1", "100% later")
        return verdict

    milter = filter_of({stage: callback})
    playbook = Playbook(milter).play(PLAIN)
    assert playbook.reach(milter, stage) == ["y 451 4.7.1 100%% later␀"]


def test_setreply_defaults() -> None:
    def helo(ctx: Context, _name: str) -> Status:
        ctx.setreply("550")
        return Status.REJECT

    milter = filter_of({"helo": helo})
    assert Playbook(milter).play(PLAIN).reach(milter, "helo") == ["y 550 ␀"]


def test_setmlreply_gives_several_lines() -> None:
    def helo(ctx: Context, _name: str) -> Status:
        ctx.setmlreply(550, "5.7.1", ["first", "100%", "last"])
        return Status.REJECT

    milter = filter_of({"helo": helo})
    assert Playbook(milter).play(PLAIN).reach(milter, "helo") == [
        r"y 550-5.7.1 first\r\n550-5.7.1 100%%\r\n550 5.7.1 last␀"
    ]


def test_latest_setreply_counts_and_a_wrong_one_changes_nothing() -> None:
    def helo(ctx: Context, _name: str) -> Status:
        ctx.setreply(550, None, "first")
        ctx.setreply(551, None, "second")
        with pytest.raises(LocalProtocolError):
            ctx.setreply(250, None, "third")
        return Status.REJECT

    milter = filter_of({"helo": helo})
    assert Playbook(milter).play(PLAIN).reach(milter, "helo") == ["y 551 second␀"]


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [
        (None, "c"),
        (Status.CONTINUE, "c"),
        (Status.ACCEPT, "a"),
        (Status.DISCARD, "d"),
        (Reply(452, None, "own"), "y 452 own␀"),
        (5, "t"),
    ],
)
def test_setreply_is_dropped_with_any_other_verdict(verdict: object, answer: str) -> None:
    def envfrom(ctx: Context, address: str, *_: str) -> object:
        if address == "<b@x>":
            return Status.REJECT
        ctx.setreply(550, None, "text")
        return verdict

    Playbook(filter_of({"envfrom": envfrom})).play(
        f"{CLIENT}>> M <a@x>␀\n<< {answer}\n>> A\n>> M <b@x>␀\n<< r"
    )


def test_setreply_is_dropped_with_an_exception() -> None:
    def envfrom(ctx: Context, address: str, *_: str) -> Status:
        if address == "<b@x>":
            return Status.REJECT
        ctx.setreply(550, None, "text")
        raise ValueError("broken")

    Playbook(filter_of({"envfrom": envfrom})).play(
        CLIENT + ">> M <a@x>␀\n<< t\n>> A\n>> M <b@x>␀\n<< r"
    )


def test_setreply_in_abort_is_dropped() -> None:
    def abort(ctx: Context) -> None:
        ctx.setreply(550, None, "text")

    def envfrom(_ctx: Context, address: str, *_: str) -> Status | None:
        return Status.REJECT if address == "<b@x>" else None

    Playbook(filter_of({"envfrom": envfrom, "abort": abort})).play(
        CLIENT + ">> M <a@x>␀\n<< c\n>> A\n>> M <b@x>␀\n<< r"
    )


@pytest.mark.parametrize("verdict", [None, Status.ACCEPT, Status.DISCARD, Status.REJECT])
def test_shutdown_is_answered_with_421_whatever_is_returned(verdict: object) -> None:
    def envfrom(ctx: Context, *_: str) -> object:
        ctx.shutdown()
        ctx.setreply(550, None, "text")
        return verdict

    milter = filter_of({"envfrom": envfrom})
    (answer,) = Playbook(milter).play(PLAIN).reach(milter, "envfrom")
    assert answer.startswith("y 421 4.7.0 ")


def test_shutdown_never_sends_the_wires_own_shutdown() -> None:
    def eom(ctx: Context) -> None:
        ctx.addheader("X", "1")
        ctx.shutdown()

    playbook = Playbook(filter_of({"eom": eom}, actions=EVERYTHING)).play(CLIENT + ENVELOPE)
    (answer,) = playbook.send("E").answers()
    assert answer.startswith("y 421 4.7.0 ")


# --- private data


TWO_MESSAGES = CLIENT + 2 * (ENVELOPE + ">> E\n<< c\n")


def test_priv_is_kept_for_the_connection() -> None:
    def observe(ctx: Context) -> object:
        before = ctx.getpriv()
        assert before is ctx.priv
        ctx.setpriv((before or 0) + 1)
        return before

    assert observed(observe, TWO_MESSAGES + ">> Q\n<< EOF", "helo", "eom", "close") == [
        None,
        1,
        2,
        3,
    ]


def test_state_is_fresh_for_each_message() -> None:
    def observe(ctx: Context) -> object:
        before = dict(vars(ctx.state))
        ctx.state.count = len(before) + 1
        return before

    assert (
        observed(observe, TWO_MESSAGES, "envfrom", "envrcpt", "eom")
        == [
            {},
            {"count": 1},
            {"count": 2},
        ]
        * 2
    )


def test_state_is_one_namespace_within_a_message() -> None:
    def eom(ctx: Context) -> None:
        ctx.state.value = 5
        assert ctx.state.value == 5
        assert ctx.state is ctx.state

    Playbook(filter_of({"eom": eom}, fallback=Status.REJECT)).play(TWO_MESSAGES)


def test_one_context_serves_a_connection() -> None:
    contexts = observed(lambda ctx: ctx, TWO_MESSAGES, "helo", "envfrom", "eom")
    assert len(contexts) == 5
    assert len(set(map(id, contexts))) == 1


# --- macros


def test_getsymval_takes_names_with_and_without_braces() -> None:
    script = CLIENT + ">> D Mi␀Q1␀{i}␀Q1␀mail_addr␀a@x␀{auth_type}␀PLAIN␀\n>> M <a@x>␀\n<< c"
    names = ["i", "{i}", "mail_addr", "{mail_addr}", "auth_type", "{auth_type}", "gone", "{}", ""]
    assert observed(lambda ctx: [ctx.getsymval(n) for n in names], script, "envfrom") == [
        ["Q1", "Q1", "a@x", "a@x", "PLAIN", "PLAIN", None, None, None]
    ]


def test_macros_are_a_read_only_mapping_without_braces() -> None:
    def observe(ctx: Context) -> object:
        with pytest.raises(TypeError):
            ctx.macros["x"] = "y"  # type: ignore[index]  # that is the point
        return dict(ctx.macros)

    script = rf"{PLAIN}>> D Cj␀mx␀{{v}}␀\xff␀" + "\n>> C x␀U\n<< c"
    assert observed(observe, script, "connect") == [{"j": "mx", "v": "\udcff"}]


def test_macros_as_they_come_and_go() -> None:
    script = r"""
    >> O 6 1ff 77f
    << O *
    >> D Cx␀c␀onlyc␀c␀
    >> C x␀U
    << c
    >> D Hx␀h␀
    >> H x␀
    << c
    >> D Mx␀m␀onlym␀m␀
    >> M <a@x>␀
    << c
    >> D Rx␀r1␀onlyr␀r1␀
    >> R <b@x>␀
    << c
    >> D Rx␀r2␀
    >> R <c@x>␀
    << c
    >> D Tx␀t␀
    >> T
    << c
    >> D Ex␀e␀
    >> E
    << c
    >> M <a@x>␀
    << c
    >> R <b@x>␀
    << c
    >> A
    >> M <a@x>␀
    << c
    """
    seen = observed(
        lambda ctx: (ctx.getsymval("x"), "".join(sorted(set(ctx.macros) - {"x"}))),
        script,
        *("connect", "helo", "envfrom", "envrcpt", "data", "eom"),
    )
    assert seen == [
        ("c", "onlyc"),
        ("h", "onlyc"),
        ("m", "onlyconlym"),
        ("r1", "onlyconlymonlyr"),
        ("r2", "onlyconlym"),
        ("t", "onlyconlym"),
        ("e", "onlyconlym"),
        ("h", "onlyc"),
        ("h", "onlyc"),
        ("h", "onlyc"),
    ]


def test_macros_of_a_message_are_still_there_when_it_is_aborted() -> None:
    script = CLIENT + ">> D Mi␀Q1␀\n>> M <a@x>␀\n<< c\n>> A"
    assert observed(lambda ctx: ctx.queue_id, script, "abort") == ["Q1"]


def test_macros_of_a_message_are_gone_once_it_is_answered() -> None:
    script = CLIENT + ">> D Mi␀Q1␀\n" + ENVELOPE + ">> E\n<< c\n>> Q\n<< EOF"
    assert observed(lambda ctx: ctx.queue_id, script, "eom", "close") == ["Q1", None]


# --- facts


def facts(ctx: Context) -> tuple[object, ...]:
    return ctx.hostname, ctx.address, ctx.helo, ctx.sender, ctx.recipients


def test_facts_as_they_become_known() -> None:
    script = r"""
    >> O 6 1ff 77f
    << O *
    >> C mx␀4\x00\x19192.0.2.1␀
    << c
    >> H h\xff␀
    << c
    >> M <a@x>␀SIZE=5␀
    << c
    >> R <b@x>␀NOTIFY=NEVER␀
    << c
    >> R <c@x>␀
    << c
    >> E
    << c
    >> M <>␀
    << c
    """
    address = ("192.0.2.1", 25)
    seen = observed(facts, script, "negotiate", "connect", "helo", "envfrom", "envrcpt", "eom")
    assert seen == [
        (None, None, None, None, None),
        ("mx", address, None, None, None),
        ("mx", address, "h\udcff", None, None),
        ("mx", address, "h\udcff", "<a@x>", []),
        ("mx", address, "h\udcff", "<a@x>", []),
        ("mx", address, "h\udcff", "<a@x>", ["<b@x>"]),
        ("mx", address, "h\udcff", "<a@x>", ["<b@x>", "<c@x>"]),
        ("mx", address, "h\udcff", "<>", []),
    ]


@pytest.mark.parametrize("offer", [PLAIN, QUIET])
def test_kept_facts_are_known_without_a_callback(offer: str) -> None:
    seen: list[object] = []
    playbook = Playbook(filter_of({"eom": lambda ctx: seen.append(facts(ctx))})).play(offer)
    for line in ("C mx␀U", "H h␀", "M <a@x>␀", "R <b@x>␀", "E"):
        code, _, payload = line.partition(" ")
        playbook.send(code, payload.replace("␀", "\0").encode())
    assert playbook.answers()[-1] == "c"
    assert seen == [("mx", None, "h", "<a@x>", ["<b@x>"])]


@pytest.mark.parametrize(
    ("fact", "stage"),
    [
        ("hostname", "connect"),
        ("address", "connect"),
        ("helo", "helo"),
        ("sender", "envfrom"),
        ("recipients", "envrcpt"),
    ],
)
def test_fact_that_was_negotiated_away_raises_and_names_the_remedy(fact: str, stage: str) -> None:
    errors: list[str] = []

    def eom(ctx: Context) -> None:
        with pytest.raises(LocalProtocolError, match="negotiated away") as caught:
            getattr(ctx, fact)
        errors.append(str(caught.value))

    milter = filter_of({"eom": eom, "body": returns(None)}, keep=())
    Playbook(milter).play(PLAIN).play(">> B x\n<< c\n>> E\n<< c")
    (error,) = errors
    assert "keep=" in error
    assert f'"{stage}"' in error


def test_recipient_that_the_mta_refused_itself_is_no_fact() -> None:
    script = (
        CLIENT.replace("77f", "f7f")
        + ">> M <a@x>␀\n<< c\n>> D R{rcpt_mailer}␀error␀{rcpt_addr}␀550 no␀\n>> R <bad@x>␀\n<< c\n"
        + ">> D R{rcpt_mailer}␀local␀\n>> R <b@x>␀\n<< c\n>> E\n<< c"
    )
    assert observed(lambda ctx: ctx.recipients, script, "eom", steps=Step.RCPT_REJ) == [["<b@x>"]]


def test_facts_cannot_be_changed_through_the_list() -> None:
    def observe(ctx: Context) -> object:
        recipients = ctx.recipients
        assert recipients is not None
        recipients.append("<intruder@x>")
        return ctx.recipients

    assert observed(observe, CLIENT + ENVELOPE + ">> E\n<< c", "eom") == [["<b@example.org>"]]


def test_agreement_is_known_after_the_negotiation() -> None:
    def observe(ctx: Context) -> object:
        return ctx.version, ctx.actions, ctx.steps

    script = PLAIN.replace("O 6", "O 4").replace("77f", "37f") + ">> C x␀U\n<< c"
    assert observed(observe, script, "negotiate", "connect", actions=Action.ADDHDRS) == [
        (None, None, None),
        (4, Action.ADDHDRS, Step(0x370)),
    ]


def test_queue_id_is_macro_i() -> None:
    script = CLIENT + ">> M <a@x>␀\n<< c\n>> D Ri␀4X1␀\n>> R <b@x>␀\n<< c"
    assert observed(lambda ctx: ctx.queue_id, script, "envfrom", "envrcpt") == [None, "4X1"]


def test_there_is_no_deadline_yet() -> None:
    assert observed(lambda ctx: ctx.time_left(), CLIENT, "helo") == [None]


# --- log


def test_log_carries_connection_and_queue_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pmilter")

    def envfrom(ctx: Context, *_: str) -> None:
        ctx.log.info("from %s", "100% sure")

    playbook = Playbook(filter_of({"envfrom": envfrom}))
    playbook.play(CLIENT + ">> M <a@x>␀\n<< c\n>> A\n>> D Mi␀4X1␀\n>> M <a@x>␀\n<< c")
    first, second = caplog.records
    assert first.name == "pmilter"
    connection = getattr(first, "connection_id", "")
    assert first.getMessage() == f"[{connection}] from 100% sure"
    assert second.getMessage() == f"[{connection} 4X1] from 100% sure"
    assert (getattr(first, "queue_id", ""), getattr(second, "queue_id", "")) == (None, "4X1")


@pytest.mark.parametrize("queue_id", ["%s", "100%", "%d%n", r"\x1b[31m", r"a\r\nforged", r"\xff"])
def test_no_queue_id_breaks_or_forges_a_log_line(
    queue_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    def envfrom(ctx: Context, *_: str) -> None:
        ctx.log.warning("seen %d", 5)

    playbook = Playbook(filter_of({"envfrom": envfrom}))
    playbook.play(CLIENT + f">> D Mi␀{queue_id}␀\n>> M <a@x>␀\n<< c")
    (record,) = caplog.records
    assert record.getMessage().endswith("] seen 5")
    assert record.getMessage().isprintable()


def test_connections_have_different_ids() -> None:
    ids = [observed(lambda ctx: ctx.connection_id, CLIENT, "helo")[0] for _ in range(3)]
    assert len(set(ids)) == 3


def test_repr_shows_connection_and_state() -> None:
    (text,) = observed(repr, CLIENT, "helo")
    assert "HELO" in str(text)


# --- setsymlist


def negotiated(ask: Callable[[Context], object], offer: str = "6 1ff 1fffff") -> list[str]:
    def negotiate(ctx: Context, _offer: Options, _choice: Options) -> None:
        ask(ctx)

    milter = filter_of({"negotiate": negotiate, "eom": returns(None)}, keep=())
    return Playbook(milter).receive(parse(f"O {offer}")).answers()


@pytest.mark.parametrize(
    ("stage", "names", "sent"),
    [
        (MacroStage.CONNECT, "j {client_addr}", "␀␀␀␀j {client_addr}␀"),
        ("connect", ["j", "client_addr"], "␀␀␀␀j {client_addr}␀"),
        (3, "rcpt_addr,i", r"␀␀␀\x03{rcpt_addr} i␀"),
        ("envfrom", "", r"␀␀␀\x02␀"),
        ("eom", "i", r"␀␀␀\x05i␀␀␀␀\x06i␀"),
        (MacroStage.EOM, "i", r"␀␀␀\x05i␀␀␀␀\x06i␀"),
        ("eoh", "i", r"␀␀␀\x05i␀␀␀␀\x06i␀"),
    ],
)
def test_setsymlist_adds_braces_and_the_grant(stage: Any, names: Any, sent: str) -> None:
    (answer,) = negotiated(lambda ctx: ctx.setsymlist(stage, names))
    assert answer == f"O 6 100 37f+{sent}"


def test_setsymlist_of_eom_and_eoh_apart() -> None:
    def ask(ctx: Context) -> None:
        ctx.setsymlist("eoh", "a")
        ctx.setsymlist("eom", "b")

    assert negotiated(ask) == [r"O 6 100 37f+␀␀␀\x05b␀␀␀␀\x06a␀"]


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("abort", "i"),
        ("unknown", "i"),
        ("nonsense", "i"),
        (7, "i"),
        (-1, "i"),
        ("eom", "a\0b"),
        ("eom", ["a b"]),
        ("eom", ["{a"]),
        ("eom", ["ü"]),
        ("eom", [f"m{n}" for n in range(51)]),
    ],
)
def test_setsymlist_of_what_there_is_not(stage: Any, names: Any) -> None:
    def ask(ctx: Context) -> None:
        with pytest.raises(ConfigError):
            ctx.setsymlist(stage, names)

    assert negotiated(ask) == ["O 6 0 37f"]


def test_setsymlist_that_the_mta_does_not_offer_raises() -> None:
    def ask(ctx: Context) -> None:
        with pytest.raises(LocalProtocolError, match="SETSYMLIST"):
            ctx.setsymlist("eom", "i")

    assert negotiated(ask, "6 ff 1fffff") == ["O 6 0 37f"]


def test_setsymlist_outside_negotiate_raises() -> None:
    error = error_of(lambda ctx: ctx.setsymlist("eom", "i"), stage="connect")
    assert isinstance(error, LocalProtocolError)
    assert "negotiate" in str(error)
