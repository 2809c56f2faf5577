from __future__ import annotations

import socket
import threading

import pytest

from pmilter import Milter, MilterTimeout
from pmilter.cli.account import Recorder
from pmilter.cli.recording import Connection, RecordedSession, RecordedSocket, recording_dispatcher
from pmilter.protocol.messages import Continue, Helo, Options, Quit
from pmilter.testing.rig import serve
from tests.support.wire import Wire

CHOICE = b"\0\0\0\x0dO\0\0\0\6\0\0\0\0\0\0\0\1"  # no connect, please


def test_session_tells_of_commands_and_answers() -> None:
    recorder = Recorder()
    session = RecordedSession(recorder)
    session.open()
    session.receive(CHOICE)
    session.next_answer()
    session.send(Helo(b"mx"))
    session.receive(b"\0\0\0\1c")
    session.next_answer()

    assert session.next_answer() is None
    assert [one.answers for one in recorder.exchanges] == [[Options(6, 0, 1)], [Continue()]]
    assert recorder.exchanges[1].command == Helo(b"mx")


def test_connection_cuts_bytes_into_messages_however_they_come() -> None:
    connection = Connection()
    for byte in b"\0\0\0\4Hmx\0":
        connection.from_mta(bytes((byte,)))
    connection.from_filter(b"\0\0\0\1p\0\0")
    connection.from_filter(b"\0\1c")

    [exchange] = connection.recorder.exchanges
    assert exchange.command == Helo(b"mx")
    assert [answer.code for answer in exchange.answers] == [ord("p"), ord("c")]


def test_socket_tells_what_passes_and_when_it_ends() -> None:
    ours, theirs = socket.socketpair()
    connection = Connection()
    with theirs:
        recorded = RecordedSocket(ours, connection)
        theirs.sendall(b"\0\0\0\4Hmx\0")
        recorded.recv(100)
        recorded.sendall(b"\0\0\0\1c")

        assert theirs.recv(100) == b"\0\0\0\1c"
        recorded.close()

        connection.wait_closed(0)
    assert connection.recorder.exchanges[0].answers == [Continue()]


def test_connection_that_goes_on_is_not_waited_for_longer_than_asked() -> None:
    with pytest.raises(MilterTimeout, match=r"within 0\.01 s"):
        Connection().wait_closed(0.01)


def test_dispatcher_serves_and_records_every_connection() -> None:
    milter = Milter(keep=())
    milter.on("helo")(lambda _ctx, _name: None)
    begun: list[Connection] = []
    with serve(milter, dispatcher=recording_dispatcher(begun.append)) as address:
        for name in ("one", "two"):
            with Wire(address) as wire:
                wire.play(f">> O 6 1ff 1fffff\n<< O *\n>> H {name}␀\n<< c\n>> Q\n<< EOF")
        for connection in begun:
            connection.wait_closed(10)

    assert [[one.command for one in c.recorder.exchanges[1:]] for c in begun] == [
        [Helo(b"one"), Quit()],
        [Helo(b"two"), Quit()],
    ]
    assert threading.active_count() == 1
