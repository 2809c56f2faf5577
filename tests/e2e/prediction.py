"""The same letters through a real MTA and through the MTA in memory, told in the same words, to be compared.

What each MTA says to its client, in its own words or in the filter's, stands here by hand; all else comes from the two.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pmilter.testing import Mta
from tests.e2e.realmta import Letter, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pmilter import Milter
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.testing import Result
    from pmilter.testing.rig import SmtpResult
    from tests.e2e.realmta import Arrival, RealMta

CLIENT = ("localhost", "127.0.0.1")
HELO = "client.example.com"


class Outcome(NamedTuple):
    """What became of one letter, as its sender and its recipients see it."""

    stage: str | None
    """SMTP stage at which it was refused."""
    reply: str | None
    """The reply that refused it."""
    rejected: dict[str, str]
    sender: str | None = None
    """None where nothing is delivered, as in what follows."""
    recipients: tuple[str, ...] | None = None
    message: bytes | None = None


def agree(
    real: RealMta,
    milter: Milter,
    letters: Mapping[str, Letter],
    *,
    dispatcher: Dispatcher | None = None,
) -> dict[str, Outcome]:
    """Send letters on one connection through the real MTA and the model, compare, and return what became of them.

    Raises:
        AssertionError: They do not agree; it tells for each letter what came of it here and there.
    """
    listed = list(letters.values())
    predicted = predict(milter, listed, real.name)
    outcomes = play(real, milter, listed, predicted, dispatcher)
    if outcomes != predicted:
        raise AssertionError(_differences(letters, outcomes, predicted))
    return dict(zip(letters, outcomes, strict=True))


def _differences(
    letters: Iterable[str], outcomes: Sequence[Outcome], predicted: Sequence[Outcome]
) -> str:
    lines = ["the real MTA and the model do not agree"]
    for name, *pair in zip(letters, outcomes, predicted, strict=True):
        lines += [
            f"{name}: {field}:\n    real  {ours!r}\n    model {theirs!r}"
            for field, ours, theirs in zip(Outcome._fields, *pair, strict=True)
            if ours != theirs
        ]
    return "\n".join(lines)


def play(
    real: RealMta,
    milter: Milter,
    letters: Sequence[Letter],
    predicted: Sequence[Outcome],
    dispatcher: Dispatcher | None = None,
) -> list[Outcome]:
    """Send letters through the real MTA; wait for as many as are predicted, and see whether there are more."""
    with real.asking(milter, dispatcher) as mta, mta.client() as client:
        results = [letter.send(client) for letter in letters]
    expected = sum(one.message is not None and bool(one.recipients) for one in predicted)
    by_id = merged(real.arrivals(expected))
    outcomes = [_outcome(result, by_id.pop(result.queue_id or "", None)) for result in results]
    assert not by_id
    return outcomes


def _outcome(result: SmtpResult, found: Arrival | None) -> Outcome:
    rejected = {address: str(reply) for address, reply in result.rejected.items()}
    if result.stage is not None:
        return Outcome(result.stage, str(result.reply), rejected)
    if found is None:
        return Outcome(None, None, rejected)
    return Outcome(None, None, rejected, found.sender, found.recipients, found.message)


def predict(milter: Milter, letters: Sequence[Letter], dialect: str) -> list[Outcome]:
    """Send letters through the MTA in memory."""
    with Mta(milter, connect=CLIENT, helo=HELO, dialect=dialect) as mta:
        return [_predicted(simulate(mta, letter), letter, dialect) for letter in letters]


def simulate(mta: Mta, letter: Letter) -> Result:
    """Send one letter through an MTA in memory."""
    return mta.send(
        letter.message,
        (letter.sender, *letter.mail_args),
        [(recipient, *letter.rcpt_args) for recipient in letter.recipients],
    )


def _predicted(result: Result, letter: Letter, dialect: str) -> Outcome:
    words = _WORDS[dialect]
    rejected = {
        address: words("envrcpt", said, None, address)[1]
        for address, said in result.rejected.items()
        if not said.startswith("421")  # which the client takes for the end of all
    }
    if result.verdict in {"reject", "tempfail"}:
        address = {"envfrom": letter.sender, "envrcpt": letter.recipients[-1]}.get(result.stage, "")
        stage, reply = words(result.stage, result.verdict, result.reply, address)
        if stage == "envrcpt" and rejected:  # the client hears one reply after the other
            reply = [*rejected.values()][-1]
        return Outcome(stage, reply, rejected)
    if result.verdict == "discard" or result.quarantine is not None or not result.recipients:
        return Outcome(None, None, rejected)
    return Outcome(
        None, None, rejected, result.sender, tuple(sorted(result.recipients)), result.message
    )


# --- what the SMTP client is told: the stage where it hears of a verdict, and the reply

_Words = tuple[str, str]


def postfix_words(stage: str, verdict: str, reply: str | None, address: str) -> _Words:
    """`reply` may stand in the place of `verdict`."""
    ready = {
        "reject": "550 5.7.1 Command rejected",
        "tempfail": "451 4.7.1 Service unavailable - try again later",
    }
    text = reply or ready.get(verdict, verdict)
    if stage == "connect" and text.startswith("5"):
        return "connect", "554 mta.example.test ESMTP not accepting connections"
    if stage == "connect" and text.startswith("421"):
        return "connect", "421 mta.example.test Service unavailable - try again later"
    return _heard(stage, text), text


def sendmail_words(stage: str, verdict: str, reply: str | None, address: str) -> _Words:
    """`reply` may stand in the place of `verdict`."""
    ready = {"reject": _SENDMAIL_REJECTS[stage], "tempfail": "451 4.3.2 Please try again later"}
    text = reply or ready.get(verdict, verdict)
    if stage == "connect" and text.startswith("5"):
        return "connect", "554 mta.example.test ESMTP not accepting messages"
    if stage == "connect" and text.startswith("421"):
        return "connect", "421 4.7.0 mta.example.test closing connection"
    if stage == "connect":
        text = ready["tempfail"]
    text = re.sub(r"^(([45])\d\d[- ])(?![45]\.\d+\.\d+ )", r"\1\2.0.0 ", text)
    if address:
        text = re.sub(r"^([45]50[ -]\S+ )", lambda found: f"{found[1]}<{address}>... ", text)
    return _heard(stage, text), text


_SENDMAIL_REJECTS = {
    "connect": "554",
    "helo": "550 5.0.0 Command rejected",
    "envfrom": "550 5.7.1 Command rejected",
    "envrcpt": "550 5.7.1 Command rejected",
    "data": "550 5.7.1 Command rejected",
    **dict.fromkeys(["header", "eoh", "body", "eom"], "554 5.7.1 Command rejected"),
}


def _heard(stage: str, text: str) -> str:
    """A refused connection or greeting is told at MAIL, unless it is closed at once; refused content after the final dot."""
    if stage in {"connect", "helo"}:
        return stage if text.startswith("421") else "envfrom"
    return stage if stage in {"envfrom", "envrcpt", "data"} else "eom"


_WORDS: dict[str, Callable[[str, str, str | None, str], _Words]] = {
    "postfix": postfix_words,
    "sendmail": sendmail_words,
}
