"""Codes, flags and sizes of the milter protocol, under libmilter's names.

Where a Python scope replaces the prefix it is left out: `Action.ADDHDRS` is libmilter's ``SMFIF_ADDHDRS``. The
prefixed names are the same objects; `pmilter.symbols` lists them. Values: docs/protocol.md.
"""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from typing import Final

PROTOCOL_VERSION: Final = 6
"""The newest protocol version, and the one that is answered where the MTA offers it or a newer one."""

PROTOCOL_VERSION_MIN: Final = 2
"""The oldest version that is spoken; a version 1 offer is refused, as libmilter does."""

CHUNK_SIZE: Final = 65535
"""Largest body chunk in bytes, in both directions, whatever payload size was agreed (``MILTER_CHUNK_SIZE``)."""

MAX_DATA_SIZE: Final = 65535
"""Largest payload in bytes that may be sent unless a larger one was agreed (``MILTER_MAX_DATA_SIZE``)."""

MAX_REPLY_LINE: Final = 980
"""Largest text of one reply line, in bytes (``MAXREPLYLEN``)."""

MAX_REPLY_LINES: Final = 32
"""Most lines of one reply (``MAXREPLIES``)."""


class Status(Enum):
    """What a callback returns. The values are Sendmail::PMilter's, so that a stray 0 or 1 is never taken for one."""

    CONTINUE = 100
    """Go on; at end of message: deliver."""
    REJECT = 101
    """Refuse with 5xx: the recipient at envrcpt, the message at later stages, the client at connect and helo."""
    DISCARD = 102
    """Tell the client that all is well and drop the message."""
    ACCEPT = 103
    """Deliver and show this filter no more of the message (at connect and helo: of the connection)."""
    TEMPFAIL = 104
    """Refuse with 4xx, so that the client tries again later."""
    NOREPLY = 107
    """No verdict, from a callback that was registered with ``noreply=True``."""
    SKIP = 108
    """From body only: show no more body chunks, go on to eom."""
    ALL_OPTS = 110
    """From negotiate only: the library's choice, with all actions that the MTA offers."""

    # Enum's own is a Python function, and verdicts are looked up for every mail.
    __hash__ = object.__hash__


class Action(IntFlag):
    """Changes that a filter may make (libmilter's ``SMFIF_``); the second word of the negotiation."""

    ADDHDRS = 0x01
    CHGBODY = 0x02
    ADDRCPT = 0x04
    DELRCPT = 0x08
    CHGHDRS = 0x10
    QUARANTINE = 0x20
    CHGFROM = 0x40
    ADDRCPT_PAR = 0x80
    SETSYMLIST = 0x100


class Step(IntFlag):
    """Steps switched off, steps without reply, and extra abilities (``SMFIP_``); the third word of the negotiation."""

    NOCONNECT = 0x01
    NOHELO = 0x02
    NOMAIL = 0x04
    NORCPT = 0x08
    NOBODY = 0x10
    NOHDRS = 0x20
    NOEOH = 0x40
    NR_HDR = 0x80
    NOUNKNOWN = 0x100
    NODATA = 0x200
    SKIP = 0x400
    RCPT_REJ = 0x800
    NR_CONN = 0x1000
    NR_HELO = 0x2000
    NR_MAIL = 0x4000
    NR_RCPT = 0x8000
    NR_DATA = 0x10000
    NR_UNKN = 0x20000
    NR_EOH = 0x40000
    NR_BODY = 0x80000
    HDR_LEADSPC = 0x100000
    MDS_256K = 0x10000000
    MDS_1M = 0x20000000


class MacroStage(IntEnum):
    """Stages for which a filter can ask for macros (``SMFIM_``)."""

    CONNECT = 0
    HELO = 1
    ENVFROM = 2
    ENVRCPT = 3
    DATA = 4
    EOM = 5
    EOH = 6


class Family(Enum):
    """Address family letters of the connect command (``SMFIA_``)."""

    UNKNOWN = "U"
    UNIX = "L"
    INET = "4"
    INET6 = "6"


class Command(IntEnum):
    """Codes from the MTA to the filter (``SMFIC_``)."""

    ABORT = 0x41
    BODY = 0x42
    CONNECT = 0x43
    MACRO = 0x44
    BODYEOB = 0x45
    HELO = 0x48
    QUIT_NC = 0x4B
    HEADER = 0x4C
    MAIL = 0x4D
    EOH = 0x4E
    OPTNEG = 0x4F
    QUIT = 0x51
    RCPT = 0x52
    DATA = 0x54
    UNKNOWN = 0x55


class Answer(IntEnum):
    """Codes from the filter to the MTA (``SMFIR_``)."""

    ADDRCPT = 0x2B
    DELRCPT = 0x2D
    ADDRCPT_PAR = 0x32
    SHUTDOWN = 0x34
    OPTNEG = 0x4F
    ACCEPT = 0x61
    REPLBODY = 0x62
    CONTINUE = 0x63
    DISCARD = 0x64
    CHGFROM = 0x65
    CONN_FAIL = 0x66
    ADDHEADER = 0x68
    INSHEADER = 0x69
    SETSYMLIST = 0x6C
    CHGHEADER = 0x6D
    PROGRESS = 0x70
    QUARANTINE = 0x71
    REJECT = 0x72
    SKIP = 0x73
    TEMPFAIL = 0x74
    REPLYCODE = 0x79


NO_REPLY_STEPS: Final = (
    Step.NR_HDR
    | Step.NR_CONN
    | Step.NR_HELO
    | Step.NR_MAIL
    | Step.NR_RCPT
    | Step.NR_DATA
    | Step.NR_UNKN
    | Step.NR_EOH
    | Step.NR_BODY
)
"""All nine bits by which a filter promises not to answer a step."""

ACTIONS: Final[dict[int, Action]] = {
    2: Action(0x3F),
    6: Action(0x1FF),
}
"""All actions of the versions that brought new ones (``SMFI_V2_ACTS``, ``SMFI_V6_ACTS``)."""

STEPS: Final[dict[int, Step]] = {
    2: Step(0x7F),
    3: Step(0x17F),
    4: Step(0x37F),
    5: Step(0x37F),
    6: Step(0x1FFFFF),
}
"""All steps that each version knows (``SMFI_V2_PROT``, ``SMFI_V6_PROT``), as Postfix offers them."""
