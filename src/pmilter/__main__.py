"""``python -m pmilter`` is the command ``pmilter``."""

from __future__ import annotations

from pmilter.cli import main

main()
