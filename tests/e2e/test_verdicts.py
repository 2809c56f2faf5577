"""Every verdict at every stage: what the SMTP client is told, and whether the message is delivered."""

from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Reply, Status
from tests.e2e.prediction import agree
from tests.e2e.realmta import MESSAGE, Letter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pmilter.testing.rig import Instance
    from tests.e2e.realmta import RealMta

pytestmark = pytest.mark.mta

VERDICTS: dict[str, Status | Reply | None] = {
    "none": None,
    "continue": Status.CONTINUE,
    "accept": Status.ACCEPT,
    "reject": Status.REJECT,
    "tempfail": Status.TEMPFAIL,
    "5xx": Reply(550, "5.7.1", "not 100% sure, %s %n"),
    "4xx": Reply(450, "4.2.1", "come %back% later %"),
    "lines": Reply(550, "5.7.0", "one", "", "three"),
    "temporary-lines": Reply(451, "4.7.1", "one", "two"),
    "no-xcode": Reply(554, None, "plain"),
    "no-text": Reply(552, "5.2.2"),
    "many-lines": Reply(451, "4.7.1", *(f"line {n}" for n in range(32))),
    "not-ascii": Reply(451, "4.7.1", "é €"),
    "421": Reply(421, "4.7.0", "go away"),
    "discard": Status.DISCARD,
}
PASSES = {"none", "continue", "accept"}
MESSAGE_STAGES = ["envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"]


def deciding(stage: str, verdicts: Mapping[str, Any]) -> Milter:
    """A filter that answers at one stage as the sender's name says."""
    milter = Milter("deciding")

    def decide(ctx: Context, *args: object) -> Any:
        return verdicts.get((ctx.sender or "")[1:].partition("@")[0])

    on: Any = milter.on
    on(stage)(decide)
    return milter


def letters_for(*names: str) -> dict[str, Letter]:
    return {name: Letter(sender=f"{name}@example.com") for name in names}


@pytest.mark.parametrize("stage", MESSAGE_STAGES)
def test_verdict_on_a_message(real_mta: RealMta, stage: str) -> None:
    names = [name for name in VERDICTS if name != "421"]
    outcomes = agree(real_mta, deciding(stage, VERDICTS), letters_for(*names, "other", "421"))
    assert {name for name in names if outcomes[name].message is not None} == PASSES
    assert {name for name in names if outcomes[name].stage is None} == PASSES | {"discard"}
    assert outcomes["other"].message is not None
    assert outcomes["421"].reply == "421 4.7.0 go away"


@pytest.mark.parametrize("name", sorted(VERDICTS.keys() - {"discard", "none"}))
@pytest.mark.parametrize("stage", ["connect", "helo"])
def test_verdict_on_the_connection(real_mta: RealMta, stage: str, name: str) -> None:
    milter = Milter("deciding")
    on: Any = milter.on
    on(stage)(lambda *_: VERDICTS[name])
    on("eom")(lambda _ctx: Status.REJECT)
    letters = letters_for("one") if name == "421" else letters_for("one", "two")
    outcomes = list(agree(real_mta, milter, letters).values())
    if name == "accept":
        assert {outcome.stage for outcome in outcomes} == {None}
    elif name == "continue":
        assert {outcome.stage for outcome in outcomes} == {"eom"}
    else:
        assert {outcome.stage for outcome in outcomes} <= {"connect", "helo", "envfrom"}


@pytest.mark.parametrize("stage", ["connect", "helo", *MESSAGE_STAGES])
def test_shutdown_closes_the_session(real_mta: RealMta, stage: str) -> None:
    milter = Milter("closing")
    on: Any = milter.on
    on(stage)(lambda ctx, *_: ctx.shutdown())
    [outcome] = agree(real_mta, milter, letters_for("one")).values()
    assert (outcome.reply or "").startswith("421 ")


