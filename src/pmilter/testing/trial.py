"""One synthetic SMTP session with a filter, in memory: whether it can serve at all, before an MTA finds out."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pmilter
from pmilter.errors import ConfigError
from pmilter.testing.mta import Mta

if TYPE_CHECKING:
    from pmilter.milter import Milter
    from pmilter.protocol.messages import Options

QUEUE_ID: Final = "pmilter-trial"
"""The queue id of the synthetic message, by which a callback can tell it from mail."""

_PACKAGE: Final = str(Path(pmilter.__file__).parent)

_MESSAGE: Final = b"""\
From: postmaster@localhost
To: postmaster@localhost
Subject: trial
Message-ID: <pmilter-trial@localhost>

This message exists in memory only.
"""


def try_out(milter: Milter) -> Options | None:
    """Run a session with one small message through a filter.

    Any verdict will do; what no callback may do is raise, return something else, or take longer than it has. The callbacks run as with mail, with sender and recipient postmaster@localhost, from 127.0.0.1, and with the queue id
    `QUEUE_ID`.

    Returns:
        What was agreed on with an MTA that offers everything.

    Raises:
        ConfigError: A callback has failed so, or the filter cannot be negotiated with.
    """
    with Mta(
        milter, connect=("localhost", "127.0.0.1"), helo="localhost", macros={"i": QUEUE_ID}
    ) as mta:
        mta.send(_MESSAGE, "postmaster@localhost", ["postmaster@localhost"])
        agreement = mta.agreement
    if mta.errors:
        raise ConfigError(f"{milter.name} fails in a trial session: {_told(mta.errors[0])}")
    if mta.overdue:
        raise ConfigError(f"{milter.name} is too slow in a trial session: {mta.overdue[0]}")
    return agreement


def _told(error: BaseException) -> str:
    """Return an error in one line, with the place in the program where it came up."""
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text
