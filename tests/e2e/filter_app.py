"""The filter that tests run as a program of its own: it tags mail, and stops at end of message where a header says so.

X-Wait: DIRECTORY makes it write its process id to DIRECTORY/pid and wait until DIRECTORY/go exists.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pmilter import Action, Context, Milter

LOOK = 0.01  # seconds between two looks for the file, which another process makes

milter = Milter("app", actions=Action.ADDHDRS)


@milter.on("header")
def header(ctx: Context, name: str, value: str) -> None:
    if name == "X-Wait":
        ctx.state.wait = Path(value)


@milter.on("eom")
def eom(ctx: Context) -> None:
    directory: Path | None = getattr(ctx.state, "wait", None)
    if directory is not None:
        wait_in(directory)
    ctx.addheader("X-Tagged", f"{ctx.sender} {ctx.recipients} {os.getpid()}")


def wait_in(directory: Path) -> None:
    new = directory / "pid.new"
    new.write_text(str(os.getpid()))
    new.rename(directory / "pid")
    while not (directory / "go").exists():
        threading.Event().wait(LOOK)


if __name__ == "__main__":
    milter.setconn("inet:8891@127.0.0.1")
    milter.main()
