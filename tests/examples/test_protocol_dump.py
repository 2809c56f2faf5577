from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pmilter.testing.mta import Mta

if TYPE_CHECKING:
    from pmilter import Milter

MESSAGE = b"Subject: one\n two\nX-Odd: \x1b\xff\n\nhello\n"


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_every_callback_is_printed_with_its_arguments(
    example: Milter, dialect: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Mta(example, connect=("mx", "192.0.2.1", 1025), helo="mx", dialect=dialect) as mta:
        result = mta.send(
            MESSAGE, sender=("a@b.c", "SIZE=1"), recipients=["x@y.z", ("o@y.z", "NOTIFY=NEVER")]
        )

    negotiate, *lines = capsys.readouterr().out.splitlines()
    assert negotiate.startswith(f"{os.getpid()}: negotiate: Options(version=6, ")
    assert [line.removeprefix(f"{os.getpid()}: ") for line in lines] == [
        "connect: mx ('192.0.2.1', 1025)",
        "helo: mx",
        "envfrom: <a@b.c> SIZE=1",
        "envrcpt: <x@y.z>",
        "envrcpt: <o@y.z> NOTIFY=NEVER",
        "data:",
        r"header: Subject one\n two",
        r"header: X-Odd \x1b\udcff",
        "eoh:",
        "body: (7 bytes)",
        "eom:",
        "close:",
    ]
    assert result.message == MESSAGE.replace(b"\n", b"\r\n")


def test_unknown_commands_and_aborts_are_printed_too(
    example: Milter, capsys: pytest.CaptureFixture[str]
) -> None:
    with Mta(example, dialect="sendmail") as mta:
        mta.unknown("FOO bar")
        mta.envfrom("a@b.c")
        mta.rset()

    stages = [line.split(": ", 2)[1:] for line in capsys.readouterr().out.splitlines()]
    assert ["unknown", "FOO bar"] in stages
    assert ["abort:"] in stages
