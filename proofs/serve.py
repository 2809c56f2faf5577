"""``python -m proofs.serve FILTER ADDRESS``: serve a filter as a program of its own does, with `Milter.main`."""

from __future__ import annotations

import logging
import sys

from pmilter.cli.app import load_app


def main() -> None:
    """Serve until stopped."""
    program, address = sys.argv[1:]
    logging.basicConfig(level="INFO", format="%(asctime)s %(process)d %(levelname)s %(message)s")
    milter = load_app(program)
    milter.setconn(address)
    milter.main()


if __name__ == "__main__":
    main()
