from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pmilter.cli.entry import perform
from tests.support.notation import frame, parse
from tests.support.processes import DEADLINE
from tests.support.rawfilter import CLOSE, SILENCE, RawFilter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT = ("-n", "20", "-w", "0", "-c", "2")


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[RawFilter]:
    with RawFilter(tmp_path, {"E": frame("a")}) as filter_:
        yield filter_


def bench(
    capfd: pytest.CaptureFixture[str], *arguments: str, short: tuple[str, ...] = SHORT
) -> tuple[int, str, str]:
    status = perform(["bench", *arguments, *short])
    return (status, *capfd.readouterr())


def measured(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    status, out, err = bench(capfd, *arguments, "--json")
    assert (status, err) == (0, "")
    document: dict[str, Any] = json.loads(out)
    return document


def test_results_are_told(raw: RawFilter, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = bench(capfd, raw.address)
    assert (status, err) == (0, "")
    assert out.startswith(f"pmilter bench {raw.address}\nas Postfix, 2 connections, 10 messages")
    for title in ("How long the MTA waits", "Messages by their time", "What the filter answers"):
        assert f"\n{title}\n" in out
    assert "\x1b" not in out


def test_machines_get_json(raw: RawFilter, capfd: pytest.CaptureFixture[str]) -> None:
    document = measured(capfd, raw.address)
    assert document["messages"] == document["message_us"]["count"] == 20
    assert document["outcomes"] == [{"stage": "eom", "verdict": "accept", "messages": 20}]
    assert document["stages"]["header"]["count"] == 400
    assert document["failures"] == {}


def test_processes_share_the_load(raw: RawFilter, capfd: pytest.CaptureFixture[str]) -> None:
    document = measured(capfd, raw.address, "--processes", "2")
    assert document["messages"] == 20
    assert document["stages"]["eom"]["answers"] == {"accept": 20}
    assert document["load"]["processes"] == 2


def test_message_is_as_it_was_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RawFilter(tmp_path, {"O": parse("O 3 3f 0")}) as filter_:
        document = measured(
            capfd, filter_.address, "--recipients", "3", "--headers", "5", "--body", "200K", "--no-macros",
            "--dialect", "sendmail", "--protocol", "3",
        )  # fmt: skip
        assert filter_.trace.next().startswith("OCHMRRRLLLLLNBBBBE")
    counts = {stage: found["count"] for stage, found in document["stages"].items()}
    assert counts["envrcpt"] == 60
    assert counts["header"] == 100
    assert counts["body"] == 80  # 204,800 bytes in chunks of 65,535
    assert "data" not in counts  # version 3 has no DATA


def test_message_can_be_a_file(
    raw: RawFilter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(b"Subject: a\nTo: b\n\nhello\n")
    document = measured(capfd, raw.address, "--message", str(path))
    assert document["stages"]["header"]["count"] == 40
    assert document["load"]["message_bytes"] == 24


@pytest.mark.parametrize(
    ("answers", "status", "told"),
    [
        ({"H": frame("d")}, 4, "the filter sent Discard at helo: it is no legal answer there"),
        ({"R": CLOSE}, 6, "the filter closed the connection at envrcpt"),
        ({"N": SILENCE}, 5, "no answer at eoh within 1 s"),
        ({"E": parse("h X␀y␀") * 10_001}, 7, "more than 10000 changes"),
    ],
)
def test_failures_have_their_status_and_are_told_once(
    tmp_path: Path,
    answers: dict[str, bytes | None],
    status: int,
    told: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with RawFilter(tmp_path, answers) as filter_:
        found, _, err = bench(
            capfd, filter_.address, short=("-n", "2", "-w", "0", "-c", "2", "-t", "1")
        )
    assert found == status
    assert err.startswith(f"pmilter: {told}")
    assert err.endswith(" (2 connections failed so)\n")


@pytest.mark.parametrize("json_too", [(), ("--json",)])
@pytest.mark.parametrize(("silent", "stage"), [("O", "negotiate"), ("H", "helo")])
def test_filter_that_never_answers_is_told_though_time_is_over_before_the_time_limit(
    tmp_path: Path,
    silent: str,
    stage: str,
    json_too: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with RawFilter(tmp_path, {silent: SILENCE}) as filter_:
        status, out, err = bench(
            capfd, filter_.address, *json_too, short=("-s", "0.2", "-w", "0", "-c", "3")
        )
    assert status == 5
    assert f"no message was done in 0.2 s: 3 connections wait for an answer at {stage}. " in err
    assert "--seconds" in err
    assert err.count("\n") == 1
    if json_too:
        assert json.loads(out)["waiting"] == {stage: 3}


def test_failures_do_not_keep_results_from_machines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with RawFilter(tmp_path, {"N": CLOSE}) as filter_:
        status, out, _ = bench(capfd, filter_.address, "--json", short=("-n", "2", "-w", "0"))
    assert status == 6
    assert json.loads(out)["failures"] == {
        "closed": {"connections": 2, "first": "the filter closed the connection at eoh"}
    }


def test_nobody_listening_is_unreachable(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = bench(capfd, f"unix:{tmp_path}/nobody")
    assert (status, out) == (3, "")
    assert err == (
        f"pmilter: unix:{tmp_path}/nobody: No such file or directory (is the filter running?) (10 connections failed so)\n"
    )


def test_unknown_host_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = bench(capfd, "inet:nosuchservice@127.0.0.1")
    assert (status, out) == (3, "")
    assert err.startswith("pmilter: inet:nosuchservice@127.0.0.1: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "it has no scheme"),
        (["fd:filter"], "the address behind it"),
        (["/s", "--body", "8Q"], "'8Q' is no size"),
        (["/s", "--body", "200M"], "is no size"),
        (["/s", "--message", "/no/such/file"], "/no/such/file: No such file"),
        (["/s", "--message", "/dev/null", "--headers", "3"], "--headers is for made-up messages"),
        (["/s", "--processes", "3", "-c", "2"], "--processes is more than"),
        (["/s", "--processes", "3", "-n", "2"], "--processes is more than"),
        (["/s", "--headers", "1000", "--dialect", "sendmail", "--body", "0"], ""),
        (["/s", "--connections", "0"], "--connections"),
    ],
)
def test_wrong_usage_is_told(
    arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status = perform(["bench", *arguments])
    err = capfd.readouterr().err
    assert status == (2 if told else 3)
    assert told in err
    assert err.count("\n") == 1


def interrupted(raw: RawFilter, *arguments: str) -> tuple[int, str, str]:
    """Run it, and send it an interrupt when it is in full swing; return its status and what it says."""
    command = [sys.executable, "-m", "pmilter", "bench", raw.address, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(20):  # connections have come and gone
            raw.trace.next()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, out, err


def test_interrupt_ends_it_with_the_results_so_far(raw: RawFilter) -> None:
    status, out, err = interrupted(raw, "--json", "-s", "60", "-w", "0")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert document["interrupted"]
    assert document["messages"] > 100
    assert 0 < document["seconds"] < 60


@pytest.mark.parametrize("processes", ["1", "2"])
def test_interrupt_while_warming_up_leaves_nothing_to_show(raw: RawFilter, processes: str) -> None:
    status, out, err = interrupted(raw, "-w", "60", "--processes", processes)
    assert (status, out) == (130, "")
    assert err == "pmilter: interrupted while warming up: nothing was measured\n"


def test_interrupt_while_warming_up_gives_machines_results_of_nothing(raw: RawFilter) -> None:
    status, out, _ = interrupted(raw, "--json", "-w", "60")
    document = json.loads(out)
    assert status == 130
    assert document["interrupted"]
    rates = ("messages_a_second", "commands_a_second", "bytes_a_second")
    assert {document[name] for name in ("seconds", "messages", *rates)} == {0}
