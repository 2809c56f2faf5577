"""Loads on real sockets: filters of ours, and one that says what it is told, right or wrong."""

from __future__ import annotations

import itertools
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, Context, Milter, Reply, Status
from pmilter.address import parse_address
from pmilter.client.dialect import SENDMAIL
from pmilter.client.load import Figures, Load, Plan, sample_message
from pmilter.errors import ConfigError
from pmilter.protocol.constants import Answer
from tests.support.notation import frame, parse
from tests.support.rawfilter import CLOSE, SILENCE, RawFilter
from tests.support.service import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SMALL = b"Subject: x\r\n\r\nhello\r\n"


def plan(address: str, **changes: Any) -> Plan:
    usual: dict[str, Any] = {
        "address": parse_address(address), "message": SMALL, "seconds": None, "total": 20, "warm_up": 0, "connections": 2,
        "timeout": 5,
    }  # fmt: skip
    return Plan(**(usual | changes))


def load_raw(
    directory: Path, answers: Mapping[str, bytes | None] | None = None, **changes: Any
) -> Figures:
    with RawFilter(directory, answers) as filter_:
        return Load(plan(filter_.address, **changes)).run()


# --- filters of ours


def tagger() -> Milter:
    milter = Milter("tagger", actions=Action.ADDHDRS | Action.CHGHDRS)
    numbers = itertools.count()

    @milter.on("envrcpt")
    def check(ctx: Context, rcpt: str, *args: str) -> Reply | Status:
        refused = rcpt == "<user2@example.org>"
        return Reply(550, "5.1.1", "no such user") if refused else Status.CONTINUE

    @milter.on("header", noreply=True)
    def look(ctx: Context, name: str, value: str) -> Status:
        return Status.NOREPLY

    @milter.on("eom")
    def tag(ctx: Context) -> Status:
        ctx.addheader("X-Tagged", "yes")
        return Status.REJECT if next(numbers) % 4 == 3 else Status.ACCEPT

    return milter


@pytest.mark.parametrize("desc", ["inet:0@127.0.0.1", "unix:{}/socket"])
@pytest.mark.parametrize("dispatcher", ["selector", "ithread"])
def test_filter_is_measured(tmp_path: Path, desc: str, dispatcher: str) -> None:
    with serving(tagger(), tmp_path, dispatcher, desc=desc.format(tmp_path)) as service:
        wanted = plan(service.address, total=40, messages=5, message=sample_message())
        figures = Load(wanted).run()
    assert figures.failures == {}
    assert figures.messages == figures.message.count == 40
    assert figures.connections in (8, 9)  # two at a time, which may end with one message each
    assert figures.outcomes == {("eom", "accept"): 30, ("eom", "reject"): 10}
    assert figures.all_answers() == {
        "envrcpt": {"continue": 40, "replycode 5xx": 40},
        "eom": {"accept": 30, "reject": 10},
    }
    assert figures.changes == {Answer.ADDHEADER: 30}  # the library sends none with a refusal
    assert figures.latency["negotiate"].count == figures.connections
    assert figures.command.count == 120
    assert 0 < figures.message.least <= figures.message.most <= figures.elapsed
    assert figures.cpu > 0
    assert figures.received > 0


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_body_larger_than_the_sockets_hold_arrives_whole(tmp_path: Path, dialect: str) -> None:
    milter = Milter("counter")
    sizes: dict[Context, int] = {}

    @milter.on("body")
    def count(ctx: Context, chunk: bytes) -> None:
        sizes[ctx] = sizes.get(ctx, 0) + len(chunk)

    @milter.on("eom")
    def compare(ctx: Context) -> Status:
        return Status.ACCEPT if sizes.pop(ctx) == 3_000_000 else Status.TEMPFAIL

    with serving(milter, tmp_path, "ithread") as service:
        message = sample_message(body=3_000_000)
        figures = Load(plan(service.address, message=message, total=4)).run()
    assert figures.outcomes == {("eom", "accept"): 4}
    assert figures.sent > 12_000_000


def test_message_without_answers_but_the_last_is_sent_in_one_go(tmp_path: Path) -> None:
    milter = Milter("quiet")
    for stage in ("connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body"):
        milter.on(stage, noreply=True)(lambda *_: Status.NOREPLY)
    milter.on("eom")(lambda _: Status.ACCEPT)
    with serving(milter, tmp_path, "selector") as service:
        figures = Load(plan(service.address, message=sample_message(body=1_000_000))).run()
    assert figures.failures == {}
    assert set(figures.all_answers()) == {"eom"}
    assert figures.messages == 20


# --- what is sent


def test_commands_are_those_of_postfix(tmp_path: Path) -> None:
    with RawFilter(tmp_path) as filter_:
        Load(plan(filter_.address, connections=1, total=2, macros=False)).run()
        assert filter_.trace.next() == "O" + "CH" + "MRRTLNBEA" * 2 + "AQ"


