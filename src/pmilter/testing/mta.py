"""`Mta`: an MTA in memory around one filter, to see what the filter does with a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from pmilter.client.content import Field, read_message
from pmilter.client.dialect import find_dialect
from pmilter.client.dialogue import Dialogue, bare_address
from pmilter.client.exchange import Verdict
from pmilter.client.macros import GivenMacros
from pmilter.client.peer import parse_peer
from pmilter.client.transaction import Envelope, Recipient, Transaction
from pmilter.effects import Receive, Send
from pmilter.errors import ConfigError, LocalProtocolError, MilterError
from pmilter.protocol.constants import PROTOCOL_VERSION, Status, Step
from pmilter.testing.delivery import deliver
from pmilter.testing.filter_end import FilterEnd
from pmilter.text import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

    from pmilter.client.content import Content
    from pmilter.client.dialect import Dialect
    from pmilter.client.effects import Steps
    from pmilter.client.macros import MacroValues
    from pmilter.milter import Milter
    from pmilter.protocol.messages import Message, Options

    Client = tuple[str | None, str] | tuple[str | None, str, int] | str | None
    Address = str | tuple[str, ...]

_T = TypeVar("_T")

CLIENT: Final = ("mail.example.com", "192.0.2.1")
"""Name and address of the SMTP client, where a test does not say."""

_DEFAULT_ACTIONS: Final = {
    "tempfail": Status.TEMPFAIL,
    "reject": Status.REJECT,
    "accept": Status.ACCEPT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one message.

    Attributes:
        verdict: ``"accept"`` (also for CONTINUE at end of message), ``"reject"``, ``"tempfail"`` or ``"discard"``.
        stage: Name of the stage where the verdict fell; envrcpt where all recipients were refused.
        reply: The reply in the filter's own words, such as ``"550 5.7.1 no"``, lines joined by LF; None where it set none.
            What the filter set is reported also where this MTA would not pass it on (Sendmail at connect).
        message: The message as this MTA would deliver it, with CRLF line ends; None unless accepted. What the MTA adds by
            itself (Received, Date and so on) is left out.
        sender: Envelope sender after changes, without angle brackets.
        recipients: Those that the message goes to, after changes, without angle brackets.
        rejected: Recipient that was refused -> the reply, or the verdict where there is no reply of the filter's.
        quarantine: Reason for which the message is held, or None.
        changes: The changes that the filter asked for, in order, as `pmilter.protocol.messages`.
        errors: What callbacks raised since the result before; also the error that made the MTA give up on the filter.
    """

    verdict: str
    stage: str
    reply: str | None
    message: bytes | None
    sender: str
    recipients: list[str]
    rejected: dict[str, str]
    quarantine: str | None
    changes: list[Message]
    errors: list[BaseException]


