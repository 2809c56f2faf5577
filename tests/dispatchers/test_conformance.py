"""The same scripts over every dispatcher, and in memory: what goes over the wire and what the filter sees is equal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from pmilter import Action, Context, Limits, Milter, Reply, Status
from pmilter.logs import ConversationFilter
from tests.support.notation import frame, parse, steps
from tests.support.playbook import Playbook
from tests.support.service import CONCURRENT, DISPATCHERS, Service, serving
from tests.support.wire import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def exemplary(say: Callable[[object], None]) -> Milter:
    """Return a filter that sees every stage, says what it sees, and does what the sender's address asks for."""
    milter = Milter("exemplary", actions=Action(0x1FF), limits=Limits(recipients=2))

    def saw(stage: str, *arguments: object) -> None:
        say((stage, *[len(a) if isinstance(a, bytes) else a for a in arguments]))

    @milter.on("connect")
    def connect(ctx: Context, hostname: str, address: object) -> None:
        saw("connect", hostname, address)

    @milter.on("helo")
    def helo(ctx: Context, name: str) -> None:
        saw("helo", name)

    @milter.on("envfrom")
    def envfrom(ctx: Context, address: str, *args: str) -> Status | Reply | None:
        saw("envfrom", address, *args)
        failures: dict[str, BaseException] = {
            "<raise@x>": ValueError("as asked for"),
            "<exit@x>": SystemExit(1),
            "<interrupt@x>": KeyboardInterrupt(),
            "<stop@x>": StopIteration(),
            "<generator@x>": GeneratorExit(),
        }
        if address in failures:
            raise failures[address]
        if address == "<refuse@x>":
            return Reply(550, "5.7.1", "first 100%", "second")
        ctx.state.sender = address
        return None

    @milter.on("envrcpt")
    def envrcpt(ctx: Context, address: str, *args: str) -> Status | None:
        saw("envrcpt", address, *args)
        return Status.REJECT if address == "<bad@x>" else None

    @milter.on("data")
    def data(ctx: Context) -> None:
        saw("data", ctx.queue_id)

    @milter.on("header")
    def header(ctx: Context, name: str, value: str) -> None:
        saw("header", name, value)

    @milter.on("eoh")
    def eoh(ctx: Context) -> None:
        saw("eoh")

    @milter.on("body")
    def body(ctx: Context, chunk: bytes) -> Status | None:
        saw("body", chunk)
        return Status.SKIP if chunk.startswith(b"skip") else None

    @milter.on("eom")
    def eom(ctx: Context) -> Status | None:
        saw("eom", ctx.sender, ctx.recipients)
        if ctx.state.sender == "<change@x>":
            ctx.addheader("X-Seen", "yes")
            ctx.progress()
            ctx.replacebody(b"x" * 1_000_000)
            ctx.delrcpt("<b@x>")
        return Status.TEMPFAIL if ctx.state.sender == "<later@x>" else None

    @milter.on("abort")
    def abort(ctx: Context) -> None:
        saw("abort", ctx.sender)

    @milter.on("close")
    def close(ctx: Context) -> None:
        saw("close")
        raise SystemExit("what close does is of no consequence")

    return milter


BEGIN = r"""
>> O 6 1ff 77f
<< O *
>> D Cj␀mx␀
>> C client.example.com␀4\x30\x39192.0.2.1␀
<< c
>> H client␀
<< c
"""


def message(sender: str, answer: str = "<< c") -> str:
    return rf"""
    >> M <{sender}@x>␀SIZE=5␀
    << c
    >> R <b@x>␀
    << c
    >> D Ti␀4X1␀
    >> T
    << c
    >> L Subject␀h\xffllo␀
    << c
    >> N
    << c
    >> B some text\r\n
    << c
    >> E
    {answer}
    """


CHANGED = "\n".join(
    [
        "<< p",
        "<< h X-Seen␀yes␀",
        "<< - <b@x>␀",
        *["<< b <65535 bytes b'xxxxxxxxxxxxxxxx'...>"] * 15,
        "<< b <16975 bytes b'xxxxxxxxxxxxxxxx'...>",
        "<< c",
    ]
)

