from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pmilter.cli import sample
from pmilter.cli.entry import perform
from pmilter.cli.scenes import SCENES


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_demo_tells_of_all_messages(dialect: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(["demo", "--dialect", dialect]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert f"behind {dialect.capitalize()}, played in memory" in out
    for number, scene in enumerate(SCENES, 1):
        assert f"\n{number}. {scene.title} " in out
    assert "+Subject: [external] Your offer\n" in out
    assert "the client reads 550 5.7.1 please send a link\n" in out


def test_piped_output_has_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    perform(["demo"])

    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(("no_color", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_terminal_gets_colours_unless_told_otherwise(
    no_color: dict[str, str], coloured: bool
) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "TERM", "COLORTERM"}}
    environment = kept | {"FORCE_COLOR": "1", "TERM": "xterm-256color"} | no_color
    done = subprocess.run(
        [sys.executable, "-m", "pmilter", "demo"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ("\x1b[31m" in done.stdout) is coloured


def test_machines_get_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(["demo", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["mta"] == "Postfix, played in memory"
    assert [one["outcome"]["verdict"] for one in document["messages"]] == [
        "accept",
        "accept",
        "accept",
        "reject",
    ]
    [tagged] = [one for one in document["messages"][1]["exchanges"] if one["stage"] == "eom"]
    assert tagged["answers"][-1] == "ACCEPT"


def test_show_prints_the_filter_to_the_byte(capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(["demo", "--show"]) == 0
    assert capsys.readouterr().out == Path(sample.__file__).read_text(encoding="utf-8")


def test_filter_that_was_shown_can_be_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pmilter", "demo", "--show"], capture_output=True, check=True
    )
    path = tmp_path / "mine.py"
    path.write_bytes(done.stdout)

    status = perform(["run", str(path), "--listen", f"unix:{tmp_path}/missing/socket"])

    assert status == 3  # it is loaded, and only the socket is wrong


def test_reader_that_goes_away_ends_it_without_a_word() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pmilter", "demo", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(30) == 6


def test_dialect_and_a_real_mta_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert perform(["demo", "--postfix", "--dialect", "sendmail"]) == 2
    assert "--dialect is for the MTA in memory" in capsys.readouterr().err


def test_unknown_dialect_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert perform(["demo", "--dialect", "exim"]) == 2
    assert "'postfix', 'sendmail'" in capsys.readouterr().err


@pytest.mark.mta
@pytest.mark.usefixtures("postfix")  # where it is not installed
def test_real_postfix_does_the_same(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert perform(["demo", "--postfix"]) == 0

    out, err = capsys.readouterr()
    assert err == ""
    assert caplog.records == []
    assert "behind a real Postfix" in out
    assert "the client reads 250 2.0.0 Ok: queued as " in out
    assert "+X-Received-From: mail.example.com\n" in out
    assert "the client reads 550 5.7.1 please send a link\n" in out
