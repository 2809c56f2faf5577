"""The unit files: systemd itself has nothing to say against them, and they agree with each other and with pmilter."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pmilter import parse_address

UNITS = Path(__file__).parents[2] / "examples" / "systemd"


def settings(path: Path) -> dict[str, str]:
    """Return the settings in a unit file; the last one of a name counts."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] not in "#;")


def test_service_asks_for_the_socket_by_the_name_that_it_is_given() -> None:
    words = settings(UNITS / "tagger.service")["ExecStart"].split()
    address = parse_address(words[words.index("--listen") + 1])
    assert address.scheme == "fd"
    assert address.name == settings(UNITS / "tagger.socket")["FileDescriptorName"]


def test_service_is_given_more_time_to_stop_than_messages_have_to_end() -> None:
    from pmilter import Limits
    from pmilter.dispatchers.generations import LINGER

    seconds = settings(UNITS / "tagger.service")["TimeoutStopSec"].removesuffix("s")
    assert float(seconds) > LINGER + Limits().grace + 5


def test_systemd_has_nothing_to_say(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd on this machine")
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    version = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True)
    too_new = set()
    if int(version.stdout.split()[1]) >= 253:
        shutil.rmtree(tmp_path / "tagger.service.d")
    else:
        too_new = {"Failed to parse service type, ignoring: notify-reload"}
    units = [str(tmp_path / "tagger.service"), str(tmp_path / "tagger.socket")]
    verified = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    said = {line.partition(": ")[2] for line in verified.stderr.splitlines()}
    assert verified.returncode == 0
    assert said == too_new