SCRIPTS = {
    "a message": BEGIN + message("a") + ">> Q\n<< EOF",
    "two messages as Postfix ends them": BEGIN
    + message("a")
    + ">> A\n"
    + message("later", "<< t")
    + ">> A\n>> A\n>> Q\n<< EOF",
    "all changes": BEGIN + message("change", CHANGED) + ">> Q\n<< EOF",
    "a refused sender": BEGIN
    + r">> M <refuse@x>␀"
    + "\n"
    + r"<< y 550-5.7.1 first 100%%\r\n550 5.7.1 second␀"
    + "\n>> A\n"
    + message("a")
    + ">> Q\n<< EOF",
    "refused and too many recipients": BEGIN
    + ">> M <a@x>␀\n<< c\n>> R <bad@x>␀\n<< r\n>> R <b@x>␀\n<< c\n>> R <c@x>␀\n<< t\n>> A\n>> Q\n<< EOF",
    "exceptions": BEGIN
    + "".join(
        f">> M <{sender}@x>␀\n<< t\n>> A\n"
        for sender in ("raise", "exit", "interrupt", "stop", "generator")
    )
    + message("a")
    + ">> Q\n<< EOF",
    "skipping the body": BEGIN
    + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> T\n<< c\n>> N\n<< c\n>> B skip\n<< s\n>> E\n<< c\n>> Q\n<< EOF",
    "a lost connection": BEGIN + ">> M <a@x>␀\n<< c\n>> EOF\n<< EOF",
    "a new session on the same connection": BEGIN
    + message("a")
    + ">> K\n"
    + BEGIN.partition("<< O *\n")[2]
    + message("a")
    + ">> Q\n<< EOF",
    "an unknown command": BEGIN + ">> Z\n<< EOF",
    "a second negotiation": BEGIN + ">> O 6 1ff 77f\n<< EOF",
    "nothing": ">> EOF\n<< EOF",
}


@pytest.fixture(scope="module")
def trace() -> Iterator[Trace]:
    trace = Trace()
    yield trace
    trace.close()


@pytest.fixture(scope="module", params=DISPATCHERS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trace: Trace
) -> Iterator[Service]:
    milter = exemplary(lambda seen: trace.say(repr(seen)))
    with serving(milter, tmp_path_factory.mktemp("service"), request.param) as service:
        yield service


def in_memory(script: str) -> list[str]:
    """Return what the filter sees of a script played without a dispatcher."""
    seen: list[str] = []
    Playbook(exemplary(lambda call: seen.append(repr(call)))).play(script)
    return seen


def seen_by_filter(trace: Trace, expected: list[str]) -> list[str]:
    """Return what the filter has seen of a connection that has ended, as long as it is what was expected."""
    return [*trace.take(len(expected)), *trace.rest()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_goes_as_it_goes_in_memory(service: Service, trace: Trace, name: str) -> None:
    expected = in_memory(SCRIPTS[name])
    service.play(SCRIPTS[name])
    assert seen_by_filter(trace, expected) == expected


def commands(script: str) -> list[bytes]:
    return [parse(line) for arrow, line in steps(script) if arrow == ">>" and line != "EOF"]


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_any_chunking_gives_the_same(service: Service, trace: Trace, size: int) -> None:
    script = SCRIPTS["two messages as Postfix ends them"]
    stream = b"".join(commands(script))
    expected = in_memory(script)
    with service.connect() as wire:
        for start in range(0, len(stream), size):
            wire.send(stream[start : start + size])
        answers = wire.answers()
    assert answers[1:] == [line for arrow, line in steps(script) if arrow == "<<"][1:-1]
    assert seen_by_filter(trace, expected) == expected


def test_large_chunks_go_through(service: Service, trace: Trace) -> None:
    with service.connect() as wire:
        wire.play(BEGIN + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c\n>> T\n<< c\n>> N\n<< c")
        for size in (65535, 65536, 1_048_575):
            wire.send(frame("B", b"x" * size))
            wire.play("<< c")
        wire.play(">> E\n<< c\n>> Q\n<< EOF")
    assert [line for line in trace.until("('close',)") if "body" in line] == [
        f"('body', {size})" for size in (65535, 65536, 1_048_575)
    ]


@pytest.mark.parametrize("name", DISPATCHERS)
def test_exception_that_ends_generators_is_answered_like_any_other(
    name: str, tmp_path: Path
) -> None:
    with serving(exemplary(lambda _: None), tmp_path, name) as service:
        with service.connect() as wire:
            wire.sock.settimeout(2)
            wire.play(BEGIN + ">> M <generator@x>␀\n<< t\n>> A\n" + message("a") + ">> Q\n<< EOF")
        service.play(SCRIPTS["a message"])


HOSTILE = [
    b"GET / HTTP/1.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\0\0\0\0Q",
    b"\xff\xff\xff\xffA",
    b"\x7f\xff\xff\xffB",
    frame("O", b"short"),
    frame("Z"),
    bytes(range(1, 256)) * 4,
    b"\0" * 100_000,
]


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:12]))
def test_hostile_bytes_end_their_own_connection_with_one_line(
    service: Service, data: bytes
) -> None:
    before = len(service.log())
    with service.connect() as wire:
        wire.send(data)
        assert wire.answers() == []
        peer = "{}:{}".format(*wire.sock.getsockname())
    service.play(">> Q\n<< EOF")  # sequential is ready for the next one only after that line
    lines = [line for line in service.log()[before:] if peer in line]
    assert len(lines) == 1
    assert "closing in state " in lines[0]


