"""`Context`: what a callback sees of its connection, and what it can ask for. It does no I/O."""

from __future__ import annotations

import itertools
import logging
import os
import time
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from pmilter import arguments
from pmilter.errors import ConfigError, LocalProtocolError
from pmilter.facts import client_address
from pmilter.logs import ids_text
from pmilter.plan import format_symlist, macros_stage
from pmilter.protocol.constants import Action, MacroStage, Step
from pmilter.protocol.messages import (
    AddHeader,
    AddRcpt,
    AddRcptPar,
    ChgFrom,
    ChgHeader,
    DelRcpt,
    InsHeader,
    Message,
    Quarantine,
    ReplBody,
)
from pmilter.protocol.rules import NAMED
from pmilter.reply import Reply
from pmilter.text import decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from pmilter.facts import ClientAddress, Facts
    from pmilter.protocol.filter_session import FilterSession
    from pmilter.requests import Requests

logger: Final = logging.getLogger("pmilter")

_numbers: Final = itertools.count(1)


class _Detached:
    """Stands where the session, facts and requests of a late callback's Context were."""

    def __getattr__(self, name: str) -> Any:
        raise _detached_error()

    def __setattr__(self, name: str, value: Any) -> None:
        raise _detached_error()


def _detached_error() -> LocalProtocolError:
    return LocalProtocolError(
        "this callback has passed its deadline; the MTA has been answered without it"
    )


