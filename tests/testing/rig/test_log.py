from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pmilter.errors import MilterError, MilterTimeout
from pmilter.testing.rig.log import Log

if TYPE_CHECKING:
    from pathlib import Path


def test_text_joins_the_files_that_exist(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\n")
    (tmp_path / "c").write_bytes(b"\xff three\n")
    log = Log("mta", tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert log.text() == "one\n\ufffd three\n"


def test_find_returns_the_first_match(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("id=1\nid=2\n")
    assert Log("mta", tmp_path / "log").find(r"id=(\d)", 0)[1] == "1"


def test_find_waits_for_a_line_to_come(tmp_path: Path) -> None:
    writer = threading.Timer(0.05, (tmp_path / "log").write_text, ["late\n"])
    writer.start()
    assert Log("mta", tmp_path / "log").find("late", 10)[0] == "late"
    writer.join()


def test_find_gives_up_in_time(tmp_path: Path) -> None:
    with pytest.raises(MilterTimeout, match=r"the log of mta has no 'x\+' after 0 s") as caught:
        Log("mta", tmp_path / "log").find("x+", 0)
    assert caught.value.seconds == 0


def test_last_lines_are_shown_in_errors(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {number}\n" for number in range(100)))
    with pytest.raises(MilterError) as caught, Log("mta", tmp_path / "log").shown_in_errors():
        raise MilterError("no")
    [note] = caught.value.__notes__
    assert note.splitlines() == [
        "last lines of the log of mta:",
        *(f"line {n}" for n in range(80, 100)),
    ]


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as caught, Log("mta", tmp_path / "log").shown_in_errors():
        raise KeyError
    assert not hasattr(caught.value, "__notes__")
