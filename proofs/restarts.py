"""Restarts: the filter is stopped and started anew on a socket that was handed over, as systemd does it. No message may be refused."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from pmilter.testing.rig import Postfix
from proofs.findings import Finding
from proofs.reloads import CASES, Size, change_under_load, settings_of
from proofs.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from proofs.catalogue import Tell

__all__ = ["CASES", "NAME", "SIZES", "TITLE", "prove"]

NAME: Final = "restarts"
TITLE: Final = "stop and start on a handed-over socket while mail goes through Postfix"
SIZES: Final = {"short": Size(60, 1, 20), "full": Size(1000, 3)}


def prove(case: str, size: Size, directory: Path, tell: Tell) -> Finding:
    """Stop and start, and close the account."""
    finding = Finding(NAME, case)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as held:
        address = f"inet:{held.getsockname()[1]}@127.0.0.1"
        service = Service(
            "tagger", settings_of(case), directory, address=address, reloads=True, handed=held
        )

        def restart() -> None:
            status = service.stop()
            finding.check("a stop ends well", status == 0, f"exit status {status}")
            service.start()

        with service, Postfix(address) as mta:
            change_under_load(finding, mta, service, restart, size, tell)
    return finding
