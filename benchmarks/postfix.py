"""How many messages a real Postfix takes with a tagger in the way, and with none.

This takes the private Postfix of `pmilter.testing`, which needs Debian's package and root. Mail is put
in by ``smtp-source`` and thrown away by Postfix when it would be delivered.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.build import Absent
from benchmarks.server import Server, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.catalogue import Contestant
    from benchmarks.measure import Setting

NO_FILTER = "no filter"
SESSIONS = 8
WARM_UP = 100
MESSAGES = 600
LIMIT = 120  # seconds for all of them

SETTINGS = {"default_transport": "discard:", "local_transport": "discard:", "relayhost": ""}


@dataclass(frozen=True)
class Passage:
    """What went through Postfix with a contestant's tagger in one round."""

    contestant: str
    round: int
    messages_a_second: float = 0
    error: str | None = None


def check_available() -> None:
    """Raise Absent if there is no Postfix to measure with."""
    try:
        from pmilter.testing.rig import Postfix
    except ImportError as error:
        raise Absent(f"pmilter.testing.rig cannot be imported: {error}") from error
    if reason := Postfix.unavailable():
        raise Absent(reason)


def measure_passage(setting: Setting, contestant: Contestant | None, number: int) -> Passage:
    """Send mail through Postfix; no contestant is no filter."""
    name = contestant.name if contestant else NO_FILTER
    try:
        with _tagger(setting, contestant) as address:
            return Passage(name, number, _send_through(address))
    except (ServerError, PostfixError) as error:
        return Passage(name, number, error=str(error))


class PostfixError(Exception):
    """Postfix did not take the mail."""


@contextlib.contextmanager
def _tagger(setting: Setting, contestant: Contestant | None) -> Iterator[str | None]:
    """Run the tagger where Postfix, which is another user, can reach it; give its address."""
    if contestant is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="milter-") as folder:
        Path(folder).chmod(0o755)
        with Server(
            contestant,
            setting.programs[contestant.need],
            family=contestant.families[0],
            kind="tagger",
            folder=Path(folder),
            core=None,  # Postfix itself needs both
        ) as server:
            for path in Path(folder).glob("socket"):
                path.chmod(0o666)
            yield server.address


def _send_through(address: str | None) -> float:
    from pmilter.testing.rig import Postfix

    filters = () if address is None else (address,)
    with Postfix(*filters, settings=SETTINGS) as mta:
        host, port = mta.smtp_address
        _send(f"{host}:{port}", WARM_UP)
        begun = time.monotonic()
        _send(f"{host}:{port}", MESSAGES)
        return MESSAGES / (time.monotonic() - begun)


def _send(target: str, messages: int) -> None:
    """Hand in mail; what a failing filter makes of it is a 4xx, which ends smtp-source."""
    command = ["smtp-source", "-d", "-s", str(SESSIONS), "-m", str(messages), "-l", "8192"]
    command += ["-S", "minutes", "-f", "alice@example.com", "-t", "bob@example.org", target]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    except subprocess.TimeoutExpired:
        raise PostfixError(f"{messages} messages took more than {LIMIT} seconds") from None
    except subprocess.CalledProcessError as error:
        raise PostfixError(error.stderr.strip()[-200:]) from error