def test_broken_off_connections_leave_the_service_alone(service: Service, trace: Trace) -> None:
    for script in ("", BEGIN, BEGIN + ">> M <a@x>␀\n<< c"):
        wire = service.connect()
        wire.play(script)
        wire.reset()
        if script:
            trace.until("('close',)")
    with service.connect() as wire:
        wire.play(BEGIN)
        wire.send(b"".join(commands(message("change"))))
        wire.reset()  # while the answer is being sent
    trace.until("('close',)")
    service.play(SCRIPTS["a message"])
    trace.until("('close',)")


def test_half_closed_connection_still_gets_its_answers(service: Service, trace: Trace) -> None:
    service.play(BEGIN + ">> M <a@x>␀\n>> EOF\n<< c\n<< EOF")
    assert "('abort', '<a@x>')" in trace.until("('close',)")


def test_sessions_side_by_side_are_kept_apart(service: Service, trace: Trace) -> None:
    if service.name not in CONCURRENT:
        pytest.skip("serves one at a time by definition")
    with service.connect() as one, service.connect() as two:
        for wire, name in ((one, "one"), (two, "two")):
            wire.play(f">> O 6 1ff 77f\n<< O *\n>> C {name}␀U\n<< c\n>> H {name}␀\n<< c")
        for wire, name in ((one, "one"), (two, "two")):
            wire.play(f">> M <{name}@x>␀\n<< c\n>> R <{name}@x>␀\n<< c")
        for wire in (two, one):
            wire.play(">> T\n<< c\n>> N\n<< c\n>> E\n<< c\n>> Q\n<< EOF")
    lines = [*trace.until("('close',)"), *trace.until("('close',)")]
    assert "('eom', '<one@x>', ['<one@x>'])" in lines
    assert "('eom', '<two@x>', ['<two@x>'])" in lines


def ids_of_a_line() -> tuple[str | None, str | None]:
    """Return the ids that a line would bear which a callback logs to a logger of its own."""
    record = logging.makeLogRecord({"name": "mail.check"})
    ConversationFilter().filter(record)
    return record.connection_id, record.queue_id  # type: ignore[attr-defined]  # the filter sets them


@pytest.mark.parametrize("dispatcher", CONCURRENT)
def test_lines_that_a_callback_logs_bear_the_ids_of_its_conversation(
    dispatcher: str, tmp_path: Path, trace: Trace
) -> None:
    def look(ctx: Context, *_: object) -> None:
        trace.say(f"{ids_of_a_line() == (ctx.connection_id, ctx.queue_id)} {ctx.queue_id}")

    milter = Milter("logging")
    milter.on("helo")(look)
    milter.on("data")(look)
    with (
        serving(milter, tmp_path, dispatcher) as service,
        service.connect() as one,
        service.connect() as other,
    ):
        for wire in (one, other):
            wire.play(BEGIN + ">> M <a@x>␀\n<< c\n>> R <b@x>␀\n<< c")
        for wire, queue_id in ((other, "2B"), (one, "1A")):
            wire.play(f">> D Ti␀{queue_id}␀\n>> T\n<< c")
        assert trace.take(4) == ["True None", "True None", "True 2B", "True 1A"]
