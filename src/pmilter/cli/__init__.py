"""The command ``pmilter``: one module a verb, each found through `pmilter.cli.entry`.

Only what is below this package needs click and rich.
"""

from __future__ import annotations

from pmilter.cli.entry import main

__all__ = ["main"]
