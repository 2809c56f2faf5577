from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pmilter.testing.mta import Mta

if TYPE_CHECKING:
    from pmilter import Milter


@pytest.mark.parametrize("dialect", ["postfix", "sendmail"])
def test_all_mail_is_tagged(example: Milter, dialect: str) -> None:
    with Mta(example, dialect=dialect) as mta:
        result = mta.send(b"Subject: hello\n\nhello\n")

    assert result.message == b"Subject: hello\r\nX-Tagged: yes\r\n\r\nhello\r\n"


def test_nobody_is_refused(example: Milter) -> None:
    with Mta(example) as mta:
        result = mta.send(b"\nhello\n", recipients=["nobody@example.com", "bob@example.com"])

    assert result.rejected == {"nobody@example.com": "550 5.1.1 no such user"}
    assert result.recipients == ["bob@example.com"]
