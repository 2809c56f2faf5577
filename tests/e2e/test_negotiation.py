"""What is agreed: stages without a callback, callbacks without a reply, facts kept, refused recipients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Options, Status, Step
from pmilter.errors import LocalProtocolError
from pmilter.testing import Mta
from tests.e2e.prediction import CLIENT, HELO, agree, simulate
from tests.e2e.realmta import MESSAGE, Letter
from tests.e2e.witness import STAGES, Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.testing.rig import Instance
    from tests.e2e.realmta import RealMta

pytestmark = pytest.mark.mta

LETTERS = {
    f"{n}": Letter(sender=f"{n}@example.com", recipients=("b@example.org", "c@example.org"))
    for n in range(2)
}
MTA_HAS = {"version": 6, "actions": Action(0x1FF)}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("keep", [(), ("connect", "helo", "envfrom", "envrcpt")])
def test_only_the_stage_that_has_a_callback_is_told(
    real_mta: RealMta, stage: str, keep: tuple[str, ...]
) -> None:
    witness = Witness(stages=(stage,), keep=keep)
    outcomes = agree(real_mta, witness.milter, LETTERS)
    assert all(outcome.message is not None for outcome in outcomes.values())
    seen = witness.take()
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert {event[0] for event in seen} <= {stage}
    assert bool(seen) == (stage not in {"unknown", "abort", "close"})


@pytest.mark.parametrize(
    "keep", [(), ("connect", "helo"), ("connect", "helo", "envfrom", "envrcpt")]
)
def test_facts_are_those_that_are_kept(real_mta: RealMta, keep: tuple[str, ...]) -> None:
    milter = Milter("facts", keep=keep)
    seen: list[Any] = []

    def fact(ctx: Context, name: str) -> Any:
        try:
            return getattr(ctx, name)
        except LocalProtocolError:
            return "not kept"

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        seen.append([fact(ctx, name) for name in ("hostname", "helo", "sender", "recipients")])

    agree(real_mta, milter, LETTERS)
    facts = {
        "connect": "localhost", "helo": "client.example.com", "envfrom": "<1@example.com>",
        "envrcpt": ["<b@example.org>", "<c@example.org>"],
    }  # fmt: skip
    assert seen[1] == [fact if stage in keep else "not kept" for stage, fact in facts.items()]
    assert seen[:2] == seen[2:]


def test_agreement_is_that_of_the_model(real_mta: RealMta) -> None:
    milter = Milter("agreed", actions=Action.ADDHDRS, steps=Step.HDR_LEADSPC | Step.RCPT_REJ)
    seen: list[Any] = []
    milter.on("header", noreply=True)(lambda *_: None)
    milter.on("eom")(lambda ctx: seen.append((ctx.version, ctx.actions, ctx.steps)))
    milter.on("negotiate")(lambda _ctx, offer, _choice: seen.append(offer))
    agree(real_mta, milter, {"one": Letter()})
    assert seen[:2] == seen[2:]
    steps = (
        Step.NODATA | Step.NOUNKNOWN | Step.NOEOH | Step.NOBODY | Step.NR_CONN | Step.NR_HELO | Step.NR_MAIL
        | Step.NR_RCPT | Step.NR_HDR | Step.HDR_LEADSPC | Step.RCPT_REJ
    )  # fmt: skip
    assert seen[1] == (6, Action.ADDHDRS, steps)


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_older_versions(real_mta: RealMta, version: int) -> None:
    witness = Witness()

    @witness.milter.on("negotiate")
    def negotiate(ctx: Context, offer: Options, choice: Options) -> Options:
        assert (offer.version, offer.actions) == (6, Action(0x1FF))
        return choice.replace(version=version)

    outcomes = agree(real_mta, witness.milter, LETTERS)
    assert all(outcome.message is not None for outcome in outcomes.values())
    seen = witness.take()
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert ("data" in {event[0] for event in seen}) == (version >= 4)


NOREPLY = ["connect", "helo", "envfrom", "envrcpt", "data", "unknown", "header", "eoh", "body"]


def test_callbacks_without_reply_are_called_all_the_same(real_mta: RealMta) -> None:
    milter = Milter("quiet", actions=Action.ADDHDRS)
    seen: list[str] = []
    on: Any = milter.on
    for stage in NOREPLY:
        on(stage, noreply=True)(lambda *_, stage=stage: seen.append(stage))

    @milter.on("eom")
    def eom(ctx: Context) -> Status:
        ctx.addheader("X-Seen", ",".join(seen))
        seen.clear()
        return Status.CONTINUE

    outcomes = agree(real_mta, milter, LETTERS)
    headers = ["header"] * 5
    message = ["envfrom", "envrcpt", "envrcpt", "data", *headers, "eoh", "body"]
    assert f"X-Seen: {','.join(message)}\r\n".encode() in (outcomes["1"].message or b"")
    assert f"X-Seen: {','.join(['connect', 'helo', *message])}\r\n".encode() in (
        outcomes["0"].message or b""
    )


@pytest.mark.parametrize("noreply", [False, True])
@pytest.mark.parametrize("steps", [Step(0), Step.RCPT_REJ])
def test_recipient_that_the_mta_refuses_is_no_recipient(
    mta_factory: Callable[..., Instance], *, noreply: bool, steps: Step
) -> None:
    milter = Milter("refused", steps=steps)
    told: list[str] = []
    recipients: list[list[str] | None] = []
    milter.on("envrcpt", noreply=noreply)(lambda _ctx, rcpt, *_: told.append(rcpt))
    milter.on("eom")(lambda ctx: recipients.append(ctx.recipients))
    mta = _refusing(mta_factory, milter)
    result = mta.send(MESSAGE, recipients=["b@example.org", "refused@example.org", "c@example.org"])
    assert list(result.rejected) == ["refused@example.org"]
    assert sorted(mta.delivered()[0].recipients) == ["b@example.org", "c@example.org"]
    shown = ["<refused@example.org>"] if steps and mta.name == "postfix" else []
    assert told == ["<b@example.org>", *shown, "<c@example.org>"]
    assert recipients == [["<b@example.org>", "<c@example.org>"]]
    with Mta(milter, connect=CLIENT, helo=HELO, dialect=mta.name) as memory:
        told.clear()
        memory.send(
            MESSAGE,
            recipients=["b@example.org", "refused@example.org", "c@example.org"],
            refused={"refused@example.org": "550 5.1.1 no such user"},
        )
    assert recipients[0] == recipients[1]


def _refusing(mta_factory: Callable[..., Instance], milter: Milter) -> Instance:
    """An MTA that by itself refuses one recipient."""
    postfix = {
        "smtpd_recipient_restrictions": "check_recipient_access inline:{refused@example.org=REJECT}"
    }
    sendmail = 'LOCAL_RULESETS\nSLocal_check_rcpt\nR$* refused $*\t$#error $@ 5.1.1 $: "550 no such user"\n'
    try:
        return mta_factory(milter, settings=postfix)
    except TypeError:
        return mta_factory(milter, mc=sendmail)


def test_silence_is_golden(real_mta: RealMta) -> None:
    """A filter with an abort callback alone has nothing to say, and mail passes."""
    milter = Milter("silent", keep=())
    milter.on("abort")(lambda _ctx: None)
    outcomes = agree(real_mta, milter, LETTERS)
    assert all(outcome.message is not None for outcome in outcomes.values())
    with Mta(milter, dialect=real_mta.name) as memory:
        assert simulate(memory, Letter()).verdict == "accept"
