"""Every constant of Sendmail::PMilter and libmilter under its own name; the same objects as in the enums.

Only names are listed here, for people who come from Perl or C. ``SMFIS_MSG_LOOP`` of Sendmail::PMilter 1.28 is left
out: its own engine refuses it. ``SMFIS_`` values are PMilter's (100 and up), all others libmilter's.
"""

from __future__ import annotations

from typing import Final

from pmilter.protocol.constants import (
    ACTIONS,
    CHUNK_SIZE,
    MAX_DATA_SIZE,
    MAX_REPLY_LINE,
    MAX_REPLY_LINES,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    STEPS,
    Action,
    Answer,
    Command,
    Family,
    MacroStage,
    Status,
    Step,
)

SMFIS_CONTINUE: Final = Status.CONTINUE
SMFIS_REJECT: Final = Status.REJECT
SMFIS_DISCARD: Final = Status.DISCARD
SMFIS_ACCEPT: Final = Status.ACCEPT
SMFIS_TEMPFAIL: Final = Status.TEMPFAIL
SMFIS_NOREPLY: Final = Status.NOREPLY
SMFIS_SKIP: Final = Status.SKIP
SMFIS_ALL_OPTS: Final = Status.ALL_OPTS

SMFIF_NONE: Final = Action(0)
SMFIF_ADDHDRS: Final = Action.ADDHDRS
SMFIF_CHGBODY: Final = Action.CHGBODY
SMFIF_ADDRCPT: Final = Action.ADDRCPT
SMFIF_DELRCPT: Final = Action.DELRCPT
SMFIF_CHGHDRS: Final = Action.CHGHDRS
SMFIF_QUARANTINE: Final = Action.QUARANTINE
SMFIF_CHGFROM: Final = Action.CHGFROM
SMFIF_ADDRCPT_PAR: Final = Action.ADDRCPT_PAR
SMFIF_SETSYMLIST: Final = Action.SETSYMLIST

SMFIF_MODBODY: Final = Action.CHGBODY
SMFIF_SETSENDER: Final = Action.CHGFROM

SMFI_V1_ACTS: Final = Action(0x0F)
SMFI_V2_ACTS: Final = ACTIONS[2]
SMFI_V6_ACTS: Final = ACTIONS[6]
SMFI_CURR_ACTS: Final = ACTIONS[6]

SMFIP_NOCONNECT: Final = Step.NOCONNECT
SMFIP_NOHELO: Final = Step.NOHELO
SMFIP_NOMAIL: Final = Step.NOMAIL
SMFIP_NORCPT: Final = Step.NORCPT
SMFIP_NOBODY: Final = Step.NOBODY
SMFIP_NOHDRS: Final = Step.NOHDRS
SMFIP_NOEOH: Final = Step.NOEOH
SMFIP_NR_HDR: Final = Step.NR_HDR
SMFIP_NOUNKNOWN: Final = Step.NOUNKNOWN
SMFIP_NODATA: Final = Step.NODATA
SMFIP_SKIP: Final = Step.SKIP
SMFIP_RCPT_REJ: Final = Step.RCPT_REJ
SMFIP_NR_CONN: Final = Step.NR_CONN
SMFIP_NR_HELO: Final = Step.NR_HELO
SMFIP_NR_MAIL: Final = Step.NR_MAIL
SMFIP_NR_RCPT: Final = Step.NR_RCPT
SMFIP_NR_DATA: Final = Step.NR_DATA
SMFIP_NR_UNKN: Final = Step.NR_UNKN
SMFIP_NR_EOH: Final = Step.NR_EOH
SMFIP_NR_BODY: Final = Step.NR_BODY
SMFIP_HDR_LEADSPC: Final = Step.HDR_LEADSPC
SMFIP_MDS_256K: Final = Step.MDS_256K
SMFIP_MDS_1M: Final = Step.MDS_1M

SMFIP_NOHREPL: Final = Step.NR_HDR
SMFI_V1_PROT: Final = Step(0x3F)
SMFI_V2_PROT: Final = STEPS[2]
SMFI_V6_PROT: Final = STEPS[6]
SMFI_CURR_PROT: Final = STEPS[6]
SMFI_INTERNAL: Final = Step(0x70000000)
SMFIP_TEST: Final = Step(0x80000000)

