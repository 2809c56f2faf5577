from __future__ import annotations

import io
import sys

import pytest

from pmilter.cli.console import make_console


def test_text_that_does_not_go_to_a_terminal_has_no_colours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_console().print("[red]hello[/red] 42")

    assert capsys.readouterr().out == "hello 42\n"


def test_reader_that_goes_away_is_a_broken_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())

    with pytest.raises(BrokenPipeError):
        make_console().print("hello")
