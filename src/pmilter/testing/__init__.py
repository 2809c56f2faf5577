r"""A filter under test: an MTA in memory, and (in `pmilter.testing.rig`) real ones.

    with Mta(milter, dialect="sendmail") as mta:
        result = mta.send(b"Subject: hello\n\nhello\n", recipients=["nobody@example.com"])
    assert result.rejected == {"nobody@example.com": "550 5.1.1 no such user"}

Names are loaded when they are first used: pytest's plug-in is in this package, and every run of pytest loads it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmilter.client.dialect import POSTFIX, SENDMAIL, Dialect
    from pmilter.client.exchange import Verdict
    from pmilter.testing.mta import Mta, Result

__all__ = ["POSTFIX", "SENDMAIL", "Dialect", "Mta", "Result", "Verdict"]

_MODULES = {
    "Mta": "pmilter.testing.mta",
    "Result": "pmilter.testing.mta",
    "POSTFIX": "pmilter.client.dialect",
    "SENDMAIL": "pmilter.client.dialect",
    "Dialect": "pmilter.client.dialect",
    "Verdict": "pmilter.client.exchange",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
