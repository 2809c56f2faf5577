"""How connections are served, those included that have nothing for the filter."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Limits, Milter
from tests.support.notation import parse
from tests.support.playbook import filter_of, returns
from tests.support.service import DISPATCHERS, Service, serving
from tests.support.waiting import until
from tests.support.wire import Trace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler

every = pytest.mark.parametrize("dispatcher", DISPATCHERS)

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


def tracing(trace: Trace, *, grace: float = 10.0, **others: Any) -> Milter:
    """Return a filter that says which of its callbacks run."""

    def say(stage: str) -> Any:
        return lambda *_: trace.say(stage)

    stages = ("connect", "helo", "envfrom", "envrcpt", "eom", "abort", "close")
    callbacks = {stage: say(stage) for stage in stages}
    return filter_of(callbacks | others, limits=Limits(grace=grace))


def test_handler_never_raises_and_closes_the_socket() -> None:
    def dispatcher(_milter: Milter, _listener: Listener, handler: Handler) -> None:
        one, two = socket.socketpair()
        two.close()
        handler(one)
        assert one.fileno() == -1
        handler(one)  # closed already
        served.append(one)

    served: list[socket.socket] = []
    milter = filter_of({"helo": returns(None)})
    milter.set_dispatcher(dispatcher)
    milter.setconn("inet:0@127.0.0.1")
    milter.main()
    assert served


def test_handler_gives_conversations_to_dispatchers_with_their_own_input_and_output() -> None:
    def dispatcher(_milter: Milter, _listener: Listener, handler: Handler) -> None:
        talk = handler.conversation("the peer")
        next(talk)
        effect: Any = talk.send(parse("O 6 1ff 77f"))
        sent.append(effect.answer)

    sent: list[bytes] = []
    milter = filter_of({"helo": returns(None)})
    milter.set_dispatcher(dispatcher)
    milter.setconn("inet:0@127.0.0.1")
    milter.main()
    assert sent == [parse("O 6 0 370")]


# --- health probes

PROBES = {
    "connect and close": "",
    "half-close": ">> EOF\n<< EOF",
    "quit": ">> Q\n<< EOF",
    "negotiate and close": ">> O 6 1ff 77f\n<< O *",
    "negotiate and quit": ">> O 6 1ff 77f\n<< O *\n>> Q\n<< EOF",
}


def await_status(service: Service, words: str) -> None:
    """Ask for the status line until it says something: children tell their parent a little later than the MTA."""

    def says() -> bool:
        before = len(service.log())
        service.signal(signal.SIGUSR1)
        until(lambda: any("status: " in line for line in service.log()[before:]), service.log)
        return words in service.log()[-1]

    until(says, service.log)


@every
def test_probes_are_counted_and_kept_from_the_filter_and_from_the_log(
    dispatcher: str, trace: Trace, tmp_path: Path
) -> None:
    with serving(tracing(trace), tmp_path, dispatcher) as service:
        before = len(service.log())
        for script in PROBES.values():
            service.play(script)
            with service.connect() as wire:
                wire.play(script)
                wire.reset()
        assert trace.rest() == []
        service.play(SESSION + ">> Q\n<< EOF")
        assert trace.until("close") == ["connect", "helo", "close"]
        assert service.log()[before:] == []
        await_status(service, f"{2 * len(PROBES) + 1} requests, {2 * len(PROBES)} probes, 0 denied")


@every
def test_negotiate_callback_answers_probes_too_and_close_tells_of_their_end(
    dispatcher: str, trace: Trace, tmp_path: Path
) -> None:
    milter = tracing(trace, negotiate=lambda *_: trace.say("negotiate"))
    with serving(milter, tmp_path, dispatcher) as service:
        service.play(PROBES["negotiate and quit"])
        assert trace.until("close") == ["negotiate", "close"]
        service.play(PROBES["connect and close"])
        await_status(service, "2 requests, 2 probes")
        assert trace.rest() == []
