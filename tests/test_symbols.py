"""Every constant of Sendmail::PMilter 1.00 and 1.28 and of libmilter, from lists written by hand."""

from __future__ import annotations

import pytest

from pmilter import symbols
from pmilter.protocol.constants import Action, Answer, Command, Family, MacroStage, Status, Step

# Sendmail::PMilter's values, on purpose not libmilter's; the last three are libmilter's numbers plus a hundred.
STATUSES = {
    "SMFIS_CONTINUE": 100,
    "SMFIS_REJECT": 101,
    "SMFIS_DISCARD": 102,
    "SMFIS_ACCEPT": 103,
    "SMFIS_TEMPFAIL": 104,
    "SMFIS_NOREPLY": 107,
    "SMFIS_SKIP": 108,
    "SMFIS_ALL_OPTS": 110,
}

ACTIONS = {
    "SMFIF_NONE": 0x0,
    "SMFIF_ADDHDRS": 0x1,
    "SMFIF_CHGBODY": 0x2,
    "SMFIF_MODBODY": 0x2,
    "SMFIF_ADDRCPT": 0x4,
    "SMFIF_DELRCPT": 0x8,
    "SMFIF_CHGHDRS": 0x10,
    "SMFIF_QUARANTINE": 0x20,
    "SMFIF_CHGFROM": 0x40,
    "SMFIF_SETSENDER": 0x40,
    "SMFIF_ADDRCPT_PAR": 0x80,
    "SMFIF_SETSYMLIST": 0x100,
    "SMFI_V1_ACTS": 0xF,
    "SMFI_V2_ACTS": 0x3F,
    "SMFI_V6_ACTS": 0x1FF,
    "SMFI_CURR_ACTS": 0x1FF,
}

STEPS = {
    "SMFIP_NOCONNECT": 0x1,
    "SMFIP_NOHELO": 0x2,
    "SMFIP_NOMAIL": 0x4,
    "SMFIP_NORCPT": 0x8,
    "SMFIP_NOBODY": 0x10,
    "SMFIP_NOHDRS": 0x20,
    "SMFIP_NOEOH": 0x40,
    "SMFIP_NR_HDR": 0x80,
    "SMFIP_NOHREPL": 0x80,
    "SMFIP_NOUNKNOWN": 0x100,
    "SMFIP_NODATA": 0x200,
    "SMFIP_SKIP": 0x400,
    "SMFIP_RCPT_REJ": 0x800,
    "SMFIP_NR_CONN": 0x1000,
    "SMFIP_NR_HELO": 0x2000,
    "SMFIP_NR_MAIL": 0x4000,
    "SMFIP_NR_RCPT": 0x8000,
    "SMFIP_NR_DATA": 0x10000,
    "SMFIP_NR_UNKN": 0x20000,
    "SMFIP_NR_EOH": 0x40000,
    "SMFIP_NR_BODY": 0x80000,
    "SMFIP_HDR_LEADSPC": 0x100000,
    "SMFIP_MDS_256K": 0x10000000,
    "SMFIP_MDS_1M": 0x20000000,
    "SMFIP_TEST": 0x80000000,
    "SMFI_V1_PROT": 0x3F,
    "SMFI_V2_PROT": 0x7F,
    "SMFI_V6_PROT": 0x1FFFFF,
    "SMFI_CURR_PROT": 0x1FFFFF,
    "SMFI_INTERNAL": 0x70000000,
}

STAGES = {
    "SMFIM_CONNECT": 0,
    "SMFIM_HELO": 1,
    "SMFIM_ENVFROM": 2,
    "SMFIM_ENVRCPT": 3,
    "SMFIM_DATA": 4,
    "SMFIM_EOM": 5,
    "SMFIM_EOH": 6,
}

FAMILIES = {"SMFIA_UNKNOWN": "U", "SMFIA_UNIX": "L", "SMFIA_INET": "4", "SMFIA_INET6": "6"}

