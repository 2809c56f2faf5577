"""What a filter is told in the course of an SMTP session, and that nothing of one message is seen in the next."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Context, Milter, Reply, Status
from pmilter.testing import Mta
from pmilter.testing.rig.daemon import wait_for
from tests.e2e.prediction import CLIENT, HELO, simulate
from tests.e2e.realmta import MESSAGE, Letter
from tests.e2e.witness import Witness, names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pmilter.testing.rig import Instance, Postfix, SmtpClient, SmtpResult
    from tests.e2e.realmta import RealMta
    from tests.e2e.witness import Event

pytestmark = pytest.mark.mta

CONTENT = ["header"] * 5 + ["eoh", "body", "eom"]
PLAIN = ["envfrom", "envrcpt", "data", *CONTENT]


def told(
    real_mta: RealMta,
    witness: Witness,
    session: Callable[[SmtpClient], object],
    model: Callable[[Mta], object],
    delivered: int,
) -> list[Event]:
    """Play a session through the real MTA and through the model; return what the filter was told, the same by both."""
    with real_mta.asking(witness.milter) as mta, mta.client() as client:
        session(client)
    assert len(real_mta.arrivals(delivered)) == delivered
    real = witness.take()
    with Mta(witness.milter, connect=CLIENT, helo=HELO, dialect=real_mta.name) as memory:
        model(memory)
    assert real == witness.take()
    return real


def test_all_that_a_message_tells(real_mta: RealMta) -> None:
    letter = Letter(
        MESSAGE, "A@Example.com", ("b@example.org", "c@example.org"), ("SIZE=200", "BODY=8BITMIME")
    )
    events = told(
        real_mta,
        Witness(),
        lambda client: _check(letter.send(client)),
        lambda mta: simulate(mta, letter),
        1,
    )
    assert events == [
        ("connect", "localhost", "127.0.0.1"),
        ("helo", "client.example.com"),
        ("envfrom", "<A@Example.com>", "SIZE=200", "BODY=8BITMIME"),
        ("envrcpt", "<b@example.org>"),
        ("envrcpt", "<c@example.org>"),
        ("data",),
        ("header", "From", "a@example.com"),
        ("header", "To", "b@example.org"),
        ("header", "Subject", "hello"),
        ("header", "Date", "Thu, 1 Jan 2026 00:00:00 +0000"),
        ("header", "Message-Id", "<1@example.com>"),
        ("eoh",),
        ("body", b"hello\r\n"),
        ("eom",),
        ("close",),
    ]


def _check(result: SmtpResult) -> None:
    assert result.code == 250


def send_all(letters: Sequence[Letter]) -> Callable[[SmtpClient], object]:
    return lambda client: [letter.send(client) for letter in letters]


def test_several_messages_on_a_connection(real_mta: RealMta) -> None:
    letters = [Letter(sender=f"{n}@example.com") for n in range(3)]
    events = told(
        real_mta,
        Witness(),
        send_all(letters),
        lambda mta: [simulate(mta, letter) for letter in letters],
        3,
    )
    assert names(events) == ["connect", "helo", *PLAIN * 3, "close"]


def test_reset_in_the_middle(real_mta: RealMta) -> None:
    def session(client: SmtpClient) -> None:
        client.helo()
        client.command("RSET")
        client.command("MAIL FROM:<one@example.com>")
        client.command("RSET")
        client.command("MAIL FROM:<two@example.com>")
        client.command("RCPT TO:<b@example.org>")
        client.command("RSET")
        client.command("RSET")
        _check(client.send(MESSAGE))
        client.command("RSET")

    def model(mta: Mta) -> None:
        mta.rset()
        mta.envfrom("one@example.com")
        mta.rset()
        mta.envfrom("two@example.com")
        mta.envrcpt("b@example.org")
        mta.rset()
        mta.rset()
        mta.send(MESSAGE, "a@example.com", ["b@example.org"])
        mta.rset()

    events = told(real_mta, Witness(), session, model, 1)
    begun = ["envfrom", "abort", "envfrom", "envrcpt", "abort"]
    assert names(events) == ["connect", "helo", *begun, *PLAIN, "close"]


def test_second_greeting(real_mta: RealMta) -> None:
    def session(client: SmtpClient) -> None:
        client.helo()
        client.helo("again.example.com")
        client.command("MAIL FROM:<one@example.com>")
        client.helo("third.example.com")
        _check(client.send(MESSAGE))

    def model(mta: Mta) -> None:
        mta.helo("again.example.com")
        mta.envfrom("one@example.com")
        mta.helo("third.example.com")
        mta.send(MESSAGE, "a@example.com", ["b@example.org"])

    events = told(real_mta, Witness(), session, model, 1)
    assert [event[1] for event in events if event[0] == "helo"] == [
        "client.example.com", "again.example.com", "third.example.com",
    ]  # fmt: skip
    assert names(events).count("abort") == 1
    assert names(events)[-len(PLAIN) - 1 :] == [*PLAIN, "close"]


@pytest.mark.parametrize("verdict", [Status.ACCEPT, Status.REJECT, Reply(450, "4.7.1", "later")])
def test_verdict_on_a_second_greeting(real_mta: RealMta, verdict: Any) -> None:
    witness = Witness({"helo": lambda _ctx, name: verdict if name == "again.example.com" else None})
    delivered = int(verdict is Status.ACCEPT)

    def session(client: SmtpClient) -> None:
        client.helo()
        _check(client.send(MESSAGE))
        client.helo("again.example.com")
        assert (client.send(MESSAGE).stage is None) == bool(delivered)

    def model(mta: Mta) -> None:
        mta.send(MESSAGE, "a@example.com", ["b@example.org"])
        mta.helo("again.example.com")
        mta.send(MESSAGE, "a@example.com", ["b@example.org"])

    events = told(real_mta, witness, session, model, 1 + delivered)
    assert names(events) == ["connect", "helo", *PLAIN, "helo", "close"]


def test_unknown_commands(real_mta: RealMta) -> None:
    def session(client: SmtpClient) -> None:
        client.helo()
        client.command("FOOBAR one two")
        client.command("MAIL FROM:<a@example.com>")
        client.command("foobar")
        client.command("RCPT TO:<b@example.org>")
        client.command("X")
        client.data(MESSAGE)

    def model(mta: Mta) -> None:
        mta.unknown("FOOBAR one two")
        mta.envfrom("a@example.com")
        mta.unknown("foobar")
        mta.envrcpt("b@example.org")
        mta.unknown("X")
        mta.data()
        for line in MESSAGE.decode().split("\n\n")[0].split("\n"):
            mta.header(*line.split(": ", 1))
        mta.eoh()
        mta.body(b"hello\r\n")
        mta.eom()

    events = told(real_mta, Witness(), session, model, 1)
    line = "FOOBAR one two" if real_mta.name == "sendmail" else "FOOBAR"
    assert [event[1] for event in events if event[0] == "unknown"] == [line, "foobar", "X"]


# Not DISCARD at envfrom: Postfix shows such a message once more, on a connection of its own, to non_smtpd_milters.
@pytest.mark.parametrize(
    ("stage", "verdict"),
    [
        (stage, verdict)
        for stage in ("envfrom", "data", "header", "body", "eom")
        for verdict in (Status.ACCEPT, Status.REJECT, Status.DISCARD)
        if (stage, verdict) != ("envfrom", Status.DISCARD)
    ],
)
def test_message_decided_early_is_told_no_further(
    real_mta: RealMta, stage: str, verdict: Status
) -> None:
    letters = [Letter(sender=f"{n}@example.com") for n in range(2)]
    witness = Witness({stage: verdict})
    events = told(
        real_mta,
        witness,
        send_all(letters),
        lambda mta: [simulate(mta, letter) for letter in letters],
        2 if verdict is Status.ACCEPT else 0,
    )
    shown = PLAIN[: PLAIN.index(stage) + 1]
    assert names(events) == ["connect", "helo", *shown * 2, "close"]


def test_body_is_skipped(real_mta: RealMta) -> None:
    letter = Letter(MESSAGE + 4_000 * (70 * b"x" + b"\n"))
    witness = Witness({"body": Status.SKIP})
    events = told(
        real_mta,
        witness,
        lambda client: _check(letter.send(client)),
        lambda mta: simulate(mta, letter),
        1,
    )
    assert names(events) == ["connect", "helo", *PLAIN, "close"]


def test_client_that_drops_the_connection(real_mta: RealMta) -> None:
    witness = Witness()
    with real_mta.asking(witness.milter) as mta, mta.client() as client:
        _check(client.send(MESSAGE))
        client.command("MAIL FROM:<two@example.com>")
        client.command("RCPT TO:<b@example.org>")
        client.command("DATA")
        client.write(b"Subject: never ends\r\n\r\nx\r\n")
        client.abort()
    assert len(real_mta.arrivals(1)) == 1
    events = names(witness.take())
    assert events[: 2 + len(PLAIN)] == ["connect", "helo", *PLAIN]
    assert events[-2:] == ["abort", "close"]
    assert events.count("abort") == 1


def test_commands_in_one_packet(real_mta: RealMta) -> None:
    commands = (
        b"MAIL FROM:<one@example.com>\r\nRSET\r\n"
        b"MAIL FROM:<two@example.com>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n"
    )
    witness = Witness()
    with real_mta.asking(witness.milter) as mta, mta.client() as client:
        client.helo()
        client.write(commands)
        assert [client.read().code for _ in range(6)] == [250, 250, 250, 250, 250, 354]
        client.write(
            MESSAGE.replace(b"\n", b"\r\n") + b".\r\nMAIL FROM:<three@example.com>\r\nQUIT\r\n"
        )
        assert [client.read().code for _ in range(3)] == [250, 250, 221]
    [arrival] = real_mta.arrivals(1)
    assert (arrival.sender, arrival.recipients) == (
        "two@example.com",
        ("b@example.org", "c@example.org"),
    )
    message = ["envfrom", "envrcpt", *PLAIN[1:]]
    assert names(witness.take()) == [
        "connect", "helo", "envfrom", "abort", *message, "envfrom", "abort", "close",
    ]  # fmt: skip


def test_second_filter_sees_what_the_first_has_changed(
    mta_factory: Callable[..., Instance],
) -> None:
    changing = Witness(
        {"eom": lambda ctx: (ctx.addheader("X-First", "1"), ctx.replacebody(b"new\r\n"))[0]}
    )
    watching = Witness({"eom": lambda ctx: ctx.chgheader("X-First", 1, "2")})
    mta = mta_factory(changing.milter, watching.milter)
    assert mta.send(MESSAGE).code == 250
    [delivered] = mta.delivered()
    assert (delivered.header("X-First"), delivered.body) == (["2"], b"new\r\n")
    told = watching.take()
    assert ("header", "X-First", "1") in told
    assert ("body", b"new\r\n") in told


@pytest.mark.parametrize(
    ("attributes", "client"),
    [
        ("ADDR=192.0.2.1 NAME=mx.example.net", ("mx.example.net", "192.0.2.1")),
        ("ADDR=192.0.2.2 NAME=[UNAVAILABLE]", (None, "192.0.2.2")),
        ("ADDR=IPV6:2001:db8:0:0::1 NAME=six.example.net", ("six.example.net", "2001:db8::1")),
    ],
)
def test_client_of_another_name(
    postfix: Callable[..., Postfix], attributes: str, client: tuple[str | None, str]
) -> None:
    witness = Witness()
    with postfix(witness.milter).client() as smtp:
        smtp.helo()
        assert smtp.command(f"XCLIENT {attributes}").code == 220
        _check(smtp.send(MESSAGE, helo="mx.example.net"))
    assert wait_for(lambda: names(witness.seen).count("close") == 2, timeout=10)
    real = witness.take()
    with Mta(witness.milter, connect=client, helo="client.example.com") as memory:
        simulate(memory, Letter())
    assert [event for event in real if event[0] == "connect"][1:] == [
        event for event in witness.take() if event[0] == "connect"
    ]


# --- state


def test_nothing_of_a_message_is_seen_in_the_next(real_mta: RealMta) -> None:
    milter = Milter("state")
    facts: list[Any] = []

    @milter.on("envfrom")
    def envfrom(ctx: Context, sender: str, *args: str) -> None:
        facts.append(
            (vars(ctx.state).copy(), ctx.recipients, ctx.sender, ctx.getsymval("rcpt_addr"))
        )
        ctx.state.sender = sender
        ctx.priv = (ctx.priv or 0) + 1

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        facts.append(
            (ctx.state.sender, ctx.recipients, ctx.sender, ctx.getsymval("rcpt_addr"), ctx.priv)
        )

    with real_mta.asking(milter) as mta, mta.client() as client:
        _check(client.send(MESSAGE, "1@example.com", ["b@example.org", "c@example.org"]))
        client.command("MAIL FROM:<2@example.com>")
        client.command("RCPT TO:<d@example.org>")
        client.command("RSET")
        _check(client.send(MESSAGE, "3@example.com", ["e@example.org"]))
    real_mta.arrivals(2)
    assert facts == [
        ({}, [], "<1@example.com>", None),
        ("<1@example.com>", ["<b@example.org>", "<c@example.org>"], "<1@example.com>", "c@example.org", 1),
        ({}, [], "<2@example.com>", None),
        ({}, [], "<3@example.com>", None),
        ("<3@example.com>", ["<e@example.org>"], "<3@example.com>", "e@example.org", 3),
    ]  # fmt: skip


def test_connections_at_the_same_time_keep_apart(real_mta: RealMta) -> None:
    milter = Milter("state")
    seen: list[tuple[Any, ...]] = []

    @milter.on("helo")
    def helo(ctx: Context, name: str) -> None:
        ctx.setpriv(name)

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        seen.append((ctx.getpriv(), ctx.helo, ctx.sender, ctx.recipients))

    hosts = [f"host{n}.example.com" for n in range(4)]
    with real_mta.asking(milter) as mta, ExitStack() as stack:
        clients = [stack.enter_context(mta.client()) for _ in hosts]
        for host, client in zip(hosts, clients, strict=True):
            client.helo(host)
        for number, client in enumerate(clients):
            client.command(f"MAIL FROM:<{number}@example.com>")
        for number, client in reversed(list(enumerate(clients))):
            client.command(f"RCPT TO:<{number}@example.org>")
        for client in clients:
            assert client.data(MESSAGE).code == 250
    real_mta.arrivals(4)
    assert seen == [
        (host, host, f"<{n}@example.com>", [f"<{n}@example.org>"]) for n, host in enumerate(hosts)
    ]


def test_unknown_command_after_a_refused_sender(real_mta: RealMta) -> None:
    def session(client: SmtpClient) -> None:
        client.helo()
        assert client.command("MAIL FROM:<bad@example.com>").code == 550
        client.command("FOOBAR")
        _check(client.send(MESSAGE))

    def model(mta: Mta) -> None:
        mta.envfrom("bad@example.com")
        mta.unknown("FOOBAR")
        mta.send(MESSAGE, "a@example.com", ["b@example.org"])

    bad = Witness({"envfrom": lambda _ctx, sender: Status.REJECT if "bad" in sender else None})
    assert ("unknown", "FOOBAR") in told(real_mta, bad, session, model, 1)


def test_unknown_command_after_a_reset(real_mta: RealMta) -> None:
    def session(client: SmtpClient) -> None:
        client.helo()
        client.command("MAIL FROM:<a@example.com>")
        client.command("RSET")
        client.command("FOOBAR")

    def model(mta: Mta) -> None:
        mta.envfrom("a@example.com")
        mta.rset()
        mta.unknown("FOOBAR")

    events = told(real_mta, Witness(), session, model, 0)
    assert (("unknown", "FOOBAR") in events) == (real_mta.name == "postfix")
