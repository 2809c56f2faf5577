"""A filter behind the MTA in memory: what a test author gives, and what comes back."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Options, Reply, Status, Step
from pmilter.client import POSTFIX, SENDMAIL, Dialect
from pmilter.errors import ConfigError, LocalProtocolError, MilterTimeout, RemoteProtocolError
from pmilter.protocol.messages import AddHeader, ChgHeader, ReplBody
from pmilter.testing import Mta

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
MESSAGE = b"Subject: hello\n\nhello\n"
ALL_ACTIONS = Action(0x1FF)


def filter_with(**callbacks: Callable[..., Any]) -> Milter:
    milter = Milter("test", actions=ALL_ACTIONS)
    on: Any = milter.on
    for stage, function in callbacks.items():
        on(stage)(function)
    return milter


def at_eom(*calls: tuple[Any, ...]) -> Milter:
    """A filter that calls methods of its context at end of message."""

    def eom(ctx: Context) -> None:
        for name, *arguments in calls:
            getattr(ctx, name)(*arguments)

    return filter_with(eom=eom)


# --- results


@BOTH
def test_message_that_passes(dialect: str) -> None:
    with Mta(filter_with(eom=lambda _ctx: Status.CONTINUE), dialect=dialect) as mta:
        result = mta.send(MESSAGE, sender="a@example.com", recipients=["b@example.org"])
    assert (result.verdict, result.stage, result.reply) == ("accept", "eom", None)
    assert result.message == b"Subject: hello\r\n\r\nhello\r\n"
    assert (result.sender, result.recipients, result.rejected) == (
        "a@example.com",
        ["b@example.org"],
        {},
    )
    assert (result.quarantine, result.changes, result.errors) == (None, [], [])


@BOTH
def test_filter_without_callbacks(dialect: str) -> None:
    with Mta(Milter(), dialect=dialect) as mta:
        assert mta.send(MESSAGE).verdict == "accept"


@BOTH
@pytest.mark.parametrize("stage", ["envfrom", "data", "header", "eoh", "body", "eom"])
@pytest.mark.parametrize(
    ("returned", "verdict", "reply"),
    [
        (Status.ACCEPT, "accept", None),
        (Status.REJECT, "reject", None),
        (Status.TEMPFAIL, "tempfail", None),
        (Status.DISCARD, "discard", None),
        (Reply(550, "5.7.1", "no 100%"), "reject", "550 5.7.1 no 100%"),
        (Reply(450, None, "one", "two"), "tempfail", "450-one\n450 two"),
    ],
)
def test_verdict_at_a_stage(
    dialect: str, stage: str, returned: Any, verdict: str, reply: str | None
) -> None:
    seen: list[str] = []
    milter = filter_with(
        **{stage: lambda *_: returned},
        close=lambda _: seen.append("close"),
        abort=lambda _: seen.append("abort"),
    )
    with Mta(milter, dialect=dialect) as mta:
        result = mta.send(MESSAGE)
    assert (result.verdict, result.stage, result.reply) == (verdict, stage, reply)
    assert (result.message is not None) == (verdict == "accept")
    assert seen == ["close"]


@BOTH
@pytest.mark.parametrize("stage", ["connect", "helo"])
@pytest.mark.parametrize(
    ("returned", "verdict"),
    [
        (Status.ACCEPT, "accept"),
        (Status.REJECT, "reject"),
        (Reply(450, "4.7.1", "later"), "tempfail"),
    ],
)
def test_verdict_on_the_connection_holds_for_all_messages(
    dialect: str, stage: str, returned: Any, verdict: str
) -> None:
    calls: list[str] = []
    milter = filter_with(
        **{stage: lambda *_: returned},
        envfrom=lambda *_: calls.append("envfrom"),
        close=lambda _: calls.append("close"),
    )
    with Mta(milter, dialect=dialect) as mta:
        results = [mta.send(MESSAGE), mta.send(MESSAGE)]
    assert [(result.verdict, result.stage) for result in results] == [(verdict, stage)] * 2
    assert calls == ["close"]


def test_reply_at_connect_is_reported_though_sendmail_loses_it() -> None:
    with Mta(
        filter_with(connect=lambda *_: Reply(550, "5.7.1", "go away")), dialect="sendmail"
    ) as mta:
        assert mta.send(MESSAGE).reply == "550 5.7.1 go away"


# --- recipients


def refuse_nobody(_ctx: Context, rcpt: str, *_args: str) -> Status | Reply:
    if rcpt == "<nobody@example.com>":
        return Reply(550, "5.1.1", "no such user")
    return Status.TEMPFAIL if rcpt == "<later@example.com>" else Status.CONTINUE


@BOTH
def test_refused_recipients_do_not_concern_the_others(dialect: str) -> None:
    with Mta(filter_with(envrcpt=refuse_nobody), dialect=dialect) as mta:
        result = mta.send(
            MESSAGE, recipients=["nobody@example.com", "b@example.org", "later@example.com"]
        )
    assert result.verdict == "accept"
    assert result.recipients == ["b@example.org"]
    assert result.rejected == {
        "nobody@example.com": "550 5.1.1 no such user",
        "later@example.com": "tempfail",
    }


@BOTH
def test_message_whose_only_recipient_is_refused(dialect: str) -> None:
    aborts: list[Context] = []
    # Sendmail aborts only what MAIL was answered for, hence the callback.
    milter = filter_with(envfrom=lambda *_: None, envrcpt=refuse_nobody, abort=aborts.append)
    with Mta(milter, dialect=dialect) as mta:
        refused = mta.send(MESSAGE, recipients=["nobody@example.com"])
        assert len(aborts) == 1
        taken = mta.send(MESSAGE)
    assert (refused.verdict, refused.stage, refused.reply) == (
        "reject",
        "envrcpt",
        "550 5.1.1 no such user",
    )
    assert (refused.message, refused.recipients) == (None, [])
    assert taken.verdict == "accept"


@BOTH
def test_recipient_that_the_mta_refuses_is_shown_to_a_filter_that_asks(dialect: str) -> None:
    seen: list[tuple[str, str | None]] = []
    milter = Milter(steps=Step.RCPT_REJ)
    milter.on("envrcpt")(lambda ctx, rcpt, *_: seen.append((rcpt, ctx.getsymval("rcpt_mailer"))))
    with Mta(milter, dialect=dialect) as mta:
        result = mta.send(
            MESSAGE, recipients=["no@x", "b@x"], refused={"no@x": "550 5.1.1 User unknown"}
        )
    assert seen == [("<no@x>", "error"), ("<b@x>", "smtp" if dialect == "postfix" else "esmtp")]
    assert (result.recipients, result.rejected) == (["b@x"], {"no@x": "550 5.1.1 User unknown"})


@BOTH
def test_addresses_and_parameters_as_the_filter_sees_them(dialect: str) -> None:
    seen: list[tuple[str, ...]] = []
    milter = filter_with(
        envfrom=lambda _, *args: seen.append(args), envrcpt=lambda _, *args: seen.append(args)
    )
    with Mta(milter, dialect=dialect) as mta:
        mta.send(
            MESSAGE,
            sender=("a@x", "SIZE=10", "BODY=8BITMIME"),
            recipients=[("b@x", "NOTIFY=NEVER"), "<c@x>"],
        )
        result = mta.send(MESSAGE, sender="", recipients=["us\u00e9r@x", "\udce9@x"])
    assert seen == [
        ("<a@x>", "SIZE=10", "BODY=8BITMIME"), ("<b@x>", "NOTIFY=NEVER"), ("<c@x>",), ("<>",), ("<us\u00e9r@x>",), ("<\udce9@x>",),
    ]  # fmt: skip
    assert (result.sender, result.recipients) == ("", ["us\u00e9r@x", "\udce9@x"])


# --- changes


@BOTH
def test_changes_are_applied_and_listed_in_order(dialect: str) -> None:
    milter = at_eom(
        ("replacebody", b"new\n"), ("addheader", "X-Tagged", "yes"), ("insheader", "X-Top", "0"), ("chgheader", "Subject", 1, "bye"),
        ("addrcpt", "<c@x>"), ("delrcpt", "<b@x>"), ("chgfrom", "<new@x>"), ("quarantine", "suspicious"), ("progress",),
    )  # fmt: skip
    with Mta(milter, dialect=dialect) as mta:
        result = mta.send(MESSAGE, recipients=["b@x"])
        assert mta.changes == result.changes
    assert result.message == b"X-Top: 0\r\nSubject: bye\r\nX-Tagged: yes\r\n\r\nnew\r\n"
    assert (result.sender, result.recipients, result.quarantine) == ("new@x", ["c@x"], "suspicious")
    assert [type(change).__name__ for change in result.changes] == [
        "AddHeader", "InsHeader", "ChgHeader", "AddRcpt", "DelRcpt", "ChgFrom", "Quarantine", "ReplBody",
    ]  # fmt: skip
    assert result.changes[0] == AddHeader(b"X-Tagged", b"yes")
    assert result.changes[2] == ChgHeader(1, b"Subject", b"bye")
    assert result.changes[-1] == ReplBody(b"new\n")


@pytest.mark.parametrize(
    ("dialect", "left"), [("postfix", b""), ("sendmail", b"Received: two\r\nReceived: three\r\n")]
)
def test_deletion_of_the_first_three_times(dialect: str, left: bytes) -> None:
    message = b"Received: one\nReceived: two\nReceived: three\n\nx\n"
    with Mta(at_eom(*[("chgheader", "Received", 1, "")] * 3), dialect=dialect) as mta:
        assert mta.send(message).message == left + b"\r\nx\r\n"


def test_hdr_leadspc_keeps_values_exact_both_ways() -> None:
    seen: list[str] = []
    milter = Milter(actions=Action.ADDHDRS, steps=Step.HDR_LEADSPC)
    milter.on("header")(lambda _, _name, value: seen.append(value))
    milter.on("eom")(lambda ctx: ctx.addheader("C", "exact"))
    with Mta(milter) as mta:
        result = mta.send(b"A: one\nB:two\n\n")
    assert seen == [" one", "two"]
    assert result.message == b"A: one\r\nB:two\r\nC:exact\r\n\r\n"


def test_refused_message_has_no_changes_applied() -> None:
    def eom(ctx: Context) -> Status:
        ctx.addheader("X", "1")
        ctx.chgfrom("new@x")
        return Status.REJECT

    with Mta(filter_with(eom=eom)) as mta:
        result = mta.send(MESSAGE, sender="a@x")
    assert (result.message, result.sender, result.changes) == (None, "a@x", [])


@BOTH
def test_body_of_several_chunks(dialect: str) -> None:
    chunks: list[bytes] = []
    body = b"0123456789abcdef" * 10_000
    with Mta(filter_with(body=lambda _, chunk: chunks.append(chunk)), dialect=dialect) as mta:
        result = mta.send(b"A: 1\n\n" + body)
    assert [len(chunk) for chunk in chunks] == [65535, 65535, len(body) + 2 - 2 * 65535]
    assert b"".join(chunks) == body + b"\r\n"
    assert result.message == b"A: 1\r\n\r\n" + body + b"\r\n"


def test_skip_ends_the_body_and_not_the_message() -> None:
    calls: list[str] = []
    milter = filter_with(
        body=lambda _ctx, _chunk: calls.append("body") or Status.SKIP,  # type: ignore[func-returns-value]  # it returns None
        eom=lambda _: calls.append("eom"),
    )
    with Mta(milter) as mta:
        assert mta.send(b"A: 1\n\n" + b"x" * 200_000).verdict == "accept"
    assert calls == ["body", "eom"]


# --- macros


@pytest.mark.parametrize(
    ("dialect", "where"),
    [
        ("postfix", ["second envrcpt", "data", "header", "eoh", "body", "eom"]),
        (
            "sendmail",
            ["envfrom", "first envrcpt", "second envrcpt", "data", "header", "eoh", "body", "eom"],
        ),
    ],
)
def test_where_the_queue_id_is_known(dialect: str, where: list[str]) -> None:
    known: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda ctx, *_: (
            known.append(name) if ctx.getsymval("i") == ctx.queue_id == "4X1" else None
        )

    names = iter(["first envrcpt", "second envrcpt"])
    callbacks = {
        stage: note(stage)
        for stage in ("connect", "helo", "envfrom", "data", "header", "eoh", "body", "eom")
    }
    callbacks["envrcpt"] = lambda ctx, *_: note(next(names))(ctx)
    with Mta(filter_with(**callbacks), dialect=dialect) as mta:
        mta.send(MESSAGE, recipients=["b@x", "c@x"], macros={"i": "4X1"})
    assert known == where


def macro_at(
    stage: str, wanted: str, dialect: str, message: Any, session: Any = None
) -> str | None:
    values: list[str | None] = []
    milter = filter_with(**{stage: lambda ctx, *_: values.append(ctx.getsymval(wanted))})
    with Mta(milter, dialect=dialect, macros=session) as mta:
        mta.send(MESSAGE, macros=message)
    return values[0]


@BOTH
def test_macros_of_connect_may_come_with_the_first_message(dialect: str) -> None:
    assert macro_at("connect", "j", dialect, {"j": "mx.example.test"}) == "mx.example.test"


@BOTH
def test_macros_for_a_stage(dialect: str) -> None:
    macros = {"helo": {"tls_version": "TLSv1.3"}, "data": {"i": "4X1"}}
    assert macro_at("helo", "{tls_version}", dialect, macros) == "TLSv1.3"
    assert macro_at("data", "i", dialect, macros) == "4X1"


@BOTH
def test_macros_of_the_session(dialect: str) -> None:
    assert macro_at("eom", "auth_authen", dialect, None, {"auth_authen": "joe"}) == "joe"


@pytest.mark.parametrize(("dialect", "value"), [("postfix", None), ("sendmail", "<1@x>")])
def test_message_id_is_a_macro_of_sendmail(dialect: str, value: str | None) -> None:
    values: list[str | None] = []
    with Mta(
        filter_with(eom=lambda ctx: values.append(ctx.getsymval("msg_id"))), dialect=dialect
    ) as mta:
        mta.send(b"Message-ID: <1@x>\n\n")
    assert values == [value]


@BOTH
def test_macros_that_the_filter_asks_for(dialect: str) -> None:
    values: list[dict[str, str]] = []
    milter = Milter()
    milter.on("envfrom", macros="{client_addr} {mail_addr}")(
        lambda ctx, *_: values.append(dict(ctx.macros))
    )
    with Mta(milter, dialect=dialect, connect=("mx.example", "192.0.2.7")) as mta:
        mta.send(MESSAGE, sender="a@x")
    assert values[0]["client_addr"] == "192.0.2.7"
    assert values[0]["mail_addr"] == "a@x"
    assert "mail_host" not in values[0]


# --- the client


@pytest.mark.parametrize(
    ("connect", "dialect", "seen"),
    [
        (("mx.example", "192.0.2.7", 25), "postfix", ("mx.example", ("192.0.2.7", 25))),
        ((None, "192.0.2.7", 25), "sendmail", ("[192.0.2.7]", ("192.0.2.7", 25))),
        (("v6.example", "2001:db8::1", 25), "postfix", ("v6.example", ("2001:db8::1", 25, 0, 0))),
        (("v6.example", "2001:db8::1", 25), "sendmail", ("v6.example", ("2001:db8::1", 25, 0, 0))),
        ("/run/x.sock", "postfix", ("localhost", "/run/x.sock")),
        (None, "postfix", ("unknown", None)),
        (None, "sendmail", ("localhost", None)),
    ],
)
def test_client_as_the_filter_sees_it(connect: Any, dialect: str, seen: tuple[Any, ...]) -> None:
    calls: list[tuple[Any, ...]] = []
    with Mta(
        filter_with(connect=lambda _, *args: calls.append(args)), connect=connect, dialect=dialect
    ) as mta:
        mta.send(MESSAGE)
    assert calls == [seen]


@BOTH
def test_client_that_does_not_greet(dialect: str) -> None:
    calls: list[str] = []
    with Mta(
        filter_with(helo=lambda _, name: calls.append(name)), dialect=dialect, helo=None
    ) as mta:
        assert mta.send(MESSAGE).verdict == "accept"
    assert calls == []


# --- the session


@BOTH
def test_state_of_one_message_is_not_seen_by_the_next(dialect: str) -> None:
    facts: list[Any] = []

    def eom(ctx: Context) -> None:
        facts.append((ctx.sender, ctx.recipients, dict(vars(ctx.state))))
        ctx.state.x = 1

    milter = filter_with(eom=eom)
    with Mta(milter, dialect=dialect) as mta:
        mta.send(MESSAGE, sender="a@x", recipients=["b@x"])
        mta.send(MESSAGE, sender="c@x", recipients=["d@x"])
    assert facts == [("<a@x>", ["<b@x>"], {}), ("<c@x>", ["<d@x>"], {})]


@pytest.mark.parametrize(
    ("dialect", "seen"), [("postfix", ["FROB", "FROB"]), ("sendmail", ["FROB one"])]
)
def test_unknown_commands(dialect: str, seen: list[str]) -> None:
    calls: list[str] = []
    with Mta(filter_with(unknown=lambda _, command: calls.append(command)), dialect=dialect) as mta:
        assert mta.unknown("FROB one").status is Status.CONTINUE
        mta.send(MESSAGE)
        mta.unknown("FROB two")  # Sendmail tells of none between messages
    assert calls == seen


@BOTH
def test_abort_runs_once_for_a_message_that_is_reset(dialect: str) -> None:
    calls: list[str] = []
    milter = filter_with(
        envfrom=lambda *_: None,
        abort=lambda _: calls.append("abort"),
        close=lambda _: calls.append("close"),
    )
    with Mta(milter, dialect=dialect) as mta:
        mta.envfrom("a@x")
        mta.envrcpt("b@x")
        mta.rset()
        mta.rset()
        assert calls == ["abort"]
        assert mta.send(MESSAGE).verdict == "accept"
    assert calls == ["abort", "close"]


@BOTH
def test_abort_and_close_run_when_the_connection_is_lost(dialect: str) -> None:
    calls: list[str] = []
    milter = filter_with(
        abort=lambda _: calls.append("abort"), close=lambda _: calls.append("close")
    )
    with Mta(milter, dialect=dialect) as mta:
        mta.envfrom("a@x")
        mta.drop()
        assert calls == ["abort", "close"]
        with pytest.raises(LocalProtocolError, match="closed"):
            mta.send(MESSAGE)
    assert calls == ["abort", "close"]


@BOTH
def test_message_by_hand(dialect: str) -> None:
    seen: list[Any] = []
    milter = filter_with(
        header=lambda _, name, value: seen.append((name, value)),
        body=lambda _, chunk: seen.append(chunk),
        eom=lambda ctx: ctx.addheader("X", "1"),
    )
    with Mta(milter, dialect=dialect) as mta:
        stages = [
            mta.open(), mta.helo("again"), mta.envfrom("a@x"), mta.envrcpt("b@x"), mta.data(), mta.header("Subject", "hi"),
            mta.eoh(), mta.body(b"text\r\n"), mta.eom(),
        ]  # fmt: skip
        assert mta.changes == [AddHeader(b"X", b"1")]
    assert {verdict.status for verdict in stages} == {Status.CONTINUE}
    assert seen == [("Subject", "hi"), b"text\r\n"]


def test_helo_again_aborts_the_message() -> None:
    calls: list[str] = []
    milter = filter_with(
        abort=lambda _: calls.append("abort"), helo=lambda _, name: calls.append(name)
    )
    with Mta(milter, dialect="sendmail", helo="first") as mta:
        mta.envfrom("a@x")
        mta.helo("second")
    assert calls == ["first", "abort", "second"]


def test_nothing_runs_before_the_session_is_needed() -> None:
    calls: list[str] = []
    milter = filter_with(
        connect=lambda *_: calls.append("connect"), close=lambda _: calls.append("close")
    )
    with Mta(milter) as mta:
        assert mta.agreement is None
        assert calls == []
    assert calls == []
    with Mta(milter) as mta:
        mta.open()
        assert calls == ["connect"]
    assert calls == ["connect", "close"]


@BOTH
def test_421_ends_the_session(dialect: str) -> None:
    calls: list[str] = []
    milter = filter_with(
        envrcpt=lambda ctx, *_: ctx.shutdown(), close=lambda _: calls.append("close")
    )
    with Mta(milter, dialect=dialect) as mta:
        result = mta.send(MESSAGE)
        assert calls == ["close"]
        with pytest.raises(LocalProtocolError, match="closed"):
            mta.send(MESSAGE)
    assert (result.verdict, result.stage) == ("tempfail", "envrcpt")
    assert result.reply is not None
    assert result.reply.startswith("421 4.7.0")


# --- older MTAs


@BOTH
@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_versions(dialect: str, version: int) -> None:
    calls: list[str] = []
    milter = filter_with(
        data=lambda _: calls.append("data"), unknown=lambda *_: calls.append("unknown")
    )
    with Mta(milter, dialect=dialect, version=version) as mta:
        mta.unknown("FROB")
        assert mta.send(MESSAGE).verdict == "accept"
        assert mta.agreement is not None
        assert mta.agreement.version == version
    assert calls == ["unknown"] * (version >= 3) + ["data"] * (version >= 4)


def test_offer_of_ones_own() -> None:
    errors: list[Exception] = []

    def eom(ctx: Context) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            ctx.addrcpt("c@x")
        errors.append(caught.value)

    with Mta(filter_with(eom=eom), offer=Options(6, Action.ADDHDRS, 0)) as mta:
        assert mta.send(MESSAGE).verdict == "accept"
        assert mta.agreement == Options(6, Action.ADDHDRS, 0)
    assert errors


# --- exceptions


@BOTH
def test_exceptions_are_reported_with_their_message(dialect: str) -> None:
    def header(_ctx: Context, name: str, _value: str) -> None:
        if name == "X-Bad":
            raise KeyError(name)

    with Mta(filter_with(header=header), dialect=dialect) as mta:
        first = mta.send(b"X-Bad: 1\n\n")
        second = mta.send(MESSAGE)
        assert mta.errors == first.errors
    assert (first.verdict, first.stage) == ("tempfail", "header")
    assert [type(error) for error in first.errors] == [KeyError]
    assert (second.verdict, second.errors) == ("accept", [])


def test_exceptions_on_connect_are_in_the_first_result() -> None:
    with Mta(filter_with(connect=lambda *_: 1 / 0)) as mta:
        result = mta.send(MESSAGE)
    assert (result.verdict, result.stage) == ("tempfail", "connect")
    assert [type(error) for error in result.errors] == [ZeroDivisionError]


def test_exceptions_in_close_are_kept() -> None:
    with Mta(filter_with(close=lambda _: 1 / 0, eoh=lambda _: None)) as mta:
        mta.send(MESSAGE)
    assert [type(error) for error in mta.errors] == [ZeroDivisionError]


def test_system_exit_is_an_error_and_keyboard_interrupt_ends_the_test() -> None:
    def leave(_ctx: Context, sender: str, *_args: str) -> None:
        raise SystemExit(1) if sender == "<a@x>" else KeyboardInterrupt

    mta = Mta(filter_with(envfrom=leave))
    assert [type(error) for error in mta.send(MESSAGE, sender="a@x").errors] == [SystemExit]
    with pytest.raises(KeyboardInterrupt):
        mta.send(MESSAGE, sender="b@x")


@pytest.mark.parametrize(
    ("action", "verdict"), [("tempfail", "tempfail"), ("reject", "reject"), ("accept", "accept")]
)
def test_default_action_where_the_filter_breaks_the_protocol(action: str, verdict: str) -> None:
    calls: list[str] = []
    mta = Mta(
        filter_with(close=lambda _: calls.append("close"), header=lambda *_: None),
        default_action=action,
    )
    mta.open()
    mta.dialogue.session.receive(b"\x00\x00\x00\x01z")  # as if the filter had sent this
    results = [mta.send(MESSAGE), mta.send(MESSAGE)]
    assert [(result.verdict, result.stage) for result in results] == [(verdict, "envfrom")] * 2
    assert [type(error) for error in results[0].errors] == [RemoteProtocolError]
    assert (results[0].message is not None) == (action == "accept")
    assert calls == []  # no callback has run, so close does not either


# --- coroutines


@BOTH
def test_coroutine_callbacks(dialect: str) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def note(ctx: Context, *_: object) -> None:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        ctx.priv = (ctx.priv or 0) + 1

    async def eom(ctx: Context) -> Reply:
        return Reply(550, "5.7.1", f"{ctx.priv} before")

    with Mta(filter_with(envfrom=note, header=note, eom=eom), dialect=dialect) as mta:
        assert mta.send(MESSAGE).reply == "550 5.7.1 2 before"
    assert loops[0] is loops[1]
    assert loops[0].is_closed()


def test_exception_of_a_coroutine_callback() -> None:
    async def eom(_ctx: Context) -> None:
        await asyncio.sleep(0)
        raise LookupError

    with Mta(filter_with(eom=eom)) as mta:
        assert [type(error) for error in mta.send(MESSAGE).errors] == [LookupError]


def test_coroutine_callbacks_within_a_test_that_is_a_coroutine_itself() -> None:
    async def eom(_ctx: Context) -> Status:
        await asyncio.sleep(0)
        return Status.DISCARD

    async def check() -> str:
        with Mta(filter_with(eom=eom)) as mta:
            return mta.send(MESSAGE).verdict

    assert asyncio.run(check()) == "discard"


def test_coroutines_run_in_the_thread_of_the_test() -> None:
    database = sqlite3.connect(":memory:")  # refuses to be used by another thread

    async def eom(_ctx: Context) -> None:
        database.execute("create table t (x)")

    with Mta(filter_with(eom=eom)) as mta:
        assert mta.send(MESSAGE).errors == []
    database.close()


# --- wrong use


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "exim"},
        {"version": 1},
        {"version": 7},
        {"default_action": "hold"},
        {"connect": ("mx", "nowhere")},
        {"macros": {"quit": {}}},
    ],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Mta(Milter(), **options)


def test_wrong_arguments_of_send() -> None:
    with Mta(Milter()) as mta:
        with pytest.raises(TypeError, match="message"):
            mta.send("text")  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match="recipients"):
            mta.send(MESSAGE, recipients="b@example.org")
        with pytest.raises(TypeError, match="sender"):
            mta.send(MESSAGE, sender=b"a@x")  # type: ignore[arg-type]  # what is tested
        with pytest.raises(LocalProtocolError, match="recipients"):
            mta.send(MESSAGE, recipients=[])
        assert mta.send(bytearray(MESSAGE)).verdict == "accept"


def test_stages_out_of_order() -> None:
    with Mta(filter_with(eom=lambda _: None)) as mta:
        with pytest.raises(LocalProtocolError, match="order"):
            mta.envrcpt("b@x")
        assert mta.send(MESSAGE).verdict == "accept"


def test_dialect_of_ones_own() -> None:
    calls: list[str] = []
    with Mta(filter_with(unknown=lambda _, line: calls.append(line)), dialect=SENDMAIL) as mta:
        mta.unknown("FROB x")
    assert calls == ["FROB x"]
    assert isinstance(POSTFIX, Dialect)


def test_timeouts_are_errors_of_ours() -> None:
    assert issubclass(MilterTimeout, TimeoutError)
