"""What pmilter promises, each with a test of its name. The details are in the tests of the modules concerned."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Limits, Milter, Reply, Status
from pmilter.dispatchers.listening import listen_on
from pmilter.program import Program
from tests.support.notation import frame, parse
from tests.support.playbook import (
    CLIENT,
    COMMANDS,
    ENVELOPE,
    PLAIN,
    Playbook,
    filter_of,
    raises,
    returns,
)
from tests.support.service import CONCURRENT, DISPATCHERS, serving
from tests.support.wire import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

every = pytest.mark.parametrize("dispatcher", DISPATCHERS)

QUICK = Limits(grace=0.5)
SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n"
MESSAGE = ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> E\n<< c\n"


@pytest.fixture
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


# --- 1. No input from a peer ends the process, blocks another session, or makes it hold more than its limits.


def garbage(seed: int) -> bytes:
    """Return some bytes that a hostile peer might send: noise, or a dialogue with noise in it."""
    source = random.Random(seed)
    commands = [parse("O 6 1ff 77f"), *map(parse, COMMANDS.values()), frame("D", b"Ci\0x\0")]
    if seed % 2:
        return source.randbytes(source.randrange(1, 5000))
    pieces = [source.choice(commands) for _ in range(source.randrange(1, 30))]
    data = bytearray(b"".join(pieces))
    for _ in range(source.randrange(4)):
        data[source.randrange(len(data))] = source.randrange(256)
    return bytes(data)


@every
def test_promise_1_no_input_ends_the_process_or_disturbs_another_session(
    dispatcher: str, tmp_path: Path
) -> None:
    milter = filter_of(
        {stage: returns(None) for stage in (*COMMANDS, "abort", "close")}, limits=QUICK
    )
    with serving(milter, tmp_path, dispatcher) as service, contextlib.ExitStack() as stack:
        honest = None
        if dispatcher in CONCURRENT:
            honest = stack.enter_context(service.connect())
            honest.play(SESSION)
        for seed in range(30):
            with service.connect() as hostile, contextlib.suppress(OSError):
                hostile.send(garbage(seed))
                if honest is not None:
                    honest.play(">> H x␀\n<< c")
        if honest is not None:
            honest.play(">> Q\n<< EOF")
        service.play(SESSION + ">> Q\n<< EOF")
    assert [line for line in service.log() if "pmilter itself" in line or "failed" in line] == []


@pytest.mark.parametrize("seed", range(0, 400, 2))
def test_promise_1_any_dialogue_is_answered_or_ended(seed: int) -> None:
    playbook = Playbook(filter_of({stage: returns(None) for stage in (*COMMANDS, "close")}))
    playbook.receive(garbage(seed))
    if not playbook.ended:
        playbook.receive(b"")
    assert playbook.ended


@pytest.mark.parametrize("announced", [1_048_576, 65_536, 1000])
def test_promise_1_memory_grows_with_bytes_received_and_not_with_bytes_announced(
    announced: int,
) -> None:
    program = Program(filter_of({"body": returns(None)}).plan())
    playbooks = [Playbook(program).play(CLIENT + ENVELOPE) for _ in range(20)]
    tracemalloc.start()
    try:
        for playbook in playbooks:
            playbook.receive(announced.to_bytes(4, "big") + b"B" + b"x" * 10)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 20 * 3000
    assert not any(playbook.ended for playbook in playbooks)


def test_promise_1_memory_of_a_session_does_not_grow_with_its_messages() -> None:
    milter = filter_of({stage: returns(None) for stage in (*COMMANDS, "abort")})
    playbook = Playbook(milter).play(CLIENT)
    message = [parse(line) for name, line in COMMANDS.items() if name not in {"connect", "helo"}]

    def run(count: int) -> None:
        for _ in range(count):
            for command in message:
                playbook.receive(command)
            playbook.send("A")
            playbook.answers()
            playbook.calls.clear()
            playbook.sends.clear()
            playbook._transcript.clear()

    run(20)
    tracemalloc.start()
    try:
        run(20)
        before = tracemalloc.get_traced_memory()[0]
        run(200)
        assert tracemalloc.get_traced_memory()[0] - before < 5000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dispatcher", ["asyncio", "ithread", "postfork", "selector"])
def test_promise_1_one_peer_cannot_keep_the_others_out(dispatcher: str, tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)}, limits=QUICK.replace(connections_per_peer=3))
    with (
        serving(milter, tmp_path, dispatcher, desc="inet:0@0.0.0.0") as service,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(40):  # and they say nothing
            stack.enter_context(service.connect("127.0.0.2"))
        with service.connect("127.0.0.3") as other:
            other.play(SESSION + ">> Q\n<< EOF")


# --- 2. No exception leaves a command without an answer; a process that dies closes at once.


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(0), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_promise_2_no_exception_leaves_a_command_without_an_answer(
    stage: str, error: BaseException
) -> None:
    milter = filter_of({stage: raises(error)})
    playbook = Playbook(milter).play(PLAIN)
    assert playbook.reach(milter, stage) == ["t"]
    assert not playbook.ended


@pytest.mark.parametrize("dispatcher", ["asyncio", "ithread", "postfork"])
def test_promise_2_a_hang_is_answered_at_the_deadline(
    dispatcher: str, trace: Trace, tmp_path: Path
) -> None:
    def helo(_ctx: Context, name: str) -> None:
        if name == "hang":
            threading.Event().wait(2)

    milter = filter_of({"helo": helo}, limits=Limits(command_time=0.2, grace=0.3))
    with serving(milter, tmp_path, dispatcher) as service, service.connect() as wire:
        wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c")
        began = time.monotonic()
        wire.play(">> H hang␀\n<< t")
        assert time.monotonic() - began < 1.5
        with service.connect() as other:
            other.play(SESSION + ">> Q\n<< EOF")


@pytest.mark.parametrize("dispatcher", ["postfork", "prefork"])
def test_promise_2_a_process_that_dies_closes_its_connections_at_once(
    dispatcher: str, tmp_path: Path
) -> None:
    if dispatcher not in DISPATCHERS:
        pytest.skip(f"there is no {dispatcher} yet")

    def helo(_ctx: Context, name: str) -> None:
        if name == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    with serving(filter_of({"helo": helo}, limits=QUICK), tmp_path, dispatcher) as service:
        with service.connect() as wire:
            wire.sock.settimeout(1)
            wire.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H die␀\n<< EOF")
        service.play(SESSION + ">> Q\n<< EOF")


# --- 3. State of message N cannot be seen from N+1, nor of connection N from N+1.

LEAVES_ALL = r"""
>> D Mi␀Q1␀{auth_authen}␀secret␀
>> M <secret@x>␀
<< c
>> D R{rcpt_addr}␀secret␀
>> R <secret@x>␀
<< c
>> D Ti␀Q1␀
>> T
<< c
>> L Subject␀secret␀
<< c
>> N
<< c
>> B secret
<< s
"""


def leaving(seen: list[object]) -> Milter:
    """Return a filter that leaves whatever it can behind for message ``secret``, and looks around at the next."""

    def envfrom(ctx: Context, address: str, *_: str) -> None:
        seen.append((dict(ctx.macros), vars(ctx.state).copy(), ctx.recipients, ctx.queue_id))
        ctx.state.secret = address

    def body(_ctx: Context, chunk: bytes) -> Status:
        seen.append(chunk)
        return Status.SKIP

    def eom(ctx: Context) -> Status:
        ctx.addheader("X-Secret", "1")
        ctx.replacebody(b"secret")
        ctx.setreply(550, None, "secret")
        return Status.REJECT if ctx.sender == "<secret@x>" else Status.TEMPFAIL

    callbacks: dict[str, Callable[..., Any]] = {"envfrom": envfrom, "body": body, "eom": eom}
    passive = {stage: returns(None) for stage in ("data", "header", "eoh", "abort")}
    return filter_of({**callbacks, **passive}, actions=Action(0x1FF))


@pytest.mark.parametrize(
    "end",
    [
        ">> E\n<< y 550 secret␀",
        ">> A",
        ">> E\n<< y 550 secret␀\n>> A\n>> A",
        ">> M <other@x>␀\n<< c\n>> A",
        ">> H again␀\n<< c\n>> A",
    ],
)
def test_promise_3_nothing_of_a_message_is_seen_from_the_next(end: str) -> None:
    seen: list[object] = []
    playbook = Playbook(leaving(seen)).play(CLIENT + LEAVES_ALL + end)
    seen.clear()
    playbook.play(
        """
        >> M <next@x>␀
        << c
        >> R <b@x>␀
        << c
        >> T
        << c
        >> N
        << c
        >> B next
        << s
        >> E
        << y 550 secret␀
        """
    )
    assert seen == [({}, {}, [], None), b"next"]


def test_promise_3_nothing_of_a_session_is_seen_from_the_next_on_the_same_connection() -> None:
    seen: list[object] = []
    playbook = Playbook(leaving(seen)).play(CLIENT + LEAVES_ALL + ">> K")
    seen.clear()
    playbook.play(">> C x␀U\n<< c\n>> M <next@x>␀\n<< c")
    assert seen == [({}, {}, [], None)]


@every
def test_promise_3_nothing_of_a_connection_is_seen_from_the_next(
    dispatcher: str, trace: Trace, tmp_path: Path
) -> None:
    def helo(ctx: Context, name: str) -> None:
        trace.say(repr((ctx.priv, vars(ctx.state), ctx.sender, sorted(ctx.macros))))
        ctx.priv = ctx.state.name = name

    with serving(filter_of({"helo": helo}, limits=QUICK), tmp_path, dispatcher) as service:
        for _ in range(3):
            service.play(
                ">> O 6 1ff 77f\n<< O *\n>> D C{secret}␀x␀\n>> C x␀U\n<< c\n>> D H{mine}␀x␀\n"
                ">> H secret␀\n<< c\n>> M <secret@x>␀\n<< c\n>> Q\n<< EOF"
            )
        assert trace.take(3) == ["(None, {}, None, ['mine', 'secret'])"] * 3


# --- 4. Changes are sent whole or not at all.


def changing(then: Callable[[Context], object]) -> Milter:
    def eom(ctx: Context) -> object:
        for number in range(50):
            ctx.addheader(f"X-{number}", "x" * 1000)
        ctx.replacebody(b"x" * 300_000)
        return then(ctx)

    return filter_of({"eom": eom}, actions=Action(0x1FF), fallback=Status.ACCEPT)


def test_promise_4_changes_are_sent_whole() -> None:
    playbook = Playbook(changing(returns(Status.ACCEPT))).play(CLIENT + ENVELOPE).send("E")
    answers = playbook.answers()
    assert [line[0] for line in answers] == ["h"] * 50 + ["b"] * 5 + ["a"]


@pytest.mark.parametrize(
    "then",
    [
        returns(Status.REJECT),
        returns(Status.TEMPFAIL),
        returns(Status.DISCARD),
        returns(Reply(451, None, "later")),
        returns("accept"),
        raises(ValueError("broken")),
        raises(SystemExit(0)),
        lambda ctx: ctx.shutdown(),
        lambda ctx: ctx.addheader("", "wrong"),
    ],
)
def test_promise_4_or_not_at_all(then: Callable[[Context], object]) -> None:
    playbook = Playbook(changing(then)).play(CLIENT + ENVELOPE).send("E")
    assert len(playbook.answers()) == 1


def test_promise_4_no_verdict_follows_where_the_connection_breaks_between() -> None:
    playbook = Playbook(changing(returns(Status.ACCEPT))).play(CLIENT + ENVELOPE)
    playbook.broken = True
    playbook.send("E")
    assert playbook.ended
    assert playbook.answers() == []


# --- 5. A stop signal never costs a message.


@every
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_promise_5_a_stop_signal_never_costs_a_message(
    dispatcher: str, number: int, trace: Trace, tmp_path: Path
) -> None:
    milter = filter_of({"eom": lambda ctx: trace.say(str(ctx.sender))})
    sessions = 4 if dispatcher in CONCURRENT else 1
    with serving(milter, tmp_path, dispatcher) as service, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(service.connect()) for _ in range(sessions)]
        for name, wire in enumerate(wires):
            wire.play(f"{SESSION}>> M <{name}@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        wires[-1].play(">> R <c@x>␀\n<< c")
        service.signal(number)
        for wire in wires:
            assert wire.is_silent(0.02)
            wire.play(">> E\n<< c")
            wire.until_goodbye("M <late@x>␀", undo="A")
        assert service.wait(2) == 0
    assert sorted(trace.rest()) == [f"<{name}@x>" for name in range(sessions)]


# --- 6. A limit that a mail's content can reach is answered with the fallback for that message, never by closing.


@pytest.mark.parametrize(
    ("limits", "excess"),
    [
        (Limits(recipients=2), [parse("R <b@x>␀")] * 2),
        (Limits(arguments=3), [parse("R <b@x>␀A␀B␀C␀")]),
        (Limits(headers=2), [parse("T"), *[parse("L A␀b␀")] * 3]),
        (Limits(header_bytes=100), [parse("T"), frame("L", b"A\0" + b"b" * 200 + b"\0")]),
    ],
)
def test_promise_6_a_limit_of_content_is_answered_and_the_next_message_is_filtered(
    limits: Limits, excess: list[bytes]
) -> None:
    seen = {stage: returns(None) for stage in ("envfrom", "envrcpt", "data", "header", "eom")}
    playbook = Playbook(filter_of(seen, limits=limits)).play(CLIENT + ENVELOPE)
    for command in excess:
        assert playbook.answers() in (["c"], [])
        playbook.receive(command)
    assert playbook.answers() == ["t"]
    assert not playbook.ended
    playbook.play(">> A\n" + ENVELOPE + ">> T\n<< c\n>> L A␀b␀\n<< c\n>> E\n<< c")
    assert playbook.calls[-1] == ("eom",)


@pytest.mark.parametrize(
    "data", [b"\0\0\0\0Q", b"\x7f\xff\xff\xffB", frame("Z"), frame("M", b"<a@x>")]
)
def test_promise_6_only_what_is_no_frame_or_no_command_closes(data: bytes) -> None:
    milter = filter_of({"envfrom": returns(None)})
    assert Playbook(milter).play(CLIENT).receive(data).ended


# --- 7. Sockets are not open to the world by accident.


def test_promise_7_a_unix_socket_has_no_rights_for_others_unless_told_so() -> None:
    umask = os.umask(0)
    try:
        with tempfile.TemporaryDirectory(prefix="pm-") as directory:
            bound = listen_on(f"{directory}/f.sock", None, None, 5)
            mode = stat.S_IMODE(Path(f"{directory}/f.sock").stat().st_mode)
            bound.close()
    finally:
        os.umask(umask)
    assert mode & 0o007 == 0


@pytest.mark.parametrize("desc", ["inet:0", "inet6:0"])
def test_promise_7_listening_everywhere_is_said(
    desc: str, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.suppress(OSError):
        listen_on(desc, None, None, 5).close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "anyone who can reach the port" in caplog.text


def test_promise_7_a_host_means_that_host_alone() -> None:
    bound = listen_on("inet:0@127.0.0.1", None, None, 5)
    name = bound.socket.getsockname()
    bound.close()
    assert name[0] == "127.0.0.1"


@every
def test_promise_7_where_peers_are_named_nobody_else_is_served(
    dispatcher: str, trace: Trace, tmp_path: Path
) -> None:
    milter = filter_of({"connect": lambda *_: trace.say("connect")}, limits=QUICK)
    milter.allow_peers("127.0.0.2")
    with serving(milter, tmp_path, dispatcher) as service:
        with service.connect("127.0.0.3") as stranger:
            assert stranger.answers() == []
        assert trace.rest() == []
        with service.connect("127.0.0.2") as known:
            known.play(">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> Q\n<< EOF")
