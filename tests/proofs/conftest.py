from __future__ import annotations

import os

import pytest

from pmilter.testing.plugin import REQUIRE
from pmilter.testing.rig import Postfix


@pytest.fixture
def real_postfix() -> None:
    """Skip the test where there is no Postfix, or fail it where there must be one."""
    if missing := Postfix.unavailable():
        if os.environ.get(REQUIRE):
            pytest.fail(f"{REQUIRE} is set, but: {missing}", pytrace=False)
        pytest.skip(missing)
