"""The load generator against a filter whose every byte is written here."""

from __future__ import annotations

import re
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.generator import LoadError, idle_connections, run_load
from tests.benchmarks.conftest import ScriptedFilter, frame

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

HEADERS = "L" * 20


def load(
    generator: Path, address: str, workload: str = "noop", limit: float = 10
) -> dict[str, Any]:
    return run_load(generator, address, workload, connections=1, seconds=0.01, answer_limit=limit)


def test_correct_answers_are_measured(generator: Path, tmp_path: Path) -> None:
    with ScriptedFilter(tmp_path / "socket") as filter_:
        figures = load(generator, filter_.address)
    assert figures["letters"] == f"C=c H=c M=c R=c R=c T=c {'L=c ' * 20}N=c B=c E=a"
    assert figures["messages"] >= 1
    assert figures["answers"] == 2 * figures["setup_us"]["count"] + 27 * figures["messages"]
    assert figures["message_us"]["count"] == figures["messages"]
    assert 0 < figures["command_us"]["p50"] <= figures["command_us"]["p99.9"]


def test_commands_come_in_the_order_of_a_mail_server(generator: Path, tmp_path: Path) -> None:
    with ScriptedFilter(tmp_path / "socket") as filter_:
        load(generator, filter_.address, "short")
    first = filter_.commands[: filter_.commands.index("Q") + 1]
    assert first == f"ODCDHDMDRDRT{HEADERS}NBDEQ"


@pytest.mark.parametrize(
    ("agreement", "sent"),
    [
        pytest.param((6, 0, 0x377), "ODDDDRDRDEQ", id="all but recipients off"),
        pytest.param((2, 0, 0), f"ODCDHDMDRDR{HEADERS}NBDEQ", id="version 2 has no DATA"),
        pytest.param((6, 0, 0x020), "ODCDHDMDRDRTNBDEQ", id="headers off"),
    ],
)
def test_steps_that_are_off_are_not_sent(
    generator: Path, tmp_path: Path, agreement: tuple[int, int, int], sent: str
) -> None:
    with ScriptedFilter(tmp_path / "socket", agreement=agreement) as filter_:
        load(generator, filter_.address, "short")
    assert filter_.commands[: filter_.commands.index("Q") + 1] == sent


@pytest.mark.parametrize(
    ("stage", "answer", "complaint"),
    [
        pytest.param("R", frame(b"t"), "answer to R", id="another letter"),
        pytest.param("L", frame(b"c") * 2, "answer to L", id="answered twice"),
        pytest.param("B", frame(b"c", b"!"), "answer to B", id="surplus payload"),
        pytest.param("E", frame(b"p") + frame(b"a"), "answer to E", id="progress"),
        pytest.param("O", frame(b"c"), "negotiation", id="no negotiation"),
        pytest.param("O", frame(b"O", bytes(11)), "12 bytes", id="short negotiation"),
    ],
)
def test_wrong_answers_are_refused(
    generator: Path, tmp_path: Path, stage: str, answer: bytes, complaint: str
) -> None:
    with (
        ScriptedFilter(tmp_path / "socket", answers={stage: answer}) as filter_,
        pytest.raises(LoadError, match=complaint),
    ):
        load(generator, filter_.address)


def test_an_answer_that_does_not_come_is_told(generator: Path, tmp_path: Path) -> None:
    with (
        ScriptedFilter(tmp_path / "socket", answers={"T": b""}) as filter_,
        pytest.raises(LoadError, match="no answer to T"),
    ):
        load(generator, filter_.address, limit=0.3)


@pytest.mark.parametrize(
    ("agreement", "complaint"),
    [
        pytest.param((7, 0, 0), "version", id="version"),
        pytest.param((6, 0x200, 0), "actions", id="actions"),
        pytest.param((6, 0, 0x200000), "steps", id="steps"),
    ],
)
def test_what_was_not_offered_is_refused(
    generator: Path, tmp_path: Path, agreement: tuple[int, int, int], complaint: str
) -> None:
    with (
        ScriptedFilter(tmp_path / "socket", agreement=agreement) as filter_,
        pytest.raises(LoadError, match=complaint),
    ):
        load(generator, filter_.address)