class Mta:
    r"""An MTA in memory, with one SMTP session to one filter.

        with Mta(milter) as mta:
            result = mta.send(b"Subject: hello\n\nhello\n")
        assert result.verdict == "accept"

    No socket and no thread: the callbacks, `async def` ones too, run inside the call of `send`, without time limits. The
    session is opened by the first call that needs it. Not thread-safe.

    Args:
        milter: The filter; callbacks that are registered later are not seen.
        connect: The SMTP client: (name, address) or (name, address, port), address IPv4 or IPv6, the name None where it is
            not verified; the path of a UNIX socket; or None for a client of which nothing is known.
        helo: What it says in HELO or EHLO; None if it says nothing.
        dialect: ``"postfix"``, ``"sendmail"``, or a `Dialect`.
        version: Protocol version to speak, as an older MTA would: from 2 to 6.
        offer: What to offer in the negotiation, instead of all that this MTA offers at this version.
        macros: Macros for the whole session, as in `send`.
        default_action: What the MTA does once the filter has broken the protocol or closed: ``"tempfail"``, ``"reject"`` or
            ``"accept"``.

    Attributes:
        dialogue: The MTA's side, stage by stage, for what the methods do not reach.
        errors: What callbacks raised so far, or returned instead of a verdict; also the error that made the MTA give up on the
            filter.
        overdue: Callbacks that took longer than `Limits.command_time` or `Limits.eom_time`, as text: in service they would have
            been answered for. Here they are waited for.

    Raises:
        ConfigError: An unknown dialect, version or default action, or an address that cannot be read.
    """

    def __init__(
        self,
        milter: Milter,
        *,
        connect: Client = CLIENT,
        helo: str | None = "mail.example.com",
        dialect: Dialect | str = "postfix",
        version: int = PROTOCOL_VERSION,
        offer: Options | None = None,
        macros: MacroValues | None = None,
        default_action: str = "tempfail",
    ) -> None:
        if default_action not in _DEFAULT_ACTIONS:
            known = ", ".join(map(repr, _DEFAULT_ACTIONS))
            raise ConfigError(f"default_action must be one of {known}, not {default_action!r}")
        chosen = find_dialect(dialect)
        peer = parse_peer(connect)
        self.dialogue = Dialogue(chosen, offer or chosen.offer(version))
        self.dialogue.macros.know(peer.macros(chosen))
        self.dialogue.macros.give(GivenMacros(macros))
        self._connect = peer.connect(chosen)
        self._helo = helo
        self._default = _DEFAULT_ACTIONS[default_action]
        self._opened = False
        self._filter = FilterEnd(milter)
        self.errors = self._filter.errors
        self.overdue = self._filter.overdue
        self._reported = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def agreement(self) -> Options | None:
        """What was negotiated; None before the session is open."""
        return self.dialogue.session.agreement

    @property
    def changes(self) -> list[Message]:
        """The changes that the filter has asked for, of the latest message."""
        return self.dialogue.changes

    # --- the session

    def open(self) -> Verdict:
        """Negotiate, connect and greet, unless that is done; return the verdict that stands for the session."""
        if not self._opened:
            self._opened = True
            self._perform(self._opening())
        return self.dialogue.standing or Verdict(Status.CONTINUE, self.dialogue.stage)

    def _opening(self) -> Steps[Verdict]:
        dialogue = self.dialogue
        yield from dialogue.open()
        verdict = yield from dialogue.connect(self._connect)
        if self._helo is not None and dialogue.standing is None:
            verdict = yield from dialogue.helo(encode(self._helo, "helo"))
        return verdict

    def helo(self, name: str) -> Verdict:
        """Have the client say HELO (again); an open message is thereby dropped."""
        return self._stage(self.dialogue.helo(encode(name, "name")))

    def unknown(self, command: str) -> Verdict:
        """Have the client send a command that no MTA knows.

        Args:
            command: The whole line; Postfix shows the filter its first word only.
        """
        return self._stage(self.dialogue.unknown(encode(command, "command")))

    def rset(self) -> None:
        """Have the client reset the session: an open message is dropped."""
        self._perform(self.dialogue.reset())

    def drop(self) -> None:
        """Lose the connection between MTA and filter, without a word from the MTA."""
        self._perform(self.dialogue.close())

    def close(self) -> None:
        """End the session as this MTA does, and the connection; all callbacks have run then. May be called again."""
        self._perform(self.dialogue.quit() if self._opened else self.dialogue.close())

    # --- a message

    def send(
        self,
        message: bytes | bytearray | memoryview,
        sender: Address = "sender@example.com",
        recipients: Iterable[Address] = ("recipient@example.org",),
        *,
        macros: MacroValues | None = None,
        refused: Mapping[str, str] | None = None,
    ) -> Result:
        """Send one message, and return what became of it.

        Args:
            message: Header, blank line and body, with LF or CRLF line ends.
            sender: Envelope sender, angle brackets optional, ``""`` for the null sender; a tuple is an address and its ESMTP
                parameters: ``("a@example.com", "SIZE=1000")``.
            recipients: Envelope recipients, one at least, each as `sender`.
            macros: Name -> value, sent at the stages where this MTA sends a macro of that name (by default, or because the
                filter asks for it); or stage -> mapping of exactly the macros that are sent with it. Names with or without
                braces; the value None makes a macro unknown to the MTA. All that is not given has likely values. Macros of
                connect and helo count with the first message only.
            refused: Recipients that the MTA itself refuses -> its reply, such as ``"550 5.1.1 User unknown"``.

        Raises:
            LocalProtocolError: The session is closed, or there is no recipient.
            TypeError: An argument of another type.
        """
        envelope = _envelope(sender, recipients, refused or {})
        if not isinstance(message, (bytes, bytearray, memoryview)):
            raise TypeError(f"message must be bytes, not {type(message).__name__}")
        content = read_message(bytes(message), self.dialogue.dialect)
        self.dialogue.macros.give_message(GivenMacros(macros))
        self._check_open()
        self.open()
        transaction = Transaction(self.dialogue, envelope, content)
        verdict = self._perform(transaction.run()) or self._failure()
        self.dialogue.macros.give_message(GivenMacros())
        return self._result(verdict, transaction, content)

    def envfrom(self, sender: Address) -> Verdict:
        """Begin a message by hand; continue with the stages below, end it with `eom` or `rset`."""
        address, args = _address(sender, "sender")
        return self._stage(self.dialogue.mail(address, args))

    def envrcpt(self, recipient: Address) -> Verdict:
        """Give a recipient."""
        address, args = _address(recipient, "recipient")
        return self._stage(self.dialogue.rcpt(address, args))

    def data(self) -> Verdict:
        """Begin the content."""
        return self._stage(self.dialogue.data())

    def header(self, name: str, value: str) -> Verdict:
        """Send a header field; the value without the space that follows the colon."""
        field = Field(encode(name, "name"), b" " + encode(value, "value"))
        return self._stage(self.dialogue.header(field))

    def eoh(self) -> Verdict:
        """End the header."""
        return self._stage(self.dialogue.eoh())

    def body(self, data: bytes) -> Verdict:
        """Send body, cut into chunks as this MTA does."""
        return self._stage(self.dialogue.body(data))

    def eom(self) -> Verdict:
        """End the message; `changes` holds what the filter asked for."""
        verdict = self._stage(self.dialogue.eom())
        self._perform(self.dialogue.reset())
        return verdict

    # --- performing

    def _stage(self, steps: Steps[Verdict]) -> Verdict:
        self._check_open()
        self.open()
        return self._perform(steps) or self._failure()

    def _check_open(self) -> None:
        if self.dialogue.closed and self.dialogue.standing is None:
            raise LocalProtocolError("the SMTP session is closed; a new one needs a new Mta")

    def _perform(self, steps: Steps[_T]) -> _T | None:
        """Run steps against the filter; where it fails, give up on it and return None."""
        try:
            outcome: object = None
            while True:
                effect = steps.send(outcome)
                outcome = None
                if isinstance(effect, Receive):
                    outcome = self._filter.read()
                elif isinstance(effect, Send):
                    self._filter.feed(effect.data)
                else:
                    self._filter.end()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]  # a generator's value comes untyped
        except LocalProtocolError:
            raise
        except MilterError as error:
            self.errors.append(error)
            self.dialogue.changes = []
            self.dialogue.standing = self._failure()
            self._perform(self.dialogue.close())
            return None

    def _failure(self) -> Verdict:
        return self.dialogue.standing or Verdict(self._default, self.dialogue.stage)

    def _result(self, verdict: Verdict, transaction: Transaction, content: Content) -> Result:
        dialogue = self.dialogue
        errors, self._reported = self.errors[self._reported :], len(self.errors)
        delivery = deliver(
            content,
            transaction.envelope.sender,
            [recipient.address for recipient in transaction.recipients],
            dialogue.changes if verdict.status is Status.ACCEPT else (),
            dialogue.dialect,
            leadspc=bool(dialogue.steps & Step.HDR_LEADSPC),
        )
        return Result(
            verdict=verdict.status.name.lower(),
            stage=verdict.stage,
            reply=verdict.reply,
            message=delivery.message if verdict.status is Status.ACCEPT else None,
            sender=decode(delivery.sender),
            recipients=[decode(address) for address in delivery.recipients],
            rejected={
                decode(bare_address(recipient.address)): refusal.reply
                or refusal.status.name.lower()
                for recipient, refusal in transaction.rejected
            },
            quarantine=None if delivery.quarantine is None else decode(delivery.quarantine),
            changes=list(dialogue.changes),
            errors=errors,
        )


def _envelope(
    sender: Address, recipients: Iterable[Address], refused: Mapping[str, str]
) -> Envelope:
    if isinstance(recipients, (str, bytes)):
        raise TypeError(
            "recipients must be a list or another iterable of addresses, not a single one"
        )
    listed = [_recipient(recipient, refused) for recipient in recipients]
    if not listed:
        raise LocalProtocolError(
            "recipients must not be empty; envfrom and rset play a message without one"
        )
    return Envelope(*_address(sender, "sender"), tuple(listed))


def _recipient(given: Address, refused: Mapping[str, str]) -> Recipient:
    address, args = _address(given, "recipient")
    return Recipient(address, args, refused.get(decode(bare_address(address))))


def _address(given: Address, name: str) -> tuple[bytes, tuple[bytes, ...]]:
    """Return an address in angle brackets and its ESMTP parameters."""
    text, *args = (given,) if isinstance(given, str) else given
    address = encode(text, name)
    if not address.startswith(b"<"):
        address = b"<" + address + b">"
    return address, tuple(encode(arg, f"parameter of {name}") for arg in args)
