"""``python -m proofs.handover FD COMMAND...``: become a command that is handed a listening socket, as systemd does it."""

from __future__ import annotations

import os
import sys

NAME = "proof"
FIRST = 3
"""The first descriptor that is handed over (sd_listen_fds(3))."""


def main() -> None:
    """Put the socket where it is expected, say so in the environment, and go."""
    fd, command = int(sys.argv[1]), sys.argv[2:]
    os.dup2(fd, FIRST, inheritable=True)
    handed = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": NAME}
    os.execvpe(command[0], command, {**os.environ, **handed})


if __name__ == "__main__":
    main()
