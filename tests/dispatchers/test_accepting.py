"""Where connections come from, for our dispatchers and for those of users."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Milter, Stopped
from pmilter.dispatchers.registry import dispatcher_named
from tests.support.playbook import filter_of, returns
from tests.support.processes import DEADLINE
from tests.support.wire import Wire, connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"


def serve_in_thread(milter: Milter) -> threading.Thread:
    thread = threading.Thread(target=milter.main)
    thread.start()
    return thread


def test_users_may_write_their_own() -> None:
    ended: list[str] = []

    def dispatcher(_milter: Milter, listener: Listener, handler: Handler) -> None:
        try:
            while True:
                conn, _ = listener.accept()
                handler(conn)
                assert conn.fileno() == -1
        except Stopped:
            ended.append("stopped")

    milter = filter_of({"helo": returns(None)})
    milter.set_dispatcher(dispatcher)
    milter.setconn("inet:0@127.0.0.1")
    address = str(milter.address)
    thread = serve_in_thread(milter)
    for _ in range(2):
        with Wire(address) as wire:
            wire.play(SESSION + ">> Q\n<< EOF")
    milter.stop()
    thread.join(DEADLINE)
    assert ended == ["stopped"]


def test_dispatcher_that_lets_stopped_through_ends_well() -> None:
    milter = filter_of({"helo": returns(None)})

    def dispatcher(_milter: Milter, listener: Listener, _handler: Handler) -> None:
        listener.accept()

    milter.set_dispatcher(dispatcher)
    milter.setconn("inet:0@127.0.0.1")
    thread = serve_in_thread(milter)
    milter.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()


class Flaky(socket.socket):
    """A listening socket on which the first attempts to accept fail."""

    errors: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.errors:
            number = self.errors.pop()
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.parametrize(
    "numbers",
    [
        [errno.ECONNABORTED] * 3,
        [errno.EAGAIN],
        [errno.EMFILE],
        [errno.EPROTO],
        [errno.ENETDOWN],
        [errno.EHOSTUNREACH],
        [errno.EPERM],
    ],
    ids=lambda numbers: errno.errorcode[numbers[0]],
)
def test_connection_that_fails_while_it_is_accepted_does_not_end_the_service(
    numbers: list[int],
) -> None:
    with Flaky(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.errors = numbers
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        address = "inet:{1}@{0}".format(*sock.getsockname())
        milter = filter_of({"helo": returns(None)})
        milter.set_socket(sock)
        milter.set_dispatcher(dispatcher_named("ithread"))
        thread = threading.Thread(target=milter.main)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "excepthook", lambda _: None)  # the test says it better
            thread.start()
            try:
                with Wire(address) as wire:
                    wire.play(SESSION + ">> Q\n<< EOF")
            finally:
                milter.stop()
                thread.join(DEADLINE)
        assert not thread.is_alive()


class Closing(socket.socket):
    """A listening socket that another thread closes just when somebody wants to wait for it."""

    stop: Callable[[], object] | None = None

    def fileno(self) -> int:
        if self.stop is not None:
            self.close()
            self.stop()
        return super().fileno()


def test_socket_that_a_stop_closes_before_it_is_waited_for_means_stopped() -> None:
    def dispatcher(m: Milter, listener: Listener, _handler: Handler) -> None:
        sock.stop = m.stop
        with pytest.raises(Stopped):
            listener.accept()
        raised.append("Stopped")

    raised: list[str] = []
    with Closing(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        milter = filter_of({"helo": returns(None)})
        milter.set_socket(sock)
        milter.set_dispatcher(dispatcher)
        milter.main()
    assert raised == ["Stopped"]


def test_accept_raises_once_the_service_stops_though_a_connection_waits() -> None:
    def dispatcher(m: Milter, listener: Listener, _handler: Handler) -> None:
        with connect(address):
            m.stop()
            for _ in range(2):
                with pytest.raises(Stopped):
                    listener.accept()
            raised.append("Stopped")

    raised: list[str] = []
    milter = filter_of({"helo": returns(None)})
    milter.set_dispatcher(dispatcher)
    milter.setconn("inet:0@127.0.0.1")
    address = str(milter.address)
    milter.main()
    assert raised == ["Stopped"]