def test_code_decides_between_temporary_and_permanent(real_mta: RealMta) -> None:
    milter = Milter("deciding")

    @milter.on("eom")
    def eom(ctx: Context) -> Status:
        ctx.setreply(552, "5.3.4", "100% too big")
        return Status.TEMPFAIL

    @milter.on("envrcpt")
    def envrcpt(ctx: Context, rcpt: str, *args: str) -> Status:
        if "lines" in rcpt:
            ctx.setmlreply("452", "4.2.2", ["box", "is full"])
        else:
            ctx.setreply("550", "5.1.1", "dropped, since it is accepted")
        return Status.REJECT if "lines" in rcpt else Status.CONTINUE

    letter = Letter(recipients=("lines@example.org", "b@example.org"))
    [outcome] = agree(real_mta, milter, {"one": letter}).values()
    assert (outcome.stage, outcome.reply) == ("eom", "552 5.3.4 100% too big")
    assert outcome.rejected == {"lines@example.org": "452-4.2.2 box\n452 4.2.2 is full"}


def test_refused_recipients_are_those_and_no_others(real_mta: RealMta) -> None:
    milter = Milter("deciding")

    @milter.on("envrcpt")
    def envrcpt(ctx: Context, rcpt: str, *args: str) -> Status:
        return Status[rcpt[1:].partition("@")[0].partition("-")[0].upper()]

    seen: list[list[str] | None] = []

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        seen.append(ctx.recipients)

    names = ["continue-1", "reject", "continue-2", "tempfail", "continue-3"]
    addresses = tuple(f"{name}@example.org" for name in names)
    letters = {"some": Letter(recipients=addresses), "none": Letter(recipients=addresses[1::2])}
    outcomes = agree(real_mta, milter, letters)
    assert outcomes["some"].recipients == addresses[::2]
    assert list(outcomes["some"].rejected) == list(addresses[1::2])
    assert outcomes["none"].stage == "envrcpt"
    accepted = [f"<{address}>" for address in addresses[::2]]
    assert seen == [accepted, accepted]  # once from the model, once from the real MTA


def test_random_filters(real_mta: RealMta) -> None:
    for seed in range(12):
        milter = random_filter(random.Random(seed))
        recipients = ("b@example.org", "c@example.org", "d@example.org")
        letters = {
            f"seed {seed} letter {n}": Letter(
                sender=f"{n}@example.com", recipients=recipients[: n % 4 or 1]
            )
            for n in range(8)
        }
        agree(real_mta, milter, letters)


def random_filter(draw: random.Random) -> Milter:
    """A filter with some stages, some of them without reply, that decides by chance, but the same way in the same case."""
    salt = draw.random()
    results = [
        Status.ACCEPT,
        Status.REJECT,
        Status.TEMPFAIL,
        VERDICTS["5xx"],
        VERDICTS["lines"],
        "nonsense",
    ]
    results += [None] * draw.choice([6, 30])
    keep = [stage for stage in ("connect", "helo", "envfrom", "envrcpt") if draw.random() < 0.6]
    milter = Milter("random", actions=Action.ADDHDRS, keep=keep)
    on: Any = milter.on
    for stage in MESSAGE_STAGES:

        def decide(ctx: Context, *args: object, stage: str = stage) -> Any:
            if stage == "eom":
                ctx.addheader("X-Case", f"{salt}")
            case = repr((salt, stage, ctx.getsymval("mail_addr"), args)).encode()
            return results[zlib.crc32(case) % len(results)]

        if draw.random() < 0.7:
            on(stage, noreply=stage != "eom" and draw.random() < 0.3)(decide)
    milter.on("close")(lambda _ctx: None)
    return milter


# --- at unknown commands


