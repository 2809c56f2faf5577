"""An MTA's log files: read, waited for, and shown where something went wrong."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pmilter.errors import MilterError, MilterTimeout
from pmilter.testing.rig.daemon import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAIL: Final = 20  # lines shown in an error


class Log:
    """The log of one MTA, which may lie in several files; one that is missing counts as empty."""

    def __init__(self, name: str, *files: Path) -> None:
        self._name = name
        self._files = files

    def text(self) -> str:
        """Everything so far."""
        return "".join(file.read_text(errors="replace") for file in self._files if file.exists())

    def find(self, pattern: str, timeout: float) -> re.Match[str]:
        """Wait for a regular expression and return its first match.

        Raises:
            MilterTimeout: It was not found within `timeout` seconds.
        """
        found: re.Match[str] | None = None

        def look() -> bool:
            nonlocal found
            found = re.search(pattern, self.text())
            return found is not None

        if not wait_for(look, timeout) or found is None:
            raise MilterTimeout(
                f"the log of {self._name} has no {pattern!r} after {timeout:g} s", seconds=timeout
            )
        return found

    @contextmanager
    def shown_in_errors(self) -> Iterator[None]:
        """Add the last lines of the log as a note to what the block raises, if it is an error of ours."""
        try:
            yield
        except MilterError as error:
            lines = self.text().splitlines()[-TAIL:]
            error.add_note("\n".join([f"last lines of the log of {self._name}:", *lines]))
            raise
