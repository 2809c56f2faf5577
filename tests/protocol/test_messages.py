"""The layout of every message, with bytes written by hand on one side."""

from __future__ import annotations

import pytest

from pmilter.errors import LocalProtocolError, RemoteProtocolError
from pmilter.protocol.constants import Action, Answer, Command, Family, Step
from pmilter.protocol.messages import (
    ANSWERS,
    CHANGES,
    COMMANDS,
    Abort,
    Accept,
    AddHeader,
    AddRcpt,
    AddRcptPar,
    Body,
    ChgFrom,
    ChgHeader,
    Connect,
    ConnFail,
    Continue,
    Data,
    DelRcpt,
    Discard,
    Eoh,
    Eom,
    Header,
    Helo,
    InsHeader,
    Macros,
    Mail,
    Message,
    Options,
    Progress,
    Quarantine,
    Quit,
    QuitNc,
    Rcpt,
    Reject,
    ReplBody,
    ReplyCode,
    Shutdown,
    Skip,
    Tempfail,
    Unknown,
    decode_answer,
    decode_command,
)

COMMAND_LAYOUTS: list[tuple[Message, bytes, bytes]] = [
    (Options(6, 0x1FF, 0x1FFFFF), b"O", b"\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"),
    (Macros(0x43, [(b"j", b"mx"), (b"{if_name}", b"")]), b"D", b"Cj\0mx\0{if_name}\0\0"),
    (Macros(0x48), b"D", b"H"),
    (Connect(b"host", Family.INET, 25, b"192.0.2.1"), b"C", b"host\x004\0\x19192.0.2.1\0"),
    (Connect(b"host", Family.INET6, 49152, b"::1"), b"C", b"host\x006\xc0\0::1\0"),
    (Connect(b"localhost", Family.UNIX, 0, b"/s"), b"C", b"localhost\0L\0\0/s\0"),
    (Connect(b"localhost", Family.UNKNOWN), b"C", b"localhost\0U"),
    (Helo(b"client"), b"H", b"client\0"),
    (Helo(b""), b"H", b"\0"),
    (Mail(b"<a@b>", [b"SIZE=1", b"BODY=8BITMIME"]), b"M", b"<a@b>\0SIZE=1\0BODY=8BITMIME\0"),
    (Mail(b""), b"M", b"\0"),
    (Rcpt(b"<\xc3\xa9@b>"), b"R", b"<\xc3\xa9@b>\0"),
    (Rcpt(b"<a@b>", [b""]), b"R", b"<a@b>\0\0"),
    (Data(), b"T", b""),
    (Unknown(b"FROB now"), b"U", b"FROB now\0"),
    (Unknown(b""), b"U", b"\0"),
    (Header(b"Subject", b" a\n\tb"), b"L", b"Subject\0 a\n\tb\0"),
    (Header(b"X", b""), b"L", b"X\0\0"),
    (Eoh(), b"N", b""),
    (Body(b"a\0b\r\n"), b"B", b"a\0b\r\n"),
    (Eom(), b"E", b""),
    (Eom(b"last\r\n"), b"E", b"last\r\n"),
    (Abort(), b"A", b""),
    (Quit(), b"Q", b""),
    (QuitNc(), b"K", b""),
]

ANSWER_LAYOUTS: list[tuple[Message, bytes, bytes]] = [
    (Options(2, 0x1, 0x52), b"O", b"\0\0\0\x02\0\0\0\x01\0\0\0\x52"),
    (
        Options(6, 0x100, 0, {3: b"{rcpt_addr}", 0: b"j _"}),
        b"O",
        b"\0\0\0\x06\0\0\x01\0\0\0\0\0\0\0\0\0j _\0\0\0\0\x03{rcpt_addr}\0",
    ),
    (Options(6, 0x100, 0, {1: b""}), b"O", b"\0\0\0\x06\0\0\x01\0\0\0\0\0\0\0\0\x01\0"),
    (Continue(), b"c", b""),
    (Accept(), b"a", b""),
    (Reject(), b"r", b""),
    (Tempfail(), b"t", b""),
    (Discard(), b"d", b""),
    (Skip(), b"s", b""),
    (Progress(), b"p", b""),
    (Shutdown(), b"4", b""),
    (ConnFail(), b"f", b""),
    (ReplyCode(b"550 5.7.1 100%% no"), b"y", b"550 5.7.1 100%% no\0"),
    (ReplyCode(b"421-a\r\n421 b"), b"y", b"421-a\r\n421 b\0"),
    (AddHeader(b"X-A", b"v"), b"h", b"X-A\0v\0"),
    (InsHeader(1, b"X-A", b"v"), b"i", b"\0\0\0\x01X-A\0v\0"),
    (ChgHeader(0x01020304, b"X-A", b""), b"m", b"\x01\x02\x03\x04X-A\0\0"),
    (ReplBody(b"a\0\r\n"), b"b", b"a\0\r\n"),
    (ReplBody(), b"b", b""),
    (ChgFrom(b"<a@b>"), b"e", b"<a@b>\0"),
    (ChgFrom(b"<a@b>", b"RET=HDRS ENVID=1"), b"e", b"<a@b>\0RET=HDRS ENVID=1\0"),
    (ChgFrom(b"<a@b>", b""), b"e", b"<a@b>\0\0"),
    (AddRcpt(b"<a@b>"), b"+", b"<a@b>\0"),
    (AddRcptPar(b"<a@b>", b"NOTIFY=NEVER"), b"2", b"<a@b>\0NOTIFY=NEVER\0"),
    (AddRcptPar(b"<a@b>"), b"2", b"<a@b>\0"),
    (DelRcpt(b"<a@b>"), b"-", b"<a@b>\0"),
    (Quarantine(b"why"), b"q", b"why\0"),
]


