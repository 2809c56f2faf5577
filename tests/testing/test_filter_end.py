"""A filter's end of a connection in memory, spoken to in bytes."""

from __future__ import annotations

from typing import Any

import pytest

from pmilter import Action, Context, Milter, Status
from pmilter.errors import MilterTimeout
from pmilter.testing.filter_end import FilterEnd
from tests.support.notation import parse, show, split


def answers(end: FilterEnd, *lines: str) -> list[str]:
    """Send frames in one piece, and return the frames that come back."""
    end.feed(b"".join(map(parse, lines)))
    return [show(frame) for frame in split(end.read())[0]]


def test_answers_come_back() -> None:
    milter = Milter("test", keep=())
    milter.on("envfrom")(lambda *_: Status.REJECT)
    end = FilterEnd(milter)
    assert answers(end, "O 6 1ff 1fffff") == ["O 6 0 37b"]
    assert answers(end, "D M", "M <a@x>␀") == ["r"]
    end.end()


def test_nothing_to_read_while_the_filter_waits_is_an_error() -> None:
    end = FilterEnd(Milter())
    answers(end, "O 6 1ff 1fffff")
    with pytest.raises(MilterTimeout, match="waits"):
        end.read()
    end.end()


def test_end_of_file_after_the_end() -> None:
    end = FilterEnd(Milter())
    end.end()
    end.feed(parse("O 6 1ff 1fffff"))
    assert end.read() == b""


def test_frame_that_breaks_the_protocol_ends_the_connection() -> None:
    closed: list[Context] = []
    milter = Milter()
    on: Any = milter.on
    on("connect")(lambda *_: None)
    on("close")(closed.append)
    end = FilterEnd(milter)
    answers(end, "O 6 1ff 1fffff")
    answers(end, "C x␀U")
    end.feed(parse("E"))
    assert end.read() == b""
    assert len(closed) == 1


def test_progress_comes_before_the_answer() -> None:
    milter = Milter("test", actions=Action.ADDHDRS, keep=("envfrom",))

    @milter.on("eom")
    def eom(ctx: Context) -> None:
        ctx.addheader("A", "1")
        ctx.progress()

    end = FilterEnd(milter)
    answers(end, "O 6 1ff 37f")
    assert answers(end, "M <a@x>␀") == ["c"]
    assert answers(end, "E") == ["p", "h A␀1␀", "c"]
    end.end()


def test_errors_are_kept_in_order() -> None:
    milter = Milter()
    on: Any = milter.on
    on("connect")(lambda *_: 1 / 0)
    on("helo")(lambda *_: int("x"))
    end = FilterEnd(milter)
    answers(end, "O 6 1ff 1fffff")
    assert answers(end, "C x␀U") == ["t"]
    assert answers(end, "H x␀") == ["t"]
    assert [type(error) for error in end.errors] == [ZeroDivisionError, ValueError]
    end.end()
