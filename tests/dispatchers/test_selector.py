from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from pmilter import Action, Context, Limits, Milter, selector_dispatcher
from pmilter.errors import ConfigError
from pmilter.logs import ConversationFilter
from pmilter.testing.rig.serve import serve
from tests.support.notation import frame
from tests.support.processes import DEADLINE
from tests.support.wire import Wire

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c"


def filter_with(limits: Limits | None = None, **callbacks: Any) -> Milter:
    milter = Milter("selected", actions=Action(0x1FF), limits=limits)
    for stage, function in callbacks.items():
        on: Any = milter.on
        on(stage)(function)
    return milter


def test_all_connections_are_served_by_the_thread_of_main() -> None:
    threads: set[int] = set()
    milter = filter_with(helo=lambda *_: threads.add(threading.get_ident()))
    with serve(milter, dispatcher=selector_dispatcher()) as address:
        wires = [Wire(str(address)) for _ in range(5)]
        for wire in wires:
            wire.play(SESSION)
        for wire in wires:
            wire.play(">> H y␀\n<< c\n>> Q\n<< EOF").close()
    assert len(threads) == 1


@pytest.mark.parametrize("scheme", ["inet:0@127.0.0.1", "unix"])
def test_an_answer_larger_than_the_socket_takes_at_once_arrives_whole(
    scheme: str, tmp_path: Any
) -> None:
    size = 8_000_000

    def eom(ctx: Context) -> None:
        ctx.replacebody(b"x" * size)

    milter = filter_with(eom=eom)
    address = f"unix:{tmp_path}/s" if scheme == "unix" else scheme
    with (
        serve(milter, address, dispatcher=selector_dispatcher()) as bound,
        Wire(str(bound)) as wire,
    ):
        wire.play(SESSION + "\n>> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> E")
        received = 0
        while received < size + 5 * (size // 65535 + 1) + 5:
            received += len(wire.sock.recv(1_000_000))
        wire.play(">> Q\n<< EOF")


def test_a_peer_that_is_silent_for_too_long_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pmilter")
    milter = filter_with(Limits(negotiation=0.1), helo=lambda *_: None)
    with serve(milter, dispatcher=selector_dispatcher()) as address, Wire(str(address)) as wire:
        assert wire.sock.recv(10) == b""
    assert any("nothing came" in message for message in caplog.messages)


def test_coroutine_callbacks_are_refused_at_main() -> None:
    async def eom(_ctx: Context) -> None: ...

    milter = filter_with(eom=eom)
    milter.setconn("inet:0@127.0.0.1")
    milter.set_dispatcher(selector_dispatcher())
    with pytest.raises(ConfigError, match="eom"):
        milter.main()
    assert milter.address is None


def test_log_that_raises_harms_its_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if "closing in state" in record.getMessage():
            raise KeyError("in a filter of the log's")
        return True

    logger = logging.getLogger("pmilter")
    logger.addFilter(refuse)
    milter = filter_with(helo=lambda *_: None)
    try:
        with (
            serve(milter, dispatcher=selector_dispatcher()) as address,
            Wire(str(address)) as good,
            Wire(str(address)) as bad,
        ):
            good.play(SESSION)
            bad.play(">> nonsense\n<< EOF")
            good.play(">> H x␀\n<< c")
    finally:
        logger.removeFilter(refuse)
    assert "a connection failed" in caplog.messages


def test_lines_of_a_connection_that_has_waited_to_send_bear_its_ids() -> None:
    """Others have run on the same thread meanwhile."""
    seen: dict[str, str | None] = {}
    answered = threading.Semaphore(0)

    def note(name: str) -> None:
        record = logging.makeLogRecord({})
        ConversationFilter().filter(record)
        seen[name] = vars(record)["connection_id"]

    def eom(ctx: Context) -> None:
        ctx.replacebody(b"x" * 8_000_000)
        note(f"eom {ctx.sender}")
        answered.release()

    milter = filter_with(eom=eom, unknown=lambda ctx, command: note(command))
    with (
        serve(milter, dispatcher=selector_dispatcher()) as address,
        Wire(str(address)) as one,
        Wire(str(address)) as other,
    ):
        for wire, sender in ((one, "<one@x>"), (other, "<other@x>")):
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c")
            wire.play(f">> M {sender}␀\n<< c\n>> R <b@x>␀\n<< c")
        for wire in (one, other):
            wire.send(frame("E") + frame("U", b"again\0"))
            assert answered.acquire(timeout=DEADLINE)
        assert set(seen) == {"eom <one@x>", "eom <other@x>"}
        while one.answer() != "c":
            pass
        one.play("<< c")
        assert seen["again"] == seen["eom <one@x>"] != seen["eom <other@x>"]
