"""What Postfix and Sendmail do differently, as data: one frozen record each, read by everything that plays an MTA.

Seen on Postfix 3.7 and Sendmail 8.17 in their default configuration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from pmilter.errors import ConfigError
from pmilter.protocol.constants import (
    ACTIONS,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    STEPS,
    Action,
    Command,
    Status,
)
from pmilter.protocol.messages import Options

if TYPE_CHECKING:
    from collections.abc import Mapping


class Parting(Enum):
    """How an MTA leaves a filter that gave its verdict at connect or helo."""

    CLOSE = "close"
    """It closes at once, without QUIT."""
    QUIT = "quit"
    """QUIT at once."""
    LATER = "later"
    """QUIT when the SMTP session ends; nothing until then."""


class BareBreak(Enum):
    """What an MTA makes of a CR or LF that stands alone in a message."""

    REPAIR = "repair"
    """LF is a line end, CR becomes a space."""
    REFUSE = "refuse"
    """The message is refused with a 421 reply, before the filter has seen any of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One MTA's ways.

    Attributes:
        name: What to ask for it by.
        version: Its macro ``v``.
        daemon_name: Its macro ``{daemon_name}``; empty for the host name.
        mailer: The mailer that it names for addresses elsewhere.
        queue_id: Format of its queue ids; takes a running number.
        actions: Protocol version -> actions that it offers.
        strict: Whether a filter that breaks the rules that Postfix does not check has failed: step bits that were not
            offered, progress before end of message.
        macros: Command -> names of the macros that it sends with it by default. None are sent with a command that is
            missing here, whatever the filter asks for.
        absent_macros: Names of macros, without braces, that this MTA does not have.
        sends_empty_macros: Whether an empty list of names still makes a packet, of the stage alone.
        empty_list_is_default: Whether an empty list that the filter asks for means the default one.
        eom_list_needs_eoh: Whether a list for EOM counts only where there is one for EOH, which else empties it.
        late_queue_id: Whether the queue id is known from the first accepted recipient on only.
        full_ipv6: Whether IPv6 addresses are written with all zeros, and ``IPv6:`` before them.
        unknown_host: Host name of a client of which nothing is known.
        unknown_name: What the macros say for a client without a verified name; None for the address in brackets.
        refused_text_only: Whether the macros of a recipient that the MTA refuses hold the text of its reply without codes.
        refused_macros_alone: Whether those macros are sent also where the recipient itself is not shown.
        verb_only: Whether an unknown command is shown by its first word alone.
        aborts_finished: Whether ABORT follows every message, also a finished one, and the HELO of the session at its end.
        parting: (Stage, verdict) -> what becomes of the connection; stages connect and helo.
        header: What a line must match to begin a header field: groups name and value.
        from_line: What a first line must match to be the delivery note of a mailbox file.
        from_field: Name of the field that such a line becomes; None where it is dropped.
        bare_break: What becomes of a CR or LF alone.
        nul_ends_line: Whether a line of a header field ends at a NUL; else the NUL is dropped.
        field_limit: Most bytes of one header field, the rest is cut off; 0 for no limit.
        header_limit: Most bytes of all header fields, above it the message is refused; 0 for no limit.
        hidden_fields: Header fields, in lower case, that are removed before the filter sees the message.
        dropped_fields: Header fields, in lower case, that the filter sees and nobody else.
        blind_fields: As these; but where the message names no recipient otherwise, empty ones are delivered.
        automatic_fields: The MTA's own fields at the top of the header, the one at 0 being its Received: positions for
            `insheader` count them. The others have a value only where the filter gives them one; an empty field of such a name
            in the message is ignored.
        renumbers: Whether a deleted field is gone at once; else its place counts until the message is delivered, and a change
            revives it.
        joins_namesakes: Whether an added field goes before the first of that name; else at the end.
        renames: Whether a changed field takes the spelling of its name from the change.
        always_blank: Whether a blank line is delivered also after a header without blank line and body.
        fold: What is put before a continuation line that does not begin with white space.
        folds_recipients: Whether recipients that differ in case are the same.
        adds_apart: Whether an added recipient is compared with other added ones only, parameters included, so that one that
            was there before gets the message twice.
        adds_lists: Whether several recipients can be added or removed at once, with commas between them; else the first counts.
    """

    name: str
    version: str
    daemon_name: str
    mailer: str
    queue_id: str
    actions: Mapping[int, Action]
    strict: bool
    macros: Mapping[int, tuple[str, ...]]
    absent_macros: frozenset[str]
    sends_empty_macros: bool
    empty_list_is_default: bool
    eom_list_needs_eoh: bool
    late_queue_id: bool
    full_ipv6: bool
    unknown_host: str
    unknown_name: str | None
    refused_text_only: bool
    refused_macros_alone: bool
    verb_only: bool
    aborts_finished: bool
    parting: Mapping[tuple[str, Status], Parting]
    header: re.Pattern[bytes]
    from_line: re.Pattern[bytes]
    from_field: bytes | None
    bare_break: BareBreak
    nul_ends_line: bool
    field_limit: int
    header_limit: int
    hidden_fields: frozenset[bytes]
    dropped_fields: frozenset[bytes]
    blind_fields: frozenset[bytes]
    automatic_fields: tuple[bytes, ...]
    renumbers: bool
    joins_namesakes: bool
    renames: bool
    always_blank: bool
    fold: bytes
    folds_recipients: bool
    adds_apart: bool
    adds_lists: bool

    def offer(self, version: int = PROTOCOL_VERSION) -> Options:
        """Return what it offers when it speaks a protocol version, from 2 to 6.

        Raises:
            ConfigError: No such version.
        """
        if version not in self.actions:
            raise ConfigError(
                f"protocol version must be from {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}, not {version!r}"
            )
        return Options(version, self.actions[version], STEPS[version])


_VERSIONS: Final = range(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION + 1)
_AT_ONCE: Final = (Status.ACCEPT, Status.REJECT, Status.TEMPFAIL)
_TLS: Final = ("{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}", "{cert_issuer}")

POSTFIX: Final = Dialect(
    name="postfix",
    version="Postfix 3.7.11",
    daemon_name="",
    mailer="smtp",
    queue_id="4C7F2{:06X}",
    actions=dict.fromkeys(_VERSIONS, ACTIONS[6]),
    strict=False,
    macros={
        Command.CONNECT: ("j", "{daemon_name}", "{daemon_addr}", "v", "_"),
        Command.HELO: _TLS,
        Command.MAIL: (
            "i", "{auth_type}", "{auth_authen}", "{auth_author}", "{mail_addr}", "{mail_host}", "{mail_mailer}",
        ),
        Command.RCPT: ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
        Command.DATA: ("i",),
        Command.UNKNOWN: (),
        Command.HEADER: ("i",),
        Command.EOH: ("i",),
        Command.BODY: ("i",),
        Command.BODYEOB: ("i",),
    },
    absent_macros=frozenset({"if_addr", "if_name", "msg_id"}),
    sends_empty_macros=True,
    empty_list_is_default=True,
    eom_list_needs_eoh=False,
    late_queue_id=True,
    full_ipv6=False,
    unknown_host="unknown",
    unknown_name="unknown",
    refused_text_only=True,
    refused_macros_alone=False,
    verb_only=True,
    aborts_finished=True,
    parting={(stage, verdict): Parting.CLOSE for stage in ("connect", "helo") for verdict in _AT_ONCE},
    header=re.compile(rb"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL),
    from_line=re.compile(rb">*From "),
    from_field=b"X-Mailbox-Line",
    bare_break=BareBreak.REPAIR,
    nul_ends_line=True,
    field_limit=60_000,
    header_limit=0,
    hidden_fields=frozenset({b"bcc", b"content-length", b"resent-bcc", b"return-path"}),
    dropped_fields=frozenset(),
    blind_fields=frozenset(),
    automatic_fields=(b"Received",),
    renumbers=True,
    joins_namesakes=False,
    renames=True,
    always_blank=False,
    fold=b"\t",
    folds_recipients=True,
    adds_apart=True,
    adds_lists=False,
)  # fmt: skip
"""Postfix 3.7."""

SENDMAIL: Final = Dialect(
    name="sendmail",
    version="8.17.1.9",
    daemon_name="MTA",
    mailer="esmtp",
    queue_id="6AMK7bXR{:06d}",
    actions=dict.fromkeys(_VERSIONS, ACTIONS[2]) | {6: ACTIONS[6]},
    strict=True,
    macros={
        Command.CONNECT: ("j", "_", "{daemon_name}", "{if_name}", "{if_addr}"),
        Command.HELO: _TLS,
        Command.MAIL: (
            "i", "{auth_type}", "{auth_authen}", "{auth_ssf}", "{auth_author}",
            "{mail_mailer}", "{mail_host}", "{mail_addr}",
        ),
        Command.RCPT: ("{rcpt_mailer}", "{rcpt_host}", "{rcpt_addr}"),
        Command.DATA: (),
        Command.EOH: (),
        Command.BODYEOB: ("{msg_id}",),
    },
    absent_macros=frozenset(),
    sends_empty_macros=False,
    empty_list_is_default=False,
    eom_list_needs_eoh=True,
    late_queue_id=False,
    full_ipv6=True,
    unknown_host="localhost",
    unknown_name=None,
    refused_text_only=False,
    refused_macros_alone=True,
    verb_only=False,
    aborts_finished=False,
    parting={
        **{(stage, verdict): Parting.QUIT for stage in ("connect", "helo") for verdict in _AT_ONCE},
        ("helo", Status.REJECT): Parting.LATER,
        ("helo", Status.TEMPFAIL): Parting.LATER,
    },
    header=re.compile(rb"(?!--)([!-9;-~]{1,100})[ \t\v\f]*:(.*)", re.DOTALL),
    from_line=re.compile(rb"From "),
    from_field=None,
    bare_break=BareBreak.REFUSE,
    nul_ends_line=False,
    field_limit=0,
    header_limit=32_768,
    hidden_fields=frozenset(),
    dropped_fields=frozenset({b"content-length", b"full-name", b"return-path"}),
    blind_fields=frozenset({b"bcc", b"resent-bcc"}),
    automatic_fields=(
        b"Received", b"Resent-Date", b"Date", b"Resent-From", b"From", b"Full-Name", b"Resent-Message-Id", b"Message-Id",
    ),
    renumbers=False,
    joins_namesakes=True,
    renames=False,
    always_blank=True,
    fold=b" ",
    folds_recipients=False,
    adds_apart=False,
    adds_lists=True,
)  # fmt: skip
"""Sendmail 8.17."""

DIALECTS: Final = {dialect.name: dialect for dialect in (POSTFIX, SENDMAIL)}
"""Name -> dialect."""


def find_dialect(dialect: Dialect | str) -> Dialect:
    """Return a dialect by its name, or the one given.

    Raises:
        ConfigError: No dialect has this name.
    """
    if isinstance(dialect, Dialect):
        return dialect
    try:
        return DIALECTS[dialect]
    except KeyError:
        known = ", ".join(map(repr, DIALECTS))
        raise ConfigError(f"no dialect {dialect!r}; there are {known}") from None