SMFIM_CONNECT: Final = MacroStage.CONNECT
SMFIM_HELO: Final = MacroStage.HELO
SMFIM_ENVFROM: Final = MacroStage.ENVFROM
SMFIM_ENVRCPT: Final = MacroStage.ENVRCPT
SMFIM_DATA: Final = MacroStage.DATA
SMFIM_EOM: Final = MacroStage.EOM
SMFIM_EOH: Final = MacroStage.EOH

SMFIM_NOMACROS: Final = -1
SMFIM_FIRST: Final = MacroStage.CONNECT
SMFIM_LAST: Final = MacroStage.EOH

SMFIA_UNKNOWN: Final = Family.UNKNOWN
SMFIA_UNIX: Final = Family.UNIX
SMFIA_INET: Final = Family.INET
SMFIA_INET6: Final = Family.INET6

SMFIC_ABORT: Final = Command.ABORT
SMFIC_BODY: Final = Command.BODY
SMFIC_CONNECT: Final = Command.CONNECT
SMFIC_MACRO: Final = Command.MACRO
SMFIC_BODYEOB: Final = Command.BODYEOB
SMFIC_HELO: Final = Command.HELO
SMFIC_QUIT_NC: Final = Command.QUIT_NC
SMFIC_HEADER: Final = Command.HEADER
SMFIC_MAIL: Final = Command.MAIL
SMFIC_EOH: Final = Command.EOH
SMFIC_OPTNEG: Final = Command.OPTNEG
SMFIC_QUIT: Final = Command.QUIT
SMFIC_RCPT: Final = Command.RCPT
SMFIC_DATA: Final = Command.DATA
SMFIC_UNKNOWN: Final = Command.UNKNOWN

SMFIR_ADDRCPT: Final = Answer.ADDRCPT
SMFIR_DELRCPT: Final = Answer.DELRCPT
SMFIR_ADDRCPT_PAR: Final = Answer.ADDRCPT_PAR
SMFIR_SHUTDOWN: Final = Answer.SHUTDOWN
SMFIR_OPTNEG: Final = Answer.OPTNEG
SMFIR_ACCEPT: Final = Answer.ACCEPT
SMFIR_REPLBODY: Final = Answer.REPLBODY
SMFIR_CONTINUE: Final = Answer.CONTINUE
SMFIR_DISCARD: Final = Answer.DISCARD
SMFIR_CHGFROM: Final = Answer.CHGFROM
SMFIR_CONN_FAIL: Final = Answer.CONN_FAIL
SMFIR_ADDHEADER: Final = Answer.ADDHEADER
SMFIR_INSHEADER: Final = Answer.INSHEADER
SMFIR_SETSYMLIST: Final = Answer.SETSYMLIST
SMFIR_CHGHEADER: Final = Answer.CHGHEADER
SMFIR_PROGRESS: Final = Answer.PROGRESS
SMFIR_QUARANTINE: Final = Answer.QUARANTINE
SMFIR_REJECT: Final = Answer.REJECT
SMFIR_SKIP: Final = Answer.SKIP
SMFIR_TEMPFAIL: Final = Answer.TEMPFAIL
SMFIR_REPLYCODE: Final = Answer.REPLYCODE

MI_SUCCESS: Final = 0
MI_FAILURE: Final = -1
MI_CONTINUE: Final = 1
SMFI_VERSION: Final = 0x01000001
SMFI_PROT_VERSION: Final = PROTOCOL_VERSION
SMFI_PROT_VERSION_MIN: Final = PROTOCOL_VERSION_MIN
MILTER_LEN_BYTES: Final = 4
MILTER_OPTLEN: Final = 12
MILTER_CHUNK_SIZE: Final = CHUNK_SIZE
MILTER_MAX_DATA_SIZE: Final = MAX_DATA_SIZE
MILTER_MDS_64K: Final = MAX_DATA_SIZE
MILTER_MDS_256K: Final = 262143
MILTER_MDS_1M: Final = 1048575
MAXREPLYLEN: Final = MAX_REPLY_LINE
MAXREPLIES: Final = MAX_REPLY_LINES

__all__ = [  # every constant of this module
    name
    for name in globals()
    if name.isupper() and name.startswith(("SMFI", "MI_", "MILTER_", "MAXREPL"))
]