def name_of(case: object) -> str | None:
    return type(case).__name__ if isinstance(case, Message) else None


@pytest.mark.parametrize(("message", "letter", "payload"), COMMAND_LAYOUTS, ids=name_of)
def test_command_has_this_layout(message: Message, letter: bytes, payload: bytes) -> None:
    assert message.encode() == (len(payload) + 1).to_bytes(4, "big") + letter + payload


@pytest.mark.parametrize(("message", "letter", "payload"), COMMAND_LAYOUTS, ids=name_of)
def test_command_is_read_from_this_layout(message: Message, letter: bytes, payload: bytes) -> None:
    decoded = decode_command(letter[0], payload)
    assert type(decoded) is type(message)
    assert decoded.fields() == message.fields()


@pytest.mark.parametrize(("message", "letter", "payload"), ANSWER_LAYOUTS, ids=name_of)
def test_answer_has_this_layout(message: Message, letter: bytes, payload: bytes) -> None:
    assert message.encode() == (len(payload) + 1).to_bytes(4, "big") + letter + payload


@pytest.mark.parametrize(("message", "letter", "payload"), ANSWER_LAYOUTS, ids=name_of)
def test_answer_is_read_from_this_layout(message: Message, letter: bytes, payload: bytes) -> None:
    decoded = decode_answer(letter[0], payload)
    assert type(decoded) is type(message)
    assert decoded.fields() == message.fields()


def test_every_command_has_its_layout_here() -> None:
    assert (
        {letter[0] for _, letter, _ in COMMAND_LAYOUTS} == set(COMMANDS) == set(map(int, Command))
    )


def test_every_answer_but_the_reserved_one_has_its_layout_here() -> None:
    letters = {letter[0] for _, letter, _ in ANSWER_LAYOUTS}
    assert letters == set(ANSWERS) == set(map(int, Answer)) - {Answer.SETSYMLIST}


def test_changes_are_what_may_precede_the_final_answer() -> None:
    assert {chr(code) for code in CHANGES} == set("himbe+2-q")


# --- refused ---------------------------------------------------------------------------------------------------------

BAD_COMMANDS = {
    "offer of 8 bytes": b"O\0\0\0\x06\0\0\0\x01",
    "empty offer": b"O",
    "macros without a stage": b"D",
    "macro without a value": b"DCj\0",
    "macro value without NUL": b"DCj\0mx",
    "connect without NUL": b"Clocalhost",
    "connect without family": b"Chost\0",
    "connect of an unknown family": b"Chost\0X\0\x19192.0.2.1\0",
    "connect without port": b"Chost\x004",
    "connect with half a port": b"Chost\x004\0",
    "connect without address": b"Chost\x004\0\x19",
    "connect with an unterminated address": b"Chost\x004\0\x19192.0.2.1",
    "connect with bytes after the address": b"Chost\x004\0\x19192.0.2.1\0rest\0",
    "empty connect": b"C",
    "empty helo": b"H",
    "unterminated helo": b"Hclient",
    "helo of two strings": b"Hclient\0more\0",
    "empty mail": b"M",
    "unterminated mail": b"M<a@b>",
    "unterminated parameter": b"M<a@b>\0SIZE=1",
    "empty rcpt": b"R",
    "unterminated rcpt": b"R<a@b>",
    "data with payload": b"T\0",
    "unterminated unknown": b"UFROB",
    "empty unknown": b"U",
    "unknown of two strings": b"UFROB\0now\0",
    "empty header": b"L",
    "header of one string": b"LSubject\0",
    "header without NUL": b"LSubject",
    "header with an unterminated value": b"LSubject\0hello",
    "end of header with payload": b"N\0",
    "abort with payload": b"Ax",
    "quit with payload": b"Qx",
    "quit_nc with payload": b"Kx",
    "letter nobody knows": b"Z",
    "letter of an answer": b"c",
    "code 0": b"\0",
    "code 255": b"\xff",
}

