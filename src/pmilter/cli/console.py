"""The console for stdout, which everything that a verb tells goes through; errors go to stderr by way of `exits`."""

from __future__ import annotations

from rich.console import Console


class _Console(Console):
    """A console whose reader may go away without a word from us."""

    def on_broken_pipe(self) -> None:
        """End as any other error does."""
        raise BrokenPipeError


def make_console() -> Console:
    """Return the console for stdout: with colours on terminals only, and not where NO_COLOR is set.

    Its methods raise BrokenPipeError where the reader has gone away.
    """
    return _Console(highlight=False)
