"""One message from MAIL to its end, played to one filter, without I/O."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.client.exchange import Verdict
from pmilter.protocol.constants import Status

if TYPE_CHECKING:
    from pmilter.client.content import Content
    from pmilter.client.dialogue import Dialogue
    from pmilter.client.effects import Steps


class Recipient(NamedTuple):
    """A recipient as the SMTP client gives it."""

    address: bytes
    args: tuple[bytes, ...] = ()
    refusal: str | None = None
    """The reply with which the MTA itself refuses it, or None."""


class Envelope(NamedTuple):
    """Sender and recipients as the SMTP client gives them, mostly in angle brackets."""

    sender: bytes
    sender_args: tuple[bytes, ...]
    recipients: tuple[Recipient, ...]


class Transaction:
    """One message on a dialogue whose connect and helo are done.

    Args:
        dialogue: The SMTP session.
        envelope: Sender and recipients; one at least.
        content: The message.

    Attributes:
        envelope: The same.
    """

    __slots__ = ("_content", "_dialogue", "_rejected", "envelope")

    def __init__(self, dialogue: Dialogue, envelope: Envelope, content: Content) -> None:
        self._dialogue = dialogue
        self._content = content
        self.envelope = envelope
        self._rejected = {
            number: refused("envrcpt", recipient.refusal)
            for number, recipient in enumerate(envelope.recipients)
            if recipient.refusal is not None
        }

    @property
    def recipients(self) -> list[Recipient]:
        """The recipients that neither the filter nor the MTA has refused."""
        listed = enumerate(self.envelope.recipients)
        return [recipient for number, recipient in listed if number not in self._rejected]

    @property
    def rejected(self) -> list[tuple[Recipient, Verdict]]:
        """The recipients that were refused, with the verdict."""
        recipients = self.envelope.recipients
        return [(recipients[number], verdict) for number, verdict in sorted(self._rejected.items())]

    def run(self) -> Steps[Verdict]:
        """Play the message to its end, and return its verdict: ACCEPT, also for CONTINUE at eom; or what ended it."""
        dialogue = self._dialogue
        dialogue.changes = []
        verdict = dialogue.standing or (yield from self._envelope_verdict())
        if verdict.status is Status.CONTINUE:
            verdict = yield from self._content_verdict()
        yield from dialogue.reset()
        if verdict.status is Status.CONTINUE:
            return Verdict(Status.ACCEPT, verdict.stage)
        return verdict

    def _envelope_verdict(self) -> Steps[Verdict]:
        envelope = self.envelope
        verdict = yield from self._dialogue.mail(envelope.sender, envelope.sender_args)
        for number, recipient in enumerate(envelope.recipients):
            if verdict.status is not Status.CONTINUE:
                return verdict
            verdict = yield from self._recipient_verdict(number, recipient)
        if verdict.status is Status.CONTINUE and not self.recipients:
            return self._all_rejected()
        return verdict

    def _recipient_verdict(self, number: int, recipient: Recipient) -> Steps[Verdict]:
        """Tell of one recipient; a refusal ends the message only where it closes the SMTP session."""
        verdict = yield from self._dialogue.rcpt(*recipient)
        if not verdict.refuses:
            return verdict
        if recipient.refusal is None:
            self._rejected[number] = verdict
        return verdict if verdict.hangs_up else Verdict(Status.CONTINUE, verdict.stage)

    def _all_rejected(self) -> Verdict:
        """Return the verdict on a message without a recipient left: temporary if one of the refusals is."""
        verdicts = list(self._rejected.values())
        temporary = [verdict for verdict in verdicts if verdict.status is Status.TEMPFAIL]
        return (temporary or verdicts)[-1]

    def _content_verdict(self) -> Steps[Verdict]:
        dialogue, content = self._dialogue, self._content
        verdict = yield from dialogue.data()
        if verdict.status is not Status.CONTINUE:
            return verdict
        if content.refusal is not None:
            if content.refusal.closes:
                yield from dialogue.close()
            return refused("data", content.refusal.reply)
        shown = (dialogue.header(field) for field in content.fields)
        for step in chain(shown, (dialogue.eoh(), dialogue.body(content.body), dialogue.eom())):
            verdict = yield from step
            if verdict.status not in _GOES_ON:
                break
        return verdict


def refused(stage: str, reply: str) -> Verdict:
    """Return the verdict of an MTA that refuses something itself, with an SMTP reply."""
    return Verdict(Status.REJECT if reply.startswith("5") else Status.TEMPFAIL, stage, reply)


_GOES_ON: Final = frozenset({Status.CONTINUE, Status.SKIP})