COMMANDS = {
    "SMFIC_ABORT": "A",
    "SMFIC_BODY": "B",
    "SMFIC_CONNECT": "C",
    "SMFIC_MACRO": "D",
    "SMFIC_BODYEOB": "E",
    "SMFIC_HELO": "H",
    "SMFIC_QUIT_NC": "K",
    "SMFIC_HEADER": "L",
    "SMFIC_MAIL": "M",
    "SMFIC_EOH": "N",
    "SMFIC_OPTNEG": "O",
    "SMFIC_QUIT": "Q",
    "SMFIC_RCPT": "R",
    "SMFIC_DATA": "T",
    "SMFIC_UNKNOWN": "U",
}

ANSWERS = {
    "SMFIR_ADDRCPT": "+",
    "SMFIR_DELRCPT": "-",
    "SMFIR_ADDRCPT_PAR": "2",
    "SMFIR_SHUTDOWN": "4",
    "SMFIR_OPTNEG": "O",
    "SMFIR_ACCEPT": "a",
    "SMFIR_REPLBODY": "b",
    "SMFIR_CONTINUE": "c",
    "SMFIR_DISCARD": "d",
    "SMFIR_CHGFROM": "e",
    "SMFIR_CONN_FAIL": "f",
    "SMFIR_ADDHEADER": "h",
    "SMFIR_INSHEADER": "i",
    "SMFIR_SETSYMLIST": "l",
    "SMFIR_CHGHEADER": "m",
    "SMFIR_PROGRESS": "p",
    "SMFIR_QUARANTINE": "q",
    "SMFIR_REJECT": "r",
    "SMFIR_SKIP": "s",
    "SMFIR_TEMPFAIL": "t",
    "SMFIR_REPLYCODE": "y",
}

NUMBERS = {
    "MI_SUCCESS": 0,
    "MI_FAILURE": -1,
    "MI_CONTINUE": 1,
    "SMFI_VERSION": 0x01000001,
    "SMFI_PROT_VERSION": 6,
    "SMFI_PROT_VERSION_MIN": 2,
    "SMFIM_NOMACROS": -1,
    "SMFIM_FIRST": 0,
    "SMFIM_LAST": 6,
    "MILTER_LEN_BYTES": 4,
    "MILTER_OPTLEN": 12,
    "MILTER_CHUNK_SIZE": 65535,
    "MILTER_MAX_DATA_SIZE": 65535,
    "MILTER_MDS_64K": 65535,
    "MILTER_MDS_256K": 262143,
    "MILTER_MDS_1M": 1048575,
    "MAXREPLYLEN": 980,
    "MAXREPLIES": 32,
}

TABLES: list[tuple[dict[str, int] | dict[str, str], type]] = [
    (STATUSES, Status),
    (FAMILIES, Family),
    (ACTIONS, Action),
    (STEPS, Step),
    (STAGES, MacroStage),
]


@pytest.mark.parametrize(("table", "kind"), TABLES, ids=lambda case: getattr(case, "__name__", ""))
def test_symbols_are_members_of_their_enum(
    table: dict[str, int] | dict[str, str], kind: type
) -> None:
    found = {name: getattr(symbols, name) for name in table}
    assert found == {name: kind(value) for name, value in table.items()}
    assert {type(value) for value in found.values()} == {kind}


@pytest.mark.parametrize(("table", "kind"), [(COMMANDS, Command), (ANSWERS, Answer)])
def test_symbols_are_the_codes_of_their_letters(table: dict[str, str], kind: type) -> None:
    found = {name: getattr(symbols, name) for name in table}
    assert found == {name: kind(ord(letter)) for name, letter in table.items()}
    assert {type(value) for value in found.values()} == {kind}


def test_symbols_are_these_numbers() -> None:
    assert {name: getattr(symbols, name) for name in NUMBERS} == NUMBERS


def test_statuses_are_no_numbers_by_accident() -> None:
    numbers: set[object] = set(STATUSES.values())
    assert not numbers & {getattr(symbols, name) for name in STATUSES}


def test_symbols_are_listed_here_without_exception() -> None:
    listed = {name for table, _ in TABLES for name in table} | {*COMMANDS, *ANSWERS, *NUMBERS}
    prefixes = ("SMFI", "MI_", "MILTER_", "MAXREPL")
    assert {name for name in vars(symbols) if name.startswith(prefixes)} == listed


def test_status_that_the_original_exports_and_refuses_is_absent() -> None:
    assert not hasattr(symbols, "SMFIS_MSG_LOOP")