def test_commands_are_those_of_sendmail(tmp_path: Path) -> None:
    with RawFilter(tmp_path) as filter_:
        wanted = plan(filter_.address, connections=1, total=2, macros=False, dialect=SENDMAIL)
        Load(wanted).run()
        assert filter_.trace.next() == "O" + "CH" + "MRRTLNBE" * 2 + "Q"


def test_connection_is_closed_after_its_messages(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, total=10, messages=3, connections=1)
    assert (figures.messages, figures.connections) == (10, 4)


# --- verdicts


def test_client_that_is_refused_counts_as_a_message_that_got_a_verdict(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, {"C": frame("r")}, total=7)
    assert figures.failures == {}
    assert figures.outcomes == {("connect", "reject"): 7}
    assert (figures.messages, figures.message.count) == (7, 0)


def test_every_early_verdict_leaves_the_connection_in_use(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, {"M": frame("t")}, total=8, messages=8, connections=1)
    assert figures.outcomes == {("envfrom", "tempfail"): 8}
    assert figures.connections == 1


def test_reply_421_ends_the_connection_and_the_load_goes_on(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, {"R": parse("y 421 4.7.0 go␀")}, total=6, messages=4)
    assert figures.outcomes == {("envrcpt", "tempfail"): 6}
    assert figures.connections == 6


def test_progress_and_changes_are_counted(tmp_path: Path) -> None:
    answer = parse("p") + parse("+ <c@example.org>␀") + parse("p") + parse("c")
    figures = load_raw(tmp_path, {"E": answer}, total=5)
    assert figures.progress == 10
    assert figures.changes == {Answer.ADDRCPT: 5}
    assert figures.outcomes == {("eom", "accept"): 5}


# --- failures


@pytest.mark.parametrize(
    ("answers", "kind", "text"),
    [
        ({"R": CLOSE}, "closed", "the filter closed the connection at envrcpt"),
        ({"O": CLOSE}, "closed", "the filter closed the connection at negotiate"),
        ({"H": frame("d")}, "protocol", "the filter sent Discard at helo"),
        ({"T": frame("c", b"x")}, "protocol", "Continue"),
        ({"L": frame("c") * 2}, "protocol", "more than its answer at header"),
        ({"B": parse("h X␀y␀") + frame("c")}, "protocol", "AddHeader at body"),
        ({"O": parse("O 7 0 0")}, "protocol", "version 7"),
        ({"O": b"220 mail.example.com ESMTP\r\n"}, "protocol", "SMTP"),
        ({"E": b"\xff" * 8}, "protocol", "the limit is"),
        ({"E": parse("h X␀y␀") * 10_001}, "limit", "changes"),
    ],
)
def test_failure_ends_the_connection_and_is_told(
    tmp_path: Path, answers: dict[str, bytes | None], kind: str, text: str
) -> None:
    figures = load_raw(tmp_path, answers, total=3)
    assert figures.failures == {kind: 3}
    assert text in figures.reasons[kind]
    assert figures.messages == 0


def test_silence_is_a_timeout(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, {"N": SILENCE}, total=2, timeout=0.1)
    assert figures.failures == {"timeout": 2}
    assert figures.reasons["timeout"] == "no answer at eoh within 0.1 s"


def test_full_backlog_is_waited_for_no_longer_than_an_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        wanted = plan(f"unix:{tmp_path}/full", connections=4, total=4, timeout=0.1)
        figures = Load(wanted).run()
    assert figures.failures == {"timeout": 4}
    assert figures.reasons["timeout"] == "no answer at negotiate within 0.1 s"


def test_progress_restarts_the_time_for_an_answer(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, {"E": parse("p")}, total=2, timeout=0.1)
    assert figures.failures == {"timeout": 2}
    assert figures.reasons["timeout"] == "no answer at eom within 0.1 s"
    assert figures.progress == 2


def test_endless_progress_does_not_hold_up_the_end(tmp_path: Path) -> None:
    milter = Milter("never ready")
    pause = threading.Event()

    @milter.on("eom")
    def work(ctx: Context) -> None:
        while True:
            ctx.progress()
            pause.wait(0.02)

    with serving(milter, tmp_path, "ithread") as service:
        wanted = plan(service.address, total=None, seconds=0.5, timeout=0.5)
        figures = Load(wanted).run()
    assert figures.messages == 0
    assert set(figures.failures) <= {"timeout"}


def test_nobody_there_is_unreachable_and_ends_it(tmp_path: Path) -> None:
    figures = Load(plan(f"unix:{tmp_path}/nobody", total=None, seconds=60)).run()
    assert figures.failures == {"unreachable": 10}
    assert (
        figures.reasons["unreachable"]
        == f"unix:{tmp_path}/nobody: No such file or directory (is the filter running?)"
    )


