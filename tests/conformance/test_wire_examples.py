"""The example frames that were checked against libmilter, Sendmail and Postfix: field by field, and to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pmilter.errors import RemoteProtocolError
from pmilter.protocol.constants import Action, Family, Step
from pmilter.protocol.frames import FrameReader
from pmilter.protocol.messages import (
    ANSWERS,
    COMMANDS,
    AddHeader,
    AddRcpt,
    AddRcptPar,
    Body,
    ChgFrom,
    ChgHeader,
    Connect,
    DelRcpt,
    Eom,
    Header,
    Helo,
    InsHeader,
    Macros,
    Mail,
    Message,
    Options,
    Quarantine,
    Rcpt,
    ReplBody,
    ReplyCode,
    Unknown,
    decode_answer,
    decode_command,
)
from tests.conformance.recordings import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    Fields = dict[str, Any]

GOOD = [example for example in EXAMPLES if not example["name"].startswith("bad_")]
BAD = [example for example in EXAMPLES if example["name"].startswith("bad_")]


def name_of(example: Fields) -> str:
    name: str = example["name"]
    return name


def decode(example: Fields, limit: int = 1048575) -> Message:
    """Read an example as the side that receives it would."""
    reader = FrameReader(limit)
    reader.feed(bytes.fromhex(example["hex"]))
    frame = reader.next_frame()
    assert frame is not None
    assert reader.clean
    read = decode_command if example["direction"] == "mta->filter" else decode_answer
    return read(*frame)


def text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def texts(*values: bytes) -> list[str]:
    return [value.decode("latin-1") for value in values]


def raw(value: str) -> bytes:
    return value.encode("latin-1")


def optional(value: str | None) -> bytes | None:
    return None if value is None else raw(value)


def options_fields(message: Options) -> Fields:
    fields: Fields = {
        "version": message.version,
        "actions": int(message.actions),
        "protocol": int(message.steps),
    }
    if message.symlists:
        fields["symlists"] = [{"stage": s, "names": text(n)} for s, n in message.symlists.items()]
    return fields


def connect_fields(message: Connect) -> Fields:
    fields: Fields = {"hostname": text(message.hostname), "family": message.family.value}
    if message.family is not Family.UNKNOWN:
        fields |= {"port": message.port, "address": text(message.address)}
    return fields


FIELDS: dict[type[Message], Callable[[Any], Fields]] = {
    Options: options_fields,
    Macros: lambda m: {"stage": chr(m.stage), "macros": [texts(*item) for item in m.items]},
    Connect: connect_fields,
    Helo: lambda m: {"args": texts(m.text)},
    Unknown: lambda m: {"args": texts(m.text)},
    Mail: lambda m: {"args": texts(m.address, *m.args)},
    Rcpt: lambda m: {"args": texts(m.address, *m.args)},
    Header: lambda m: {"name": text(m.name), "value": text(m.value)},
    Body: lambda m: {"data_hex": m.chunk.hex()},
    Eom: lambda m: {"data_hex": m.chunk.hex()} if m.chunk else {},
    ReplyCode: lambda m: {"text": text(m.text)},
    AddHeader: lambda m: {"name": text(m.name), "value": text(m.value)},
    InsHeader: lambda m: {"index": m.index, "name": text(m.name), "value": text(m.value)},
    ChgHeader: lambda m: {"index": m.index, "name": text(m.name), "value": text(m.value)},
    ReplBody: lambda m: {"data_hex": m.chunk.hex()},
    ChgFrom: lambda m: {"address": text(m.address), "args": text(m.args)},
    AddRcptPar: lambda m: {"address": text(m.address), "args": text(m.args)},
    AddRcpt: lambda m: {"address": text(m.text)},
    DelRcpt: lambda m: {"address": text(m.text)},
    Quarantine: lambda m: {"reason": text(m.text)},
}
"""What the examples list of each type; types without payload are not here."""


@pytest.mark.parametrize("example", GOOD, ids=name_of)
def test_example_is_read_field_by_field(example: Fields) -> None:
    message = decode(example)
    listed = FIELDS.get(type(message), lambda _: {})(message)
    assert {"cmd": chr(message.code)} | listed == example["fields"]


def build_options(f: Fields) -> Options:
    symlists = {record["stage"]: raw(record["names"]) for record in f.get("symlists", ())}
    return Options(f["version"], f["actions"], f["protocol"], symlists)


def build_connect(f: Fields) -> Connect:
    return Connect(
        raw(f["hostname"]), Family(f["family"]), f.get("port", 0), raw(f.get("address", ""))
    )


def build_macros(f: Fields) -> Macros:
    return Macros(ord(f["stage"]), [(raw(name), raw(value)) for name, value in f["macros"]])


def build_envelope(kind: type[Mail | Rcpt]) -> Callable[[Fields], Message]:
    return lambda f: kind(raw(f["args"][0]), [raw(arg) for arg in f["args"][1:]])


BUILD: dict[str, Callable[[Fields], Message]] = {
    "O": build_options,
    "D": build_macros,
    "C": build_connect,
    "H": lambda f: Helo(raw(f["args"][0])),
    "U": lambda f: Unknown(raw(f["args"][0])),
    "M": build_envelope(Mail),
    "R": build_envelope(Rcpt),
    "L": lambda f: Header(raw(f["name"]), raw(f["value"])),
    "B": lambda f: Body(bytes.fromhex(f["data_hex"])),
    "E": lambda f: Eom(bytes.fromhex(f.get("data_hex", ""))),
    "y": lambda f: ReplyCode(raw(f["text"])),
    "h": lambda f: AddHeader(raw(f["name"]), raw(f["value"])),
    "i": lambda f: InsHeader(f["index"], raw(f["name"]), raw(f["value"])),
    "m": lambda f: ChgHeader(f["index"], raw(f["name"]), raw(f["value"])),
    "b": lambda f: ReplBody(bytes.fromhex(f["data_hex"])),
    "e": lambda f: ChgFrom(raw(f["address"]), optional(f["args"])),
    "2": lambda f: AddRcptPar(raw(f["address"]), optional(f["args"])),
    "+": lambda f: AddRcpt(raw(f["address"])),
    "-": lambda f: DelRcpt(raw(f["address"])),
    "q": lambda f: Quarantine(raw(f["reason"])),
}
"""How to build what the examples list of each code; codes without payload are not here."""


@pytest.mark.parametrize("example", GOOD, ids=name_of)
def test_example_is_written_to_the_byte(example: Fields) -> None:
    fields = example["fields"]
    letter = fields["cmd"]
    types = COMMANDS if example["direction"] == "mta->filter" else ANSWERS
    message = BUILD[letter](fields) if letter in BUILD else types[ord(letter)]()
    assert message.encode().hex() == example["hex"]


@pytest.mark.parametrize("example", BAD, ids=name_of)
def test_malformed_example_is_refused(example: Fields) -> None:
    # One of them is too large for the frames that everybody speaks, though not for the largest that can be agreed.
    with pytest.raises(RemoteProtocolError):
        decode(example, limit=65535)


def test_all_examples_are_here() -> None:
    assert (len(GOOD), len(BAD)) == (79, 9)


def test_flags_of_examples_have_their_types() -> None:
    message = decode(GOOD[0])
    assert isinstance(message, Options)
    assert isinstance(message.actions, Action)
    assert isinstance(message.steps, Step)
