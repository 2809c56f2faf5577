from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pmilter.testing.mta import Mta

if TYPE_CHECKING:
    from pmilter import Milter


def dumps(text: str) -> dict[str, list[str]]:
    """The lines of the last dump of each stage."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            lines = found[line.partition("] ")[2]] = []
        else:
            lines.append(line)
    return found


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_macros_of_each_stage_are_printed(
    example: Milter, dialect: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Mta(example, connect=("mx", "192.0.2.1"), dialect=dialect) as mta:
        result = mta.send(
            b"\nhello\n", "a@b.c", ["x@y.z"], macros={"i": "4X1", "auth_authen": "ann"}
        )

    found = dumps(capsys.readouterr().out)
    assert list(found) == ["connect", "helo", "envfrom", "envrcpt", "data", "eom"]
    assert "  {client_addr} = 192.0.2.1" in found["connect"]  # sent on request only
    assert "  {mail_addr} = a@b.c" in found["envfrom"]
    assert "  {auth_authen} = ann" in found["envfrom"]
    assert "  {rcpt_addr} = x@y.z" in found["envrcpt"]
    assert "  {i} = 4X1" in found["eom"]
    assert "  {mail_addr} = a@b.c" not in found["connect"]
    assert result.verdict == "accept"


def test_values_are_printed_safely(example: Milter, capsys: pytest.CaptureFixture[str]) -> None:
    with Mta(example, macros={"_": "\x1b[31m"}) as mta:
        mta.open()

    assert r"  {_} = \x1b[31m" in dumps(capsys.readouterr().out)["connect"]
