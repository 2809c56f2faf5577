"""The examples as a user starts them, over real sockets, with an MTA whose frames are written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.programs import await_filter, started
from tests.support.wire import Wire

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_serves_by_itself_at_the_address_given(path: Path, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    with started(str(path), address) as process:
        await_filter(address)
        with Wire(address) as wire:
            wire.play(">> O 6 1ff 1fffff\n<< O *\n>> Q\n<< EOF")

        assert process.stop() == 0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()

    assert f"python examples/{path.name} inet:8891@127.0.0.1" in text
    assert f"pmilter run examples/{path.name} --listen ADDRESS" in text


def test_protocol_dump_prints_what_an_mta_sends_through_pmilter_run() -> None:
    path = next(path for path in EXAMPLES if path.stem == "protocol_dump")
    with started("-m", "pmilter", "run", str(path), "--listen", "inet:0@127.0.0.1") as process:
        with Wire(process.listening()) as wire:
            wire.play(r"""
                >> O 6 1ff 1fffff
                << O *
                >> D Cj␀mx.example.net␀
                >> C mail.example.com␀4\x04\xd2192.0.2.1␀
                << c
                >> H mail.example.com␀
                << c
                >> M <a@b.c>␀SIZE=5␀
                << c
                >> R <x@y.z>␀
                << c
                >> T
                << c
                >> L Subject␀hello␀
                << c
                >> N
                << c
                >> B body\r\n
                << c
                >> E
                << c
                >> Q
                << EOF
            """)
        assert process.stop() == 0

    lines = [line.split(": ", 1)[1] for line in process.output.splitlines()]
    own = lines[
        lines.index("connect: mail.example.com ('192.0.2.1', 1234)") :
    ]  # after the trial session
    assert own == [
        "connect: mail.example.com ('192.0.2.1', 1234)",
        "helo: mail.example.com",
        "envfrom: <a@b.c> SIZE=5",
        "envrcpt: <x@y.z>",
        "data:",
        "header: Subject hello",
        "eoh:",
        "body: (6 bytes)",
        "eom:",
        "close:",
    ]


def test_tagger_tags_over_a_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    path = next(path for path in EXAMPLES if path.stem == "tagger")
    with started(str(path), address) as process:
        await_filter(address)
        with Wire(address) as wire:
            # It adds headers, answers at recipients, and is told of connect, helo and sender without a reply.
            wire.play(r"""
                >> O 6 1ff 1fffff
                << O 6 1 7370
                >> C mx␀4\x00\x19192.0.2.1␀
                >> H mx␀
                >> M <a@b.c>␀
                >> R <nobody@example.com>␀
                << y 550 5.1.1 no such user␀
                >> R <x@y.z>␀
                << c
                >> E
                << h X-Tagged␀yes␀
                << a
                >> Q
                << EOF
            """)
        assert process.stop() == 0
