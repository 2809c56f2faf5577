"""Mail that local programs hand in by the sendmail command, and the ESMTP parameters of mail that comes by SMTP."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Reply, Status
from pmilter.errors import MilterError
from tests.e2e.realmta import MESSAGE
from tests.e2e.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.testing.rig import Instance
    from tests.e2e.realmta import RealMta

pytestmark = pytest.mark.mta


def test_submitted_mail_is_told_and_changed(mta_factory: Callable[..., Instance]) -> None:
    witness = Witness({"eom": lambda ctx: ctx.addheader("X-Tagged", "yes")})
    mta = mta_factory(witness.milter)
    mta.submit(MESSAGE, "a@example.com", ["b@example.org", "c@example.org"])
    [delivered] = mta.delivered()
    assert delivered.header("X-Tagged") == ["yes"]
    assert delivered.body == b"hello\r\n"
    assert sorted(delivered.recipients) == ["b@example.org", "c@example.org"]
    told = witness.take()
    connect, helo, envfrom = told[:3]
    if mta.name == "postfix":
        assert (connect, helo) == (("connect", "localhost", "127.0.0.1"), ("helo", "localhost"))
        assert envfrom == ("envfrom", "a@example.com")
    else:
        assert connect == ("connect", "localhost", "127.0.0.1")
        assert envfrom[1] == "<a@example.com>"
    addresses = [event[1].strip("<>") for event in told if event[0] == "envrcpt"]
    assert sorted(addresses) == ["b@example.org", "c@example.org"]
    assert ("header", "Subject", "hello") in told
    assert ("body", b"hello\r\n") in told


def test_facts_of_submitted_mail(mta_factory: Callable[..., Instance]) -> None:
    milter = Milter("facts")
    seen: list[Any] = []
    milter.on("connect")(lambda _ctx, name, address: seen.append((name, address)))
    milter.on("eom")(lambda ctx: seen.append((ctx.sender, ctx.recipients)))
    mta = mta_factory(milter)
    mta.submit(MESSAGE, "")
    assert mta.delivered()[0].sender == ""
    (name, address), envelope = seen
    assert (name, address[0]) == ("localhost", "127.0.0.1")
    if mta.name == "postfix":  # which has no client here, and no brackets
        assert address[1] == 0
        assert envelope == ("", ["b@example.org"])
    else:
        assert address[1] > 0
        assert envelope == ("<>", ["<b@example.org>"])


def test_submitted_mail_that_is_refused_comes_back_to_its_sender(
    mta_factory: Callable[..., Instance],
) -> None:
    milter = Milter("refusing")

    @milter.on("eom")
    def eom(ctx: Context) -> Reply | None:
        return None if (ctx.sender or "<>") == "<>" else Reply(550, "5.7.1", "not with me")

    mta = mta_factory(milter)
    with suppress(
        MilterError
    ):  # Sendmail's command waits for the answer, and says with its status what that was
        mta.submit(MESSAGE, "a@example.com")
    [bounce] = mta.delivered()
    assert (bounce.sender, bounce.recipients) == ("", ("a@example.com",))
    assert b"not with me" in bounce.message


def test_submitted_mail_waits_for_a_better_answer(mta_factory: Callable[..., Instance]) -> None:
    milter = Milter("later")
    asked, opened = threading.Event(), threading.Event()

    @milter.on("eom")
    def eom(ctx: Context) -> Status:
        asked.set()
        return Status.ACCEPT if opened.is_set() else Status.TEMPFAIL

    mta = mta_factory(milter)
    mta.submit(MESSAGE, "a@example.com")
    assert asked.wait(10)
    [waiting] = mta.queued(1)
    assert waiting.sender == "a@example.com"
    opened.set()
    mta.flush()
    assert mta.delivered()[0].sender == "a@example.com"


def test_esmtp_parameters(real_mta: RealMta) -> None:
    witness = Witness(stages=("envfrom", "envrcpt"))
    mail = ["SIZE=200", "BODY=8BITMIME", "RET=HDRS", "ENVID=QQ+2B1"]
    rcpt = ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;old+2Bone@example.org"]
    with real_mta.asking(witness.milter) as mta:
        assert mta.send(MESSAGE, mail_args=mail, rcpt_args=rcpt).code == 250
    [delivered] = real_mta.delivered(1)
    assert witness.take() == [
        ("envfrom", "<a@example.com>", *mail),
        ("envrcpt", "<b@example.org>", *rcpt),
    ]
    assert {"RET=HDRS", "ENVID=QQ+2B1"} <= set(delivered.sender_args)
    assert set(delivered.recipient_args[0]) == set(rcpt)


def test_parameters_of_a_replaced_recipient_are_those_of_the_filter(real_mta: RealMta) -> None:
    milter = Milter("replacing", actions=Action(0x1FF))

    @milter.on("envrcpt")
    def envrcpt(ctx: Context, rcpt: str, *args: str) -> None:
        ctx.state.rcpt, ctx.state.args = rcpt, args

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        ctx.delrcpt(ctx.state.rcpt)
        ctx.addrcpt("<new@example.org>", " ".join(ctx.state.args))

    with real_mta.asking(milter) as mta:
        result = mta.send(MESSAGE, rcpt_args=["NOTIFY=NEVER", "ORCPT=rfc822;b@example.org"])
        assert result.code == 250
    [delivered] = real_mta.delivered(1)
    assert delivered.recipients == ("new@example.org",)
    assert set(delivered.recipient_args[0]) == {"NOTIFY=NEVER", "ORCPT=rfc822;b@example.org"}