@pytest.mark.parametrize("name", ["reject", "tempfail", "5xx", "temporary-lines", "continue"])
def test_verdict_on_an_unknown_command(real_mta: RealMta, name: str) -> None:
    milter = Milter("deciding")
    milter.on("unknown")(lambda _ctx, _line: VERDICTS[name])
    replies = []
    with real_mta.asking(milter) as mta, mta.client() as client:
        client.helo()
        for command in ["", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>"]:
            if command:
                assert client.command(command).code == 250
            replies.append(client.command("FOOBAR one two"))
        assert client.data(MESSAGE).code == 250
    assert len(real_mta.arrivals(1)) == 1
    expected = {
        "reject": "550 5.7.1 Command rejected",
        "tempfail": {
            "postfix": "451 4.7.1 Service unavailable - try again later",
            "sendmail": "451 4.3.2 Please try again later",
        }[real_mta.name],
        "5xx": "550 5.7.1 not 100% sure, %s %n",
        "temporary-lines": "451-4.7.1 one\n451 4.7.1 two",
        "continue": {
            "postfix": "500 5.5.2 Error: command not recognized",
            "sendmail": '500 5.5.1 Command unrecognized: "FOOBAR one two"',
        }[real_mta.name],
    }
    assert replies == [expected[name]] * 3


@pytest.mark.parametrize(("verdict", "delivered"), [(Status.ACCEPT, 1), (Status.DISCARD, 0)])
def test_verdict_on_an_unknown_command_within_a_message_ends_that_message(
    real_mta: RealMta, verdict: Status, delivered: int
) -> None:
    milter = Milter("deciding")
    milter.on("unknown")(lambda _ctx, _line: verdict)
    milter.on("data")(lambda _ctx: Status.REJECT)
    with real_mta.asking(milter) as mta, mta.client() as client:
        client.helo()
        assert client.command("MAIL FROM:<a@example.com>").code == 250
        assert client.command("FOOBAR").code == 500
        assert client.command("RCPT TO:<b@example.org>").code == 250
        assert client.data(MESSAGE).code == 250
        assert client.send(MESSAGE).stage == "data"
    assert len(real_mta.arrivals(delivered)) == delivered


@pytest.mark.parametrize("verdict", [Status.ACCEPT, Status.DISCARD])
def test_verdict_on_an_unknown_command_between_messages_harms_no_message(
    mta_factory: Callable[..., Instance], verdict: Status
) -> None:
    # Postfix's smtpd panics at the next MAIL if it is told either one here, and both MTAs lose a message to DISCARD.
    milter = Milter("deciding")
    milter.on("unknown")(lambda _ctx, _line: verdict)
    milter.on("eom")(lambda _ctx: Status.CONTINUE)
    mta = mta_factory(milter)
    with mta.client() as client:
        client.helo()
        client.command("FOOBAR")
        assert client.send(MESSAGE).code == 250
        client.command("FOOBAR")
        assert client.send(MESSAGE).code == 250
    assert len(mta.delivered(2, timeout=2)) == 2


# --- when a verdict comes from a stage without a reply


@pytest.mark.parametrize("stage", ["envfrom", "data", "header", "eoh", "body"])
def test_verdict_from_a_stage_without_reply_is_given_later(real_mta: RealMta, stage: str) -> None:
    milter = Milter("quiet")
    on: Any = milter.on
    on(stage, noreply=True)(lambda ctx, *_: VERDICTS.get(ctx.sender[1:].partition("@")[0]))
    names = [name for name in VERDICTS if name != "421"]
    outcomes = agree(real_mta, milter, letters_for(*names, "other"))
    assert {name for name in names if outcomes[name].message is not None} == PASSES
    assert outcomes["other"].message is not None


@pytest.mark.parametrize("stage", ["connect", "helo"])
@pytest.mark.parametrize("name", ["accept", "reject", "5xx", "temporary-lines"])
def test_verdict_from_a_connection_without_reply_is_given_later(
    real_mta: RealMta, stage: str, name: str
) -> None:
    milter = Milter("quiet")
    on: Any = milter.on
    on(stage, noreply=True)(lambda *_: VERDICTS[name])
    on("eom")(lambda _ctx: Status.CONTINUE)
    outcomes = agree(real_mta, milter, letters_for("one", "two"))
    assert [outcome.message is not None for outcome in outcomes.values()] == [name == "accept"] * 2


def test_verdict_from_a_recipient_without_reply_hits_the_message_and_no_other_recipient(
    real_mta: RealMta,
) -> None:
    milter = Milter("quiet")

    @milter.on("envrcpt", noreply=True)
    def envrcpt(ctx: Context, rcpt: str, *args: str) -> Status | None:
        return Status.REJECT if rcpt == "<bad@example.org>" else None

    milter.on("eom")(lambda _ctx: Status.CONTINUE)
    both = ("bad@example.org", "b@example.org")
    outcomes = agree(real_mta, milter, {"bad": Letter(recipients=both), "good": Letter()})
    assert outcomes["bad"].rejected == {}
    assert outcomes["bad"].stage == "eom"
    assert outcomes["good"].message is not None
