from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pmilter import LocalProtocolError, MacroStage, Reply
from pmilter.effects import Call
from pmilter.protocol.messages import AddHeader, ReplBody
from pmilter.requests import SHUTDOWN, Requests

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 5.0


def asked(write: Callable[[bytes], object] | None = None) -> Requests:
    return Requests(Call(), write)


def test_reply_is_taken_once() -> None:
    requests = asked()
    requests.set_reply(Reply(550))
    requests.set_reply(Reply(551))
    assert requests.take_reply() == Reply(551)
    assert requests.take_reply() is None


def test_nothing_overrides_shutdown() -> None:
    requests = asked()
    requests.set_reply(Reply(550))
    requests.shutdown()
    requests.set_reply(Reply(551))
    assert requests.take_reply() is SHUTDOWN
    assert str(SHUTDOWN).startswith("421 4.7.0 ")


def test_changes_come_as_asked_for_and_the_body_last() -> None:
    requests = asked()
    requests.changes.append(AddHeader(b"A", b"1"))
    requests.add_body(b"x" * 65535)
    requests.changes.append(AddHeader(b"B", b"2"))
    requests.add_body(b"y")
    assert list(requests.take_changes()) == [
        AddHeader(b"A", b"1"),
        AddHeader(b"B", b"2"),
        ReplBody(b"x" * 65535),
        ReplBody(b"y"),
    ]
    assert list(requests.take_changes()) == []


def test_no_body_is_not_an_empty_body() -> None:
    requests = asked()
    assert list(requests.take_changes()) == []
    requests.add_body(b"")
    assert list(requests.take_changes()) == [ReplBody(b"")]


def test_dropped_changes_are_gone() -> None:
    requests = asked()
    requests.changes.append(AddHeader(b"A", b"1"))
    requests.add_body(b"x")
    requests.drop_changes()
    assert list(requests.take_changes()) == []


def test_macro_lists_of_eom_and_eoh_come_together() -> None:
    requests = asked()
    requests.symlists[MacroStage.EOM] = b"i"
    assert requests.take_symlists() == {MacroStage.EOM: b"i", MacroStage.EOH: b"i"}


def test_progress_is_possible_between_begin_and_end_of_eom() -> None:
    written: list[bytes] = []
    requests = asked(written.append)
    for allowed in (False, True, False):
        if allowed:
            requests.begin_eom()
            requests.progress()
            requests.end_eom()
        else:
            with pytest.raises(LocalProtocolError, match="eom callback"):
                requests.progress()
    assert written == [b"\0\0\0\x01p"]


def test_end_of_eom_waits_for_a_progress_that_is_being_sent() -> None:
    writing, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def write(_data: bytes) -> None:
        writing.set()
        assert go_on.wait(DEADLINE)
        order.append("sent")

    def end() -> None:
        requests.end_eom()
        order.append("ended")
        ended.set()

    order: list[str] = []
    requests = asked(write)
    requests.begin_eom()
    sender = threading.Thread(target=requests.progress)
    sender.start()
    assert writing.wait(DEADLINE)
    ender = threading.Thread(target=end)
    ender.start()
    go_on.set()
    assert ended.wait(DEADLINE)
    sender.join(DEADLINE)
    ender.join(DEADLINE)
    assert order == ["sent", "ended"]


def test_many_threads_may_send_progress() -> None:
    written: list[bytes] = []
    requests = asked(written.append)
    requests.begin_eom()
    threads = [threading.Thread(target=requests.progress) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert written == [b"\0\0\0\x01p"] * 20


def test_time_left_is_that_of_the_running_callback() -> None:
    call = Call()
    requests = Requests(call, None)
    assert requests.time_left(5.0) is None
    call.deadline = 12.0
    assert requests.time_left(5.0) == 7.0