def test_refused_connection_over_tcp_is_unreachable() -> None:
    figures = Load(plan("inet:1@127.0.0.1", total=None, seconds=60)).run()
    assert figures.failures == {"unreachable": 10}
    assert (
        figures.reasons["unreachable"]
        == "inet:1@127.0.0.1: Connection refused (is the filter running?)"
    )


def test_load_gives_up_on_a_filter_that_only_fails(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, {"M": CLOSE}, total=None, seconds=60)
    assert figures.failures == {"closed": 10}


def test_filter_that_cannot_be_connected_to_is_a_wrong_address() -> None:
    with pytest.raises(ConfigError):
        Load(plan("fd:filter"))


# --- time


def test_warm_up_is_not_counted(tmp_path: Path) -> None:
    seen: list[int] = []
    with RawFilter(tmp_path) as filter_:
        wanted = plan(filter_.address, warm_up=0.1, total=10)
        figures = Load(wanted, lambda now: seen.append(now.command.count)).run()
    assert figures.messages == 10
    assert figures.message.count == 10


def test_load_ends_when_its_time_is_over(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, total=None, seconds=0.2)
    assert figures.failures == {}
    assert 200_000_000 <= figures.elapsed < 5_000_000_000


def test_connections_that_nobody_takes_up_do_not_hold_up_the_end(tmp_path: Path) -> None:
    milter = Milter("one at a time")
    milter.on("eom")(lambda _: Status.ACCEPT)
    with serving(milter, tmp_path, "sequential") as service:
        wanted = plan(service.address, total=None, seconds=0.2, connections=4, messages=10**6)
        figures = Load(wanted).run()
    assert figures.failures == {}
    assert figures.connections <= 1


def test_watcher_sees_the_figures_grow_and_can_end_it(tmp_path: Path) -> None:
    with RawFilter(tmp_path) as filter_:
        load: Load

        def watch(figures: Figures) -> None:
            if figures.messages > 3:
                load.stop()

        load = Load(plan(filter_.address, total=None, seconds=60), watch)
        figures = load.run()
    assert figures.messages > 3
    assert 0 < figures.elapsed < 60_000_000_000


def test_another_thread_can_end_it(tmp_path: Path) -> None:
    with RawFilter(tmp_path) as filter_:
        load = Load(plan(filter_.address, total=None, seconds=60))
        threading.Timer(0.1, load.stop).start()
        assert load.run().elapsed < 60_000_000_000


def test_nothing_is_measured_where_the_warm_up_is_cut_short(tmp_path: Path) -> None:
    with RawFilter(tmp_path) as filter_:
        load: Load

        def watch(figures: Figures) -> None:
            if figures.commands:
                load.stop()

        load = Load(plan(filter_.address, warm_up=60), watch)
        figures = load.run()
    assert figures.agreed is not None
    assert figures.pack() == Figures(agreed=figures.agreed).pack()


def test_filter_that_fails_while_warming_up_leaves_only_what_failed(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, {"M": CLOSE}, warm_up=60)
    assert (figures.connections, figures.commands, figures.elapsed) == (0, 0, 0)
    assert figures.failures["closed"] >= 10


# --- at a rate


def test_rate_is_kept_where_the_filter_keeps_up(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, rate=50, total=10)
    assert figures.messages == 10
    # Nine gaps of 20 ms lie between ten messages.
    assert figures.elapsed >= 180_000_000


def test_rest_between_messages_is_no_timeout(tmp_path: Path) -> None:
    figures = load_raw(tmp_path, rate=1, total=2, timeout=0.8, connections=1)
    assert figures.failures == {}
    assert figures.messages == 2


def slow(ctx: Context, pause: Callable[[], object]) -> Status:
    pause()
    return Status.ACCEPT


def test_time_spent_waiting_for_a_free_connection_counts(tmp_path: Path) -> None:
    milter = Milter("slow")
    never = threading.Event()
    milter.on("eom")(lambda _: slow(_, lambda: never.wait(0.02)))
    with serving(milter, tmp_path, "ithread") as service:
        wanted = plan(service.address, rate=1000, total=10, connections=1)
        figures = Load(wanted).run()
    # The last should have begun after 9 ms, and had nine of 20 ms before it.
    assert figures.message.most >= 190_000_000
    assert figures.latency["eom"].percentile(50) < figures.message.most / 2


def test_messages_that_never_had_a_connection_are_told(tmp_path: Path) -> None:
    milter = Milter("slow")
    never = threading.Event()
    milter.on("eom")(lambda _: slow(_, lambda: never.wait(0.05)))
    with serving(milter, tmp_path, "ithread") as service:
        wanted = plan(service.address, rate=1000, total=None, seconds=1, connections=1)
        figures = Load(wanted).run()
    assert 0 < figures.messages < 40
    assert 950 < figures.overdue + figures.messages <= 1000 + figures.elapsed // 1_000_000
