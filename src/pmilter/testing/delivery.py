"""What an MTA delivers after a filter's changes: the effect of each change as Postfix or Sendmail would have it.

Not done, since it is no business of filters: the MTA's own Received and missing fields such as Date are not added, though
positions count them; addresses in header fields are not rewritten; long lines are not broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pmilter.client.dialogue import bare_address
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
from pmilter.testing.recipients import RecipientList, mailboxes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pmilter.client.content import Content, Field
    from pmilter.client.dialect import Dialect


class Delivery(NamedTuple):
    """A message as it leaves the MTA."""

    message: bytes
    """Header and body, with CRLF line ends."""
    sender: bytes
    """Without angle brackets, as the recipients are."""
    recipients: list[bytes]
    quarantine: bytes | None
    """Reason for which it is held, or None."""


def deliver(
    content: Content,
    sender: bytes,
    recipients: Iterable[bytes],
    changes: Iterable[Message],
    dialect: Dialect,
    *,
    leadspc: bool = False,
) -> Delivery:
    """Return what becomes of a message that the filter let pass.

    Args:
        content: The message as the MTA took it.
        sender: Envelope sender.
        recipients: Envelope recipients.
        changes: The filter's changes in order.
        dialect: The MTA.
        leadspc: Whether `Step.HDR_LEADSPC` was agreed.
    """
    delivering = _Delivering(content, sender, recipients, dialect, leadspc=leadspc)
    for change in changes:
        delivering.apply(change)
    return delivering.finish()


class _Delivering:
    """A message under change."""

    def __init__(
        self,
        content: Content,
        sender: bytes,
        recipients: Iterable[bytes],
        dialect: Dialect,
        *,
        leadspc: bool,
    ) -> None:
        self._header = HeaderList(content.fields, dialect, leadspc=leadspc)
        self._content = content
        self._dialect = dialect
        self._new_body: list[bytes] = []
        self._sender = bare_address(sender)
        self._recipients = RecipientList(recipients, dialect)
        self._quarantine: bytes | None = None

    def apply(self, change: Message) -> None:
        match change:
            case AddHeader(name, value):
                self._header.add(name, value)
            case InsHeader(index, name, value):
                self._header.insert(index, name, value)
            case ChgHeader(index, name, value):
                self._header.change(index, name, value)
            case ReplBody(chunk):
                self._new_body.append(chunk)
            case ChgFrom(text):
                self._sender = mailboxes(text)[0]
            case AddRcpt(text):
                self._recipients.add(text)
            case AddRcptPar(text, args):
                self._recipients.add(text, args)
            case DelRcpt(text):
                self._recipients.remove(text)
            case Quarantine(reason):
                self._quarantine = reason

    def finish(self) -> Delivery:
        body, replaced = self._content.body, bool(self._new_body)
        if replaced:
            body = _whole_lines(b"".join(self._new_body))
        blank = body or replaced or self._content.blank or self._dialect.always_blank
        message = self._header.encode() + (b"\r\n" if blank else b"") + body
        return Delivery(message, self._sender, self._recipients.addresses(), self._quarantine)


def _whole_lines(body: bytes) -> bytes:
    body = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return body if not body or body.endswith(b"\r\n") else body + b"\r\n"


class _Slot:
    """A place in an MTA's list of header fields; `value` is None where nothing is delivered from it."""

    __slots__ = ("automatic", "name", "value")

    def __init__(self, name: bytes, value: bytes | None, *, automatic: bool = False) -> None:
        self.name = name
        self.value = value
        self.automatic = automatic


class HeaderList:
    """The header fields of a message as an MTA keeps them, its own included.

    Args:
        fields: Those of the message.
        dialect: The MTA.
        leadspc: Whether values of changes bring their leading space along.
    """

    def __init__(self, fields: Iterable[Field], dialect: Dialect, *, leadspc: bool = False) -> None:
        self._dialect = dialect
        self._lead = b"" if leadspc else b" "
        self._slots = [_Slot(name, None, automatic=True) for name in dialect.automatic_fields]
        self._received = self._slots[0]
        self._slots += (_Slot(*field) for field in fields)
        self._addressed = any(slot.name.lower() in _RECIPIENT_FIELDS for slot in self._slots)

    def add(self, name: bytes, value: bytes) -> None:
        """Add a field."""
        own = self._automatic(name)
        if own is not None:
            self._fill(own, value)
        else:
            self._append(name, value)

    def insert(self, position: int, name: bytes, value: bytes) -> None:
        """Insert a field; 0 is above the MTA's Received, positions beyond the end mean the end."""
        self._slots.insert(position, _Slot(name, self._lead + value))

    def change(self, index: int, name: bytes, value: bytes) -> None:
        """Change, delete or (where there is none) add the index-th field of a name; 0 means 1."""
        slot = self._nth(max(1, index), name) or self._automatic(name)
        if slot is None:
            if value:
                self._append(name, value)
        elif value:
            self._fill(slot, value)
            if self._dialect.renames:
                slot.name = name
        elif self._dialect.renumbers:
            self._slots.remove(slot)
        else:
            slot.value = None

    def _append(self, name: bytes, value: bytes) -> None:
        slot = _Slot(name, self._lead + value)
        namesake = self._find(name) if self._dialect.joins_namesakes else None
        self._slots.insert(len(self._slots) if namesake is None else namesake, slot)

    def _fill(self, slot: _Slot, value: bytes) -> None:
        slot.value = self._lead + value
        slot.automatic = False

    def _find(self, name: bytes) -> int | None:
        folded = name.lower()
        return next((n for n, slot in enumerate(self._slots) if slot.name.lower() == folded), None)

    def _nth(self, index: int, name: bytes) -> _Slot | None:
        folded = name.lower()
        namesakes = [s for s in self._slots if s.name.lower() == folded and not s.automatic]
        return namesakes[index - 1] if index <= len(namesakes) else None

    def _automatic(self, name: bytes) -> _Slot | None:
        """Return the MTA's own field of a name, unless that is its Received, which nobody changes."""
        folded = name.lower()
        for slot in self._slots:
            if slot.automatic and slot is not self._received and slot.name.lower() == folded:
                return slot
        return None

    def encode(self) -> bytes:
        """Return the header as delivered, without the blank line."""
        lines = (
            self._lines(slot.name, slot.value) for slot in self._slots if slot.value is not None
        )
        return b"".join(lines)

    def _lines(self, name: bytes, value: bytes) -> bytes:
        folded_name = name.lower()
        if folded_name in self._dialect.dropped_fields:
            return b""
        if folded_name in self._dialect.blind_fields:
            return b"" if self._addressed else name + b":\r\n"
        first, *rest = value.split(b"\n")
        folded = (line if line[:1] in (b" ", b"\t") else self._dialect.fold + line for line in rest)
        return name + b":" + b"\r\n".join((first, *folded)) + b"\r\n"


_RECIPIENT_FIELDS: Final = frozenset({b"to", b"cc", b"apparently-to"})
