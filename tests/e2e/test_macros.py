"""Which macros a filter has at each stage, by default and where it asks for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Context, Milter, Options
from pmilter.testing import Mta
from tests.e2e.prediction import CLIENT, HELO, simulate
from tests.e2e.realmta import Letter
from tests.e2e.witness import STAGES, Witness

if TYPE_CHECKING:
    from tests.e2e.realmta import RealMta

pytestmark = pytest.mark.mta

LETTERS = [
    Letter(sender="1@example.com", recipients=("b@example.org", "c@example.org")),
    Letter(sender="2@example.com", recipients=("d@example.org",)),
]
ASKED = "i j {client_addr} {client_name} {mail_addr} {rcpt_addr} {daemon_name} {no_such}"


def test_names_at_every_stage(real_mta: RealMta) -> None:
    witness = Witness(macros=True)
    with real_mta.asking(witness.milter) as mta, mta.client() as client:
        queue_ids = [letter.send(client).queue_id for letter in LETTERS]
    assert None not in queue_ids
    real_mta.arrivals(2)
    seen = witness.take()
    # A connection over the loopback has no {if_addr}.
    with Mta(
        witness.milter, connect=CLIENT, helo=HELO, dialect=real_mta.name, macros={"if_addr": None}
    ) as memory:
        for letter in LETTERS:
            simulate(memory, letter)
    assert seen == witness.take()


def test_values(real_mta: RealMta) -> None:
    milter = Milter("macros")
    values: list[Any] = []

    @milter.on("envrcpt")
    def envrcpt(ctx: Context, rcpt: str, *args: str) -> None:
        values.append(
            (ctx.getsymval("{mail_addr}"), ctx.getsymval("rcpt_addr"), ctx.getsymval("{j}"))
        )

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        values.append(
            (ctx.queue_id, ctx.getsymval("i"), ctx.macros["mail_addr"], ctx.getsymval("nothing"))
        )

    with real_mta.asking(milter) as mta, mta.client() as client:
        first, second = (letter.send(client).queue_id for letter in LETTERS)
    real_mta.arrivals(2)
    assert values == [
        ("1@example.com", "b@example.org", "mta.example.test"),
        ("1@example.com", "c@example.org", "mta.example.test"),
        (first, first, "1@example.com", None),
        ("2@example.com", "d@example.org", "mta.example.test"),
        (second, second, "2@example.com", None),
    ]


def asked_for(real_mta: RealMta, milter: Milter, seen: list[Any]) -> list[Any]:
    """What the filter saw through the real MTA, the same as through the model."""
    with real_mta.asking(milter) as mta, mta.client() as client:
        for letter in LETTERS:
            assert letter.send(client).code == 250
    real_mta.arrivals(2)
    real = seen.copy()
    seen.clear()
    with Mta(
        milter, connect=CLIENT, helo=HELO, dialect=real_mta.name, macros={"if_addr": None}
    ) as memory:
        for letter in LETTERS:
            simulate(memory, letter)
    assert [known(*each) for each in real] == [known(*each) for each in seen]
    return real


def known(stage: str, names: frozenset[str]) -> tuple[str, frozenset[str]]:
    """Leave out Sendmail's queue id before the first message, which the model does not have: it stands for no mail yet."""
    return stage, names - {"i"} if stage in {"connect", "helo"} else names


@pytest.mark.parametrize("stage", ["connect", "helo", "envfrom", "envrcpt", "data", "eoh", "eom"])
def test_list_for_one_stage(real_mta: RealMta, stage: str) -> None:
    milter = Milter("macros")
    seen: list[Any] = []
    on: Any = milter.on
    for each in STAGES:
        if each in {"connect", "helo", "envfrom", "envrcpt", "data", "eoh", "body", "eom"}:
            on(each, macros=ASKED if each == stage else None)(
                lambda ctx, *_, each=each: seen.append((each, frozenset(ctx.macros)))
            )
    names = dict(asked_for(real_mta, milter, seen))[stage]
    assert {"j", "client_addr", "client_name"} <= names
    assert "no_such" not in names


def test_lists_for_all_stages(real_mta: RealMta) -> None:
    milter = Milter("macros")
    seen: list[Any] = []
    on: Any = milter.on
    for each in ["connect", "helo", "envfrom", "envrcpt", "data", "eoh", "eom"]:
        on(each, macros=["client_port", "i", "rcpt_addr", "mail_addr"])(
            lambda ctx, *_, each=each: seen.append((each, frozenset(ctx.macros)))
        )
    real = asked_for(real_mta, milter, seen)
    assert "client_port" in dict(real)["connect"]
    assert real[-1] == ("eom", {"client_port", "i", "rcpt_addr", "mail_addr"})


def test_lists_set_in_negotiate(real_mta: RealMta) -> None:
    milter = Milter("macros")
    seen: list[Any] = []

    @milter.on("negotiate")
    def negotiate(ctx: Context, offer: Options, choice: Options) -> None:
        ctx.setsymlist("helo", "client_addr")
        ctx.setsymlist("eom", ["client_name", "{mail_addr}"])

    on: Any = milter.on
    for each in "helo", "eoh", "eom":
        on(each)(lambda ctx, *_, each=each: seen.append((each, frozenset(ctx.macros))))
    real = dict(asked_for(real_mta, milter, seen))
    assert "client_addr" in real["helo"]
    assert {"client_name", "mail_addr"} <= real["eom"]