def test_commands_without_reply_are_not_waited_for(generator: Path, tmp_path: Path) -> None:
    silent = dict.fromkeys("CHMRTLNB", b"")
    with ScriptedFilter(tmp_path / "socket", agreement=(6, 0, 0xFF080), answers=silent) as filter_:
        figures = load(generator, filter_.address)
    assert figures["letters"] == f"C= H= M= R= R= T= {'L= ' * 20}N= B= E=a"


def test_a_reply_that_was_negotiated_away_is_refused(generator: Path, tmp_path: Path) -> None:
    with (
        ScriptedFilter(tmp_path / "socket", agreement=(6, 0, 0xFF080)) as filter_,
        pytest.raises(LoadError, match="answer to E"),
    ):
        load(generator, filter_.address)


def test_changes_of_the_tagger_are_compared_byte_for_byte(generator: Path, tmp_path: Path) -> None:
    added = frame(b"h", b"X-Tagged\0yes\0")
    changed = frame(b"m", b"\0\0\0\1Subject\0[tagged] minutes\0")
    answer = added + changed + frame(b"a")
    with ScriptedFilter(
        tmp_path / "right", agreement=(6, 0x11, 0), answers={"E": answer}
    ) as filter_:
        figures = load(generator, filter_.address, "tagger")
    assert figures["letters"].endswith("E=hma")
    answer = changed + added + frame(b"a")
    with (
        ScriptedFilter(
            tmp_path / "wrong", agreement=(6, 0x11, 0), answers={"E": answer}
        ) as filter_,
        pytest.raises(LoadError, match="answer to E"),
    ):
        load(generator, filter_.address, "tagger")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param(
            frame(b"h", b"X-Tagged\0yes\0")
            + frame(b"m", b"\0\0\0\1Subject\0[Tagged] minutes\0")
            + frame(b"a"),
            "expected hma (57 bytes), got hma (57 bytes); from byte 37 on "
            "expected 74 61 67 67 65 64 5d 20, got 54 61 67 67 65 64 5d 20",
            id="a byte in the middle",
        ),
        pytest.param(
            frame(b"a"),
            "expected hma (57 bytes), got a (5 bytes); from byte 4 on expected 0e 68 58",
            id="no changes",
        ),
    ],
)
def test_wrong_bytes_are_told_with_letters_and_the_first_difference(
    generator: Path, tmp_path: Path, answer: bytes, told: str
) -> None:
    with (
        ScriptedFilter(
            tmp_path / "socket", agreement=(6, 0x11, 0), answers={"E": answer}
        ) as filter_,
        pytest.raises(LoadError, match=re.escape(told)),
    ):
        load(generator, filter_.address, "tagger")


def test_bytes_beyond_the_answer_are_told(generator: Path, tmp_path: Path) -> None:
    told = (
        "expected c (5 bytes), got cc (10 bytes); from byte 6 on expected the end, got 00 00 00 01"
    )
    with (
        ScriptedFilter(tmp_path / "socket", answers={"L": frame(b"c") * 2}) as filter_,
        pytest.raises(LoadError, match=re.escape(told)),
    ):
        load(generator, filter_.address)


class LazyFromTheSecondOn(ScriptedFilter):
    """Negotiates everything on the first connection, and next to nothing on the others."""

    def _talk(self, connection: socket.socket, read: Callable[[int], bytes]) -> None:
        super()._talk(connection, read)
        self._answers["O"] = frame(b"O", struct.pack(">III", 6, 0, 0x37F))


def test_all_connections_must_negotiate_the_same(generator: Path, tmp_path: Path) -> None:
    with (
        LazyFromTheSecondOn(tmp_path / "socket") as filter_,
        pytest.raises(LoadError, match="something else was negotiated than on the first"),
    ):
        run_load(generator, filter_.address, "short", connections=1, seconds=2)


def test_idle_connections_are_counted(generator: Path, tmp_path: Path) -> None:
    with (
        ScriptedFilter(tmp_path / "socket") as filter_,
        idle_connections(generator, filter_.address, 1) as held,
    ):
        assert held == 1
    assert filter_.commands == "O"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["inet:25@192.0.2.1", "noop"], id="another machine"),
        pytest.param(["unix:relative", "noop"], id="relative path"),
        pytest.param(["unix:/socket", "nonsense"], id="workload"),
        pytest.param(["--seconds=1e9", "unix:/socket", "noop"], id="without end"),
    ],
)
def test_usage_errors_are_told(generator: Path, arguments: list[str]) -> None:
    done = subprocess.run([str(generator), *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"usage:" in done.stderr
