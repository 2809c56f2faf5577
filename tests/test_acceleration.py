"""Whether the compiled form is what it says to be."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import pmilter
from pmilter import Milter, acceleration
from pmilter.conversation import Conversation
from pmilter.dispatchers import traffic
from pmilter.effects import call_at_once
from pmilter.outcomes import CallFailed
from pmilter.program import Program
from pmilter.protocol import messages, offer
from tests.support.processes import DEADLINE
from tests.support.waiting import until


def test_form_that_is_told_is_that_of_each_hot_module() -> None:
    kinds = {Path(import_module(name).__file__ or "").suffix for name in acceleration.MODULES}
    assert kinds == ({".so"} if pmilter.accelerated else {".py"})


def test_system_calls_of_the_compiled_loop_are_c_where_there_is_epoll() -> None:
    assert (traffic.native is not None) == (pmilter.accelerated and sys.platform == "linux")


@pytest.mark.skipif(traffic.native is None, reason="the source form has no such functions")
@pytest.mark.parametrize("messages", [(), [()], [(None, b"")], [(None, "text")], [(b"", b"", b"")]])
def test_what_cannot_be_sent_is_an_error_and_no_crash(messages: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        traffic.native.send(messages)


@pytest.mark.skipif(traffic.native is None, reason="the source form has no such functions")
@pytest.mark.parametrize("most", [0, 65, -1])
def test_counts_that_no_round_can_have_are_refused(most: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 64"):
        traffic.native.receive(0, 0.0, most, {}, 1)


def test_form_is_told_by_the_command_in_the_documentation() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import pmilter; print(pmilter.accelerated)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
        env=os.environ | {"PYTHONPATH": str(Path(pmilter.__file__).parents[1])},
    )
    assert told.stdout == f"{pmilter.accelerated}\n"


def test_module_of_the_standard_library_that_is_source_is_not_called_compiled() -> None:
    assert not acceleration.is_compiled("contextlib")


def test_unknown_name_of_the_module_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(acceleration, "nonsense")  # noqa: B009  # a type checker would refuse it


def test_source_of_compiled_modules_is_there_too() -> None:
    package = Path(pmilter.__file__).parent.parent
    for name in acceleration.MODULES:
        assert (package / f"{name.replace('.', '/')}.py").is_file()


def conversation_after(reaction: Any) -> tuple[Any, Any]:
    """Return a conversation that has a helo callback under way, and the call."""
    milter = Milter("x")
    milter.on("helo")(reaction)
    talk: Any = Conversation(Program(milter.plan())).run()
    next(talk)
    talk.send(offer().encode() + messages.Connect(b"a", pmilter.Family.UNKNOWN).encode())
    return talk, talk.send(messages.Helo(b"there").encode())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError(), ValueError()])
def test_whatever_is_thrown_in_for_a_callback_is_answered(error: BaseException) -> None:
    talk, _ = conversation_after(lambda *_: None)
    effect = talk.throw(error)
    assert effect.answer == messages.Tempfail().encode()


def test_traceback_of_what_a_callback_raised_is_whole(caplog: pytest.LogCaptureFixture) -> None:
    def failing(*_: object) -> None:
        raise KeyError("x")

    talk, call = conversation_after(failing)
    with pytest.raises(CallFailed) as raised:
        call_at_once(call)
    talk.throw(raised.value)
    assert "in failing" in caplog.text


def test_conversation_that_is_closed_ends() -> None:
    talk, _ = conversation_after(lambda *_: None)
    talk.close()
    with pytest.raises(StopIteration):
        next(talk)


def test_busy_loop_sees_signals(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    program = (
        "import pmilter\n"
        "m = pmilter.Milter('x')\n"
        "m.on('helo')(lambda *_: None)\n"
        f"m.setconn('unix:{path}')\n"
        "m.set_dispatcher(pmilter.selector_dispatcher())\n"
        "m.main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(pmilter.__file__).parents[1])}
    connect = messages.Connect(b"a", pmilter.Family.UNKNOWN)
    server = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        until(path.exists)
        with socket.socket(socket.AF_UNIX) as mta:
            mta.settimeout(DEADLINE)
            mta.connect(str(path))
            mta.sendall(offer().encode() + connect.encode())
            assert mta.recv(100)[4:5] == b"O"
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(ConnectionError):  # it closes while more is on its way
                while True:
                    mta.sendall(messages.Helo(b"there").encode() * 1000)
                    if not mta.recv(100_000):
                        break
        assert server.wait(DEADLINE) == 0
    finally:
        server.kill()
        server.wait()