BAD_ANSWERS = {
    "answer of 8 bytes": b"O\0\0\0\x06\0\0\0\x01",
    "macro list without NUL": b"O\0\0\0\x06\0\0\x01\0\0\0\0\0\0\0\0\x01j",
    "half a macro list stage": b"O\0\0\0\x06\0\0\x01\0\0\0\0\0\0\0",
    "continue with payload": b"c\0",
    "accept with payload": b"ax",
    "progress with payload": b"p\0",
    "skip with payload": b"s\0",
    "empty reply": b"y",
    "unterminated reply": b"y550 no",
    "reply of two strings": b"y550 no\0more\0",
    "reply code of two digits": b"y55\0",
    "reply of class 2": b"y250 ok\0",
    "reply of letters": b"y5x0 no\0",
    "reply without a blank after its code": b"y550no\0",
    "reply with a single percent sign": b"y550 100% sure\0",
    "reply with three percent signs": b"y550 100%%% sure\0",
    "reply that goes on": b"y550-no\0",
    "reply that ends before its end": b"y550 no\r\n550 no\0",
    "reply of two codes": b"y550-no\r\n450 no\0",
    "reply with a bare LF": b"y550-no\n550 no\0",
    "reply with a bare CR": b"y550 n\ro\0",
    "reply that ends with CRLF": b"y550 no\r\n\0",
    "header without NUL": b"hX-A\0v",
    "header of one string": b"hX-A\0",
    "header of three strings": b"hX-A\0v\0w\0",
    "empty header": b"h",
    "insert without index": b"i\0\0\0",
    "insert of one string": b"i\0\0\0\x01X-A\0",
    "change of three strings": b"m\0\0\0\x01X-A\0v\0w\0",
    "change without NUL": b"m\0\0\0\x01X-A\0v",
    "change of an index alone": b"m\0\0\0\x01",
    "sender without NUL": b"e<a@b>",
    "sender of three strings": b"e<a@b>\0x\0y\0",
    "recipient without NUL": b"+<a@b>",
    "recipient of two strings": b"+<a@b>\0<c@d>\0",
    "recipient with parameters of three strings": b"2<a@b>\0x\0y\0",
    "removed recipient of two strings": b"-<a@b>\0<c@d>\0",
    "quarantine without NUL": b"qwhy",
    "quarantine of two strings": b"qwhy\0not\0",
    "reserved macro list reply": b"l",
    "letter of a command": b"C",
    "letter nobody knows": b"Z",
}


