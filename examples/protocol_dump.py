"""Prints every callback with its arguments, and lets all mail pass: what an MTA tells its filters, and when.

Run it with ``python examples/protocol_dump.py inet:8891@127.0.0.1``, or with
``pmilter run examples/protocol_dump.py --listen ADDRESS``. A line is ``PID: stage: arguments``; of the body only the size is
shown.
"""

from __future__ import annotations

import os
import sys
from functools import partial

from pmilter import Context, Milter, Status, printable

STAGES = (
    *("negotiate", "connect", "helo", "envfrom", "envrcpt", "data", "unknown"),
    *("header", "eoh", "body", "eom", "abort", "close"),
)


def dump(stage: str, _ctx: Context, *args: object) -> Status:
    # Flushed, since the next thing that this process does may be to end.
    print(f"{os.getpid()}: {stage}:", *map(shown, args), flush=True)
    return Status.CONTINUE


def shown(argument: object) -> str:
    if isinstance(argument, bytes):
        return f"({len(argument)} bytes)"
    return printable(argument) if isinstance(argument, str) else repr(argument)


milter = Milter()
milter.register("protocol-dump", {stage: partial(dump, stage) for stage in STAGES})


if __name__ == "__main__":
    milter.setconn(sys.argv[1] if len(sys.argv) > 1 else "inet:8891@127.0.0.1")
    milter.main()
