from __future__ import annotations

from pmilter.cli.account import Account, Exchange, Outcome, Recorder
from pmilter.cli.scenes import Client, Scene
from pmilter.protocol.messages import Accept, AddHeader, Continue, Eom, Header, Helo, Macros, Mail

SCENE = Scene("T", "S", Client("c", "192.0.2.1"), "a@b.c", ("x@y.z",), b"Subject: one\n\nbody\n")


def account(message: bytes | None) -> Account:
    outcome = Outcome(
        verdict="reject" if message is None else "accept",
        stage="eom",
        reply=None,
        rejected={},
        sender="a@b.c",
        recipients=() if message is None else ("x@y.z",),
        message=message,
    )
    exchange = Exchange(Eom(), {"i": "4X1"}, [AddHeader(b"X", b"1"), Accept()])
    return Account(SCENE, (exchange,), outcome)


def test_recorder_puts_answers_with_their_command() -> None:
    recorder = Recorder()
    recorder.command(Helo(b"mx"))
    recorder.command(Mail(b"<a@b.c>"))
    recorder.answer(Continue())
    recorder.command(Eom())
    recorder.answer(AddHeader(b"X", b"1"))
    recorder.answer(Accept())

    assert [(one.stage, one.answers) for one in recorder.exchanges] == [
        ("helo", []),
        ("envfrom", [Continue()]),
        ("eom", [AddHeader(b"X", b"1"), Accept()]),
    ]


def test_recorder_puts_macros_with_the_command_that_follows() -> None:
    recorder = Recorder()
    recorder.command(Macros(ord("M"), [(b"i", b"4X1"), (b"{mail_addr}", b"a\xff\n@b.c")]))
    recorder.command(Mail(b"<a@b.c>"))
    recorder.command(Eom())

    assert [one.macros for one in recorder.exchanges] == [
        {"i": "4X1", "{mail_addr}": r"a\udcff\n@b.c"},
        {},
    ]


def test_diff_of_an_unchanged_message_is_empty() -> None:
    assert account(b"Subject: one\r\n\r\nbody\r\n").diff() == []


def test_diff_of_a_refused_message_is_empty() -> None:
    assert account(None).diff() == []


def test_diff_shows_the_whole_message_with_its_changes() -> None:
    changed = account(b"Subject: two\r\nX: 1\r\n\r\nbody\r\n")

    assert changed.diff() == ["-Subject: one", "+Subject: two", "+X: 1", " ", " body"]


def test_diff_is_safe_to_print() -> None:
    changed = account(b"Subject: one\r\nX: \x1b[31m\tred\r\n\r\nbody\r\n")

    assert changed.diff()[1] == r"+X: \x1b[31m        red"


def test_json_has_all_that_is_told() -> None:
    told = account(b"Subject: one\r\n\r\nbo\xe9dy\r\n").to_json()

    assert told["title"] == "T"
    assert told["client"] == {"name": "c", "address": "192.0.2.1"}
    assert told["message"] == "Subject: one\n\nbody\n"
    assert told["exchanges"] == [
        {
            "stage": "eom",
            "command": "BODYEOB",
            "macros": {"i": "4X1"},
            "answers": ["ADDHEADER X: 1", "ACCEPT"],
        }
    ]
    assert told["outcome"]["message"] == "Subject: one\n\nbo\\xe9dy\n"
    assert told["diff"] == [" Subject: one", " ", "-body", r"+bo\xe9dy"]


def test_json_of_a_long_message_is_bounded() -> None:
    told = Exchange(Header(b"X", b"y" * 100_000)).to_json()

    assert len(told["command"]) == 1000
