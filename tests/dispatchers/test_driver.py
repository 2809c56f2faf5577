from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Limits
from pmilter.conversation import Conversation
from pmilter.dispatchers.deadlines import Watch
from pmilter.dispatchers.driver import Driver, acknowledge, peer_name, prepare, writer
from pmilter.logs import ConversationFilter
from pmilter.program import Program
from tests.support.notation import frame, parse
from tests.support.playbook import filter_of, raises, returns
from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pmilter import Milter


@contextlib.contextmanager
def driven(
    milter: Milter,
    *,
    until: float | None = None,
    send_timeout: float = 60.0,
    watch: Watch | None = None,
) -> Iterator[socket.socket]:
    """Drive a conversation on one end of a socket pair on another thread; give the test the other end."""
    ours, theirs = socket.socketpair()
    prepare(theirs, send_timeout)
    talk = Conversation(Program(milter.plan()), "the test", write=theirs.sendall).run()
    driver = Driver(talk, theirs, until=until, watch=watch)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            driver.run()
        except BaseException as error:
            errors.append(error)
        finally:
            theirs.close()

    thread = threading.Thread(target=run)
    thread.start()
    ours.settimeout(DEADLINE)
    try:
        yield ours
    finally:
        ours.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert errors == []


def read(sock: socket.socket, expected: bytes) -> None:
    """Read what is expected, however it is cut."""
    got = b""
    while len(got) < len(expected) and (data := sock.recv(len(expected) - len(got))):
        got += data
    assert got == expected


def test_conversation_runs_to_its_end() -> None:
    with driven(filter_of({"helo": returns(None)}, keep=())) as sock:
        sock.sendall(parse("O 6 1ff 77f") + parse("H x␀"))
        read(sock, parse("O 6 0 37d") + parse("c"))
        sock.sendall(parse("Q"))
        assert sock.recv(100) == b""


def test_end_of_file_ends_it() -> None:
    with driven(filter_of({"helo": returns(None)})) as sock:
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""


@pytest.mark.parametrize(
    "error",
    [ValueError(), SystemExit(), KeyboardInterrupt(), StopIteration(), GeneratorExit()],
    ids=repr,
)
def test_what_a_callback_raises_is_answered_and_the_conversation_goes_on(
    error: BaseException,
) -> None:
    with driven(filter_of({"unknown": raises(error)}, keep=())) as sock:
        sock.sendall(parse("O 6 1ff 77f"))
        read(sock, parse("O 6 0 27f"))
        for _ in range(2):
            sock.sendall(parse("U ␀"))
            read(sock, parse("t"))


def test_silence_is_ended_after_the_time_that_the_conversation_gives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "pmilter")
    milter = filter_of({"helo": returns(None)})
    milter.settimeout(0.05)
    with driven(milter) as sock:
        sock.sendall(parse("O 6 1ff 77f"))
        assert sock.recv(100)
        assert sock.recv(100) == b""
    assert "nothing came" in caplog.text


def test_end_of_all_patience_counts_though_the_peer_talks_without_a_pause() -> None:
    def talk(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(parse("U ␀") * 5000)

    began = time.monotonic()
    milter = filter_of({"unknown": returns(None)}, keep=())
    with driven(milter, until=began + 0.2) as sock:
        sock.sendall(parse("O 6 1ff 77f"))
        thread = threading.Thread(target=talk, args=(sock,))
        thread.start()
        with contextlib.suppress(ConnectionResetError):
            while time.monotonic() < began + 2 and sock.recv(1_000_000):
                pass
        ended = time.monotonic()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE)
    assert ended < began + 1


def test_peer_that_takes_no_answer_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pmilter")

    def eom(ctx: Any) -> None:
        ctx.replacebody(b"x" * 5_000_000)

    milter = filter_of({"eom": eom, "data": returns(None)}, actions=2, keep=())
    with driven(milter, send_timeout=0.1) as sock:
        sock.sendall(parse("O 6 1ff 77f") + parse("T") + frame("E"))
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(DEADLINE)
    [message] = caplog.messages
    assert "the MTA takes no more" in message