@pytest.mark.parametrize("frame", BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_malformed_command_is_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_command(frame[0], frame[1:])


@pytest.mark.parametrize("frame", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_malformed_answer_is_refused(frame: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_answer(frame[0], frame[1:])


def test_refusal_names_the_message() -> None:
    with pytest.raises(RemoteProtocolError, match="Helo") as caught:
        decode_command(0x48, b"client")
    assert caught.value.command == "Helo"


def test_bytes_after_an_unknown_family_are_ignored() -> None:
    assert decode_command(0x43, b"localhost\0Umore") == Connect(b"localhost", Family.UNKNOWN)


@pytest.mark.parametrize(
    "message",
    [
        Macros(0x43, [(b"j\0", b"mx")]),
        Macros(0x43, [(b"j", b"m\0x")]),
        Connect(b"ho\0st", Family.UNKNOWN),
        Connect(b"host", Family.INET, 25, b"192.0.2.1\0"),
        Helo(b"cli\0ent"),
        Unknown(b"FR\0OB"),
        Mail(b"<a\0@b>"),
        Rcpt(b"<a@b>", [b"A\0B"]),
        Header(b"Sub\0ject", b"hello"),
        AddHeader(b"X\0A", b"v"),
        AddHeader(b"X-A", b"v\0"),
        InsHeader(0, b"X-A", b"\0v"),
        ChgHeader(1, b"\0X", b"v"),
        ChgFrom(b"<a\0@b>"),
        AddRcpt(b"<a\0@b>"),
        AddRcptPar(b"<a@b>", b"NOTIFY\0NEVER"),
        DelRcpt(b"\0"),
        Quarantine(b"why\0not"),
        ReplyCode(b"550 n\0o"),
        Options(6, 0x100, 0, {0: b"j\0_"}),
    ],
    ids=name_of,
)
def test_text_with_a_nul_is_not_sent(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        message.encode()


# --- records ---------------------------------------------------------------------------------------------------------


def test_messages_are_equal_by_type_and_fields() -> None:
    assert Helo(b"a") == Helo(b"a")
    assert Helo(b"a") != Helo(b"b")
    assert Helo(b"a") != Unknown(b"a")
    assert Continue() == Continue()
    assert Continue() != Accept()
    assert Mail(b"a", [b"x"]) != Mail(b"a")
    assert Helo(b"a") != b"a"


def test_equal_messages_have_equal_hashes() -> None:
    twins: list[tuple[Message, Message]] = [
        (Mail(b"a", [b"x"]), Mail(b"a", (b"x",))),
        (Options(6, 1, 2, {0: b"j", 1: b"_"}), Options(6, 1, 2, {1: b"_", 0: b"j"})),
        (Macros(0x43, [(b"j", b"mx")]), Macros(0x43, ((b"j", b"mx"),))),
    ]
    assert [hash(one) for one, _ in twins] == [hash(other) for _, other in twins]


def test_messages_show_type_and_fields() -> None:
    assert repr(Mail(b"<a@b>", [b"SIZE=1"])) == "Mail(address=b'<a@b>', args=(b'SIZE=1',))"
    assert repr(Continue()) == "Continue()"


def test_messages_can_be_matched_by_position() -> None:
    match decode_command(0x4C, b"Subject\0hello\0"):
        case Header(name, value):
            assert (name, value) == (b"Subject", b"hello")
        case other:
            pytest.fail(f"no match: {other!r}")


def test_messages_take_no_attribute_that_is_not_a_field() -> None:
    with pytest.raises(AttributeError):
        Helo(b"a").name = b"b"  # type: ignore[attr-defined]  # the mistake that is tested


def test_options_have_flags_with_names() -> None:
    options = decode_command(0x4F, b"\0\0\0\x06\0\0\0\x11\0\0\x04\0")
    assert isinstance(options, Options)
    assert options.actions == Action.ADDHDRS | Action.CHGHDRS
    assert isinstance(options.actions, Action)
    assert options.steps is Step.SKIP


def test_options_keep_bits_that_have_no_name() -> None:
    options = Options.decode(b"\0\0\0\x06\x80\0\0\0\xff\xff\xff\xff")
    assert (options.actions, options.steps) == (0x80000000, 0xFFFFFFFF)
    assert options.payload() == b"\0\0\0\x06\x80\0\0\0\xff\xff\xff\xff"


def test_replaced_options_are_new_and_the_old_ones_unchanged() -> None:
    old = Options(6, Action.ADDHDRS, Step.SKIP, {0: b"j"})
    new = old.replace(version=2, steps=Step(0))
    assert new == Options(2, Action.ADDHDRS, Step(0), {0: b"j"})
    assert old == Options(6, Action.ADDHDRS, Step.SKIP, {0: b"j"})


def test_replaced_options_may_be_zero_and_empty() -> None:
    old = Options(6, Action.ADDHDRS, Step.SKIP, {0: b"j"})
    assert old.replace(actions=Action(0), symlists={}) == Options(6, 0, Step.SKIP)


def test_options_do_not_share_the_dict_they_were_given() -> None:
    symlists = {0: b"j"}
    options = Options(6, 0, 0, symlists)
    symlists[1] = b"_"
    assert options.symlists == {0: b"j"}


def test_macro_lists_of_stages_that_nobody_knows_are_skipped() -> None:
    records = b"\0\0\0\x07x\0\0\0\0\x05i\0\xff\xff\xff\xffy\0"
    payload = b"\0\0\0\x06\0\0\x01\0\0\0\0\0" + records
    assert Options.decode(payload).symlists == {5: b"i"}


def test_later_macro_list_of_a_stage_wins() -> None:
    payload = b"\0\0\0\x06\0\0\x01\0\0\0\0\0\0\0\0\0i\0\0\0\0\0j\0"
    assert Options.decode(payload).symlists == {0: b"j"}
