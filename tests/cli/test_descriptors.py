from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from pmilter.cli.descriptors import hold_standard_descriptors

hold_standard_descriptors()
null = os.stat(os.devnull)
held = [os.path.samestat(os.fstat(number), null) for number in (0, 1, 2)]
streams = all((sys.stdin, sys.stdout, sys.stderr))
print("lost")
print("lost", file=sys.stderr)
child = os.system("test -c /dev/fd/0 && test -e /dev/fd/1 && test -e /dev/fd/2")
lowest = os.open(os.devnull, os.O_RDONLY)
with open(sys.argv[1], "w") as result:
    print(held, streams, child, lowest > 2, file=result)
"""


@pytest.mark.parametrize(
    ("closing", "held"),
    [
        ("", "[False, False, False]"),
        ("<&-", "[True, False, False]"),
        (">&-", "[False, True, False]"),
        ("2>&-", "[False, False, True]"),
        ("<&- 2>&-", "[True, False, True]"),
        ("<&- >&- 2>&-", "[True, True, True]"),
    ],
)
def test_closed_descriptors_go_nowhere_and_open_ones_stay(
    closing: str, held: str, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    command = ["sh", "-c", f'exec "$0" "$@" {closing}', sys.executable, "-c", PROGRAM, str(result)]
    with Path("/dev/zero").open("rb") as zero:
        subprocess.run(command, stdin=zero, capture_output=True, timeout=30, check=True)

    assert result.read_text() == f"{held} True 0 True\n"