def test_lines_of_callbacks_after_a_late_one_bear_the_ids_too() -> None:
    seen: dict[str, str | None] = {}
    go, returned = threading.Event(), threading.Event()

    def log(name: str) -> None:
        record = logging.makeLogRecord({})
        ConversationFilter().filter(record)
        seen[name] = vars(record)["connection_id"]

    def helo(*_: object) -> None:
        log("helo")
        go.wait(DEADLINE)
        returned.set()

    milter = filter_of(
        {"helo": helo, "unknown": lambda *_: log("unknown")},
        limits=Limits(command_time=0.1),
        keep=(),
    )
    watch = Watch(milter.plan().limits)
    with driven(milter, watch=watch) as sock:
        sock.sendall(parse("O 6 1ff 77f") + parse("H x␀"))
        read(sock, parse("O 6 0 27d") + parse("t"))
        go.set()
        assert returned.wait(DEADLINE)
        answer = b"t"
        while answer == b"t":  # its return and our command race
            sock.sendall(parse("U ␀"))
            answer = sock.recv(100)[4:]
        assert answer == b"c"
    watch.close()
    assert list(seen) == ["helo", "unknown"]
    assert seen["unknown"] == seen["helo"] is not None


# --- signs of life


@pytest.fixture
def prepared() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a connection: the MTA's, and ours as the driver uses it."""
    mta, ours = socket.socketpair()
    with mta, ours:
        prepare(ours, DEADLINE)
        mta.settimeout(DEADLINE)
        yield mta, ours


def test_sign_of_life_that_the_peer_does_not_take_is_dropped_without_a_wait(
    prepared: tuple[socket.socket, socket.socket],
) -> None:
    mta, ours = prepared
    write = writer(ours)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += ours.send(b"x" * 1000, socket.MSG_DONTWAIT)
    began = time.monotonic()
    write(parse("p"))
    assert time.monotonic() < began + DEADLINE / 2
    read(mta, b"x" * sent)
    write(parse("p"))
    read(mta, parse("p"))


def test_sign_of_life_that_has_been_begun_is_ended(
    prepared: tuple[socket.socket, socket.socket],
) -> None:
    mta, ours = prepared
    data = bytes(range(256)) * 8192
    thread = threading.Thread(target=writer(ours), args=(data,))
    thread.start()
    read(mta, data)
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_acknowledging_is_no_error_on_whatever_socket() -> None:
    for family in (socket.AF_UNIX, socket.AF_INET):
        with socket.socket(family) as sock:
            acknowledge(sock)
    acknowledge(sock)  # closed


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        served, _ = server.accept()
        with client, served:
            yield client, served


def test_prepared_socket_blocks_and_sends_at_once(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    served = tcp[1]
    served.setblocking(False)
    prepare(served, 5.0)
    assert served.gettimeout() is None
    assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert served.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)[:1] == b"\x05"


def test_name_of_an_internet_peer(tcp: tuple[socket.socket, socket.socket]) -> None:
    client, served = tcp
    assert peer_name(served, socket.AF_INET) == f"127.0.0.1:{client.getsockname()[1]}"


def test_name_of_a_unix_peer_tells_who_it_is() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert peer_name(one, socket.AF_UNIX) == f"unix pid {os.getpid()} uid {os.getuid()}"


@pytest.mark.parametrize("seconds", [0.0000001, 1e9, 7210.0])
def test_any_time_above_0_can_be_waited_for(seconds: float) -> None:
    milter = filter_of({"unknown": returns(None)}, keep=())
    milter.settimeout(seconds)
    with driven(milter) as sock:
        sock.sendall(parse("O 6 1ff 77f") + parse("U ␀"))
        read(sock, parse("O 6 0 27f") + parse("c"))


def test_time_that_is_endless_means_none() -> None:
    milter = filter_of({"unknown": returns(None)}, keep=())
    milter.settimeout(float("inf"))
    with driven(milter) as sock:
        sock.sendall(parse("O 6 1ff 77f"))
        assert sock.recv(100)
        sock.sendall(parse("U ␀"))
        assert sock.recv(100) == parse("c")