_DETACHED: Final[Any] = _Detached()


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """Puts connection id and queue id before each line, and both on the record as `connection_id` and `queue_id`."""

    def __init__(self, context: Context) -> None:
        super().__init__(logger)
        self._context = context

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the ids to a line."""
        context = self._context
        queue_id = context.queue_id
        kwargs["extra"] = {
            "connection_id": context.connection_id,
            "queue_id": queue_id,
            **(kwargs.get("extra") or {}),
        }
        return f"{ids_text(context.connection_id, queue_id)} {msg}", kwargs


class Context:
    """One connection, as a filter's callbacks see it: the first argument of each.

    Use it from the running callback only; `progress` alone may be called from any thread. Changes are kept until the eom
    callback has returned CONTINUE or ACCEPT, and are then sent with the verdict; any other outcome drops them.

    Attributes:
        connection_id: A text that names the connection in the log; unique on this machine while the process lives.
    """

    __slots__ = (
        "_detached",
        "_facts",
        "_log",
        "_priv",
        "_requests",
        "_session",
        "connection_id",
    )

    def __init__(self, session: FilterSession, facts: Facts, requests: Requests) -> None:
        self._priv: Any = None
        self._detached = False
        self.connection_id = f"{os.getpid()}.{next(_numbers)}"
        self._session = session
        self._facts = facts
        self._requests = requests
        self._log: ConnectionLog | None = None

    # --- state

    @property
    def priv(self) -> Any:
        """Anything of the filter's, for the whole connection; at first None."""
        self._check_attached()
        return self._priv

    @priv.setter
    def priv(self, value: Any) -> None:
        self._check_attached()
        self._priv = value

    def _check_attached(self) -> None:
        if self._detached:
            raise _detached_error()

    def getpriv(self) -> Any:
        """Return what `setpriv` stored on this connection, or None."""
        return self.priv

    def setpriv(self, value: Any) -> None:
        """Store anything of the filter's for the whole connection."""
        self.priv = value

    @property
    def state(self) -> SimpleNamespace:
        """A namespace of the filter's for this message; each message begins with an empty one."""
        facts = self._facts
        if facts.state is None:
            facts.state = SimpleNamespace()
        return facts.state

    # --- macros

    def getsymval(self, name: str) -> str | None:
        """Return the value of a macro, or None where the MTA has not sent it.

        Args:
            name: With or without braces: ``"i"``, ``"{i}"``, ``"mail_addr"`` and ``"{mail_addr}"`` all work. The latest
                stage wins where several sent it.
        """
        return self._session.macros.get(name)

    @property
    def macros(self) -> Mapping[str, str]:
        """All macros in sight, by name without braces; a snapshot."""
        return MappingProxyType(self._session.macros.as_dict())

    # --- facts

    def _known(self, stage: str) -> None:
        """Raise where a stage was negotiated away, so that its facts can never be known."""
        agreement = self._session.agreement
        if agreement is not None and agreement.steps & NAMED[stage].off:
            raise LocalProtocolError(
                f"stage {stage} was negotiated away, so this is not known: "
                f'give Milter(keep=(..., "{stage}")) or register a {stage} callback',
                command=stage,
            )

    @property
    def hostname(self) -> str | None:
        """Verified name of the client, or its address in brackets; None before connect."""
        self._known("connect")
        connect = self._facts.connect
        return None if connect is None else decode(connect.hostname)

    @property
    def address(self) -> ClientAddress:
        """Address of the client; None before connect, and where the MTA did not tell one."""
        self._known("connect")
        connect = self._facts.connect
        return None if connect is None else client_address(connect)

    @property
    def helo(self) -> str | None:
        """Name that the client gave in HELO or EHLO; None before."""
        self._known("helo")
        helo = self._facts.helo
        return None if helo is None else decode(helo)

    @property
    def sender(self) -> str | None:
        """Envelope sender as the MTA sent it, mostly in angle brackets; None outside a message."""
        self._known("envfrom")
        sender = self._facts.sender
        return None if sender is None else decode(sender)

    @property
    def recipients(self) -> list[str] | None:
        """Envelope recipients that this filter and the MTA accepted so far, as sent; None outside a message."""
        self._known("envrcpt")
        recipients = self._facts.recipients
        return None if recipients is None else [decode(rcpt) for rcpt in recipients]

    @property
    def queue_id(self) -> str | None:
        """The MTA's id of the message (macro ``i``); Postfix knows it from the second recipient or DATA on."""
        return self._session.macros.get("i")

    @property
    def version(self) -> int | None:
        """Protocol version that was agreed; None before."""
        agreement = self._session.agreement
        return None if agreement is None else agreement.version

    @property
    def actions(self) -> Action | None:
        """Changes that were agreed; None before."""
        agreement = self._session.agreement
        return None if agreement is None else agreement.actions

    @property
    def steps(self) -> Step | None:
        """Steps that were agreed; None before."""
        agreement = self._session.agreement
        return None if agreement is None else agreement.steps

    @property
    def log(self) -> ConnectionLog:
        """A logger (of logger ``pmilter``) that puts the connection's id and the queue id on every line."""
        if self._log is None:
            self._log = ConnectionLog(self)
        return self._log

    def time_left(self) -> float | None:
        """Return the seconds until this callback's deadline, or None where it has none.

        After the deadline the MTA is answered with the stage's fallback, and every use of this Context raises.
        """
        return self._requests.time_left(time.monotonic())

    def detach(self, requests: Requests) -> Context:
        """Make every use of this Context raise, since its callback is late; return the one that takes its place.

        For the conversation; any thread may be using the old one meanwhile.
        """
        successor = Context(self._session, self._facts, requests)
        successor.priv = self._priv
        successor.connection_id = self.connection_id
        self._session = self._facts = self._requests = _DETACHED
        self._detached = True
        return successor

    # --- replies

    def setreply(self, rcode: int | str, xcode: str | None = None, message: str = "") -> None:
        """Set the reply that a REJECT or TEMPFAIL from this callback shall carry.

        The code decides between 4xx and 5xx, not which of the two is returned. With any other result it is dropped.

        Args:
            rcode: Three digits of class 4 or 5.
            xcode: Enhanced status code of the same class, or None.
            message: One line of text.

        Raises:
            LocalProtocolError: As `Reply`.
        """
        self._requests.set_reply(Reply(rcode, xcode, message))

    def setmlreply(self, rcode: int | str, xcode: str | None, lines: Iterable[str]) -> None:
        """Set a reply of several lines; else as `setreply`."""
        self._requests.set_reply(Reply(rcode, xcode, *lines))

    def shutdown(self) -> None:
        """Have this callback answered with ``421 4.7.0``, which also makes the MTA close the SMTP session."""
        self._requests.shutdown()

    # --- changes

    def addheader(self, name: str, value: str) -> None:
        """Add a header field: at the end; on Sendmail before the first of that name where there is one.

        Args:
            name: Characters 33 to 126 without the colon.
            value: Folded lines are separated by LF or CRLF and a blank or tab. Without `Step.HDR_LEADSPC` the MTA puts a
                space before it.

        Raises:
            LocalProtocolError: Not in eom, `Action.ADDHDRS` was not agreed, or name or value cannot be in a header.
            LimitExceeded: Larger than a frame may be.
        """
        self._change(AddHeader(arguments.header_name(name), arguments.header_value(value)))

    def insheader(self, name: str, value: str, position: int = 0) -> None:
        """Insert a header field at a position; name and value as in `addheader`.

        Args:
            name: Its name.
            value: Its value.
            position: 0 above the MTA's own Received, 1 directly below it; from 2 on Postfix and Sendmail count differently.
        """
        self._change(
            InsHeader(
                arguments.index(position, "position"),
                arguments.header_name(name),
                arguments.header_value(value),
            )
        )

    def chgheader(self, name: str, index: int, value: str | None) -> None:
        """Change or delete a header field; where there is none, a value adds it.

        To delete several of a name, begin with the highest index: Postfix renumbers after each, Sendmail does not.

        Args:
            name: Its name, in any case.
            index: Which one of that name, counted from 1; 0 means 1.
            value: The new value, as in `addheader`; ``""`` or None deletes.

        Raises:
            LocalProtocolError: Not in eom, `Action.CHGHDRS` was not agreed, or an argument cannot be sent.
        """
        wire = b"" if value is None else arguments.header_value(value)
        self._change(
            ChgHeader(max(1, arguments.index(index, "index")), arguments.header_name(name), wire)
        )

    def addrcpt(self, address: str, params: str | None = None) -> None:
        """Add a recipient to the envelope.

        Args:
            address: With or without angle brackets.
            params: ESMTP parameters separated by blanks, or None; with them it is `addrcpt_par`.

        Raises:
            LocalProtocolError: Not in eom, `Action.ADDRCPT` was not agreed, or an argument cannot be sent.
        """
        if params is not None:
            self.addrcpt_par(address, params)
        else:
            self._change(AddRcpt(arguments.recipient(address)))

    def addrcpt_par(self, address: str, params: str | None) -> None:
        """Add a recipient with ESMTP parameters.

        Args:
            address: One address, with or without angle brackets.
            params: NOTIFY and ORCPT (RFC 3461) separated by blanks, or None.

        Raises:
            LocalProtocolError: Not in eom, `Action.ADDRCPT_PAR` was not agreed, or an argument cannot be sent.
        """
        wire = arguments.recipient_params(params) if params is not None else None
        self._change(AddRcptPar(arguments.one_recipient(address), wire))

    def delrcpt(self, address: str) -> None:
        """Remove a recipient from the envelope: the text as in `recipients`; Postfix compares it exactly.

        Raises:
            LocalProtocolError: Not in eom, `Action.DELRCPT` was not agreed, or the address cannot be sent.
        """
        self._change(DelRcpt(arguments.address(address)))

    def replacebody(self, data: bytes) -> None:
        """Replace the body; further calls append. Any size; ``b""`` alone empties it.

        Args:
            data: Bytes with CRLF line ends. Taken over at once: a mutable buffer may be reused afterwards.

        Raises:
            LocalProtocolError: Not in eom, or `Action.CHGBODY` was not agreed.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        self._session.check_change(ReplBody())
        self._requests.add_body(bytes(data))

    def chgfrom(self, address: str, params: str | None = None) -> None:
        """Change the envelope sender.

        Args:
            address: With or without angle brackets; ``"<>"`` for the null sender.
            params: ESMTP parameters (RET, ENVID) separated by blanks, or None.

        Raises:
            LocalProtocolError: Not in eom, `Action.CHGFROM` was not agreed, or an argument cannot be sent.
        """
        self._change(
            ChgFrom(
                arguments.address(address),
                None if params is None else arguments.plain(params, "params"),
            )
        )

    def setsender(self, address: str) -> None:
        """Change the envelope sender; the old name of `chgfrom`."""
        self.chgfrom(address)

    def quarantine(self, reason: str) -> None:
        """Have the MTA hold the message after accepting it. The verdict is still yours.

        Args:
            reason: One line, not empty; Sendmail keeps it, Postfix at most logs it.

        Raises:
            LocalProtocolError: Not in eom, `Action.QUARANTINE` was not agreed, or the reason is empty or not one line.
        """
        wire = arguments.plain(reason, "reason")
        if not wire:
            raise LocalProtocolError("reason must not be empty")
        self._change(Quarantine(wire))

    def progress(self) -> None:
        """Tell the MTA now that the eom callback is still at work; changes made so far stay where they are.

        May be called from any thread. Restarts Postfix's timer; Sendmail's time for end of message as a whole goes on.

        Raises:
            LocalProtocolError: The eom callback is not running.
        """
        self._requests.progress()

    def _change(self, change: Message) -> None:
        self._session.check_change(change)
        self._requests.changes.append(change)

    # --- negotiation

    def setsymlist(self, stage: MacroStage | int | str, names: str | Iterable[str]) -> None:
        """Ask for macros with a stage, instead of those that the MTA sends by itself. In the negotiate callback only.

        EOM and EOH are set together, since Sendmail does not heed the one without the other.

        Args:
            stage: A `MacroStage` or the name of a stage.
            names: As one text separated by blanks, or an iterable; with or without braces. At most 50.

        Raises:
            LocalProtocolError: Not in the negotiate callback, or the MTA does not offer it.
            ConfigError: No such stage, or bad names.
        """
        offer = self._session.offer
        if not self._requests.negotiating or offer is None:
            raise LocalProtocolError(
                "setsymlist is possible in the negotiate callback only", command="setsymlist"
            )
        if not offer.actions & Action.SETSYMLIST:
            raise LocalProtocolError(
                "the MTA does not offer Action.SETSYMLIST", command="setsymlist"
            )
        try:
            number = macros_stage(stage) if isinstance(stage, str) else MacroStage(stage)
        except ValueError as error:
            raise ConfigError(f"no macros can be asked for with stage {stage!r}") from error
        self._requests.symlists[number] = format_symlist(names)

    def __repr__(self) -> str:
        return f"<Context {self.connection_id} {self._session.state.name}>"
