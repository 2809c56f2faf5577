from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmilter.testing.plugin import REQUIRE
from pmilter.testing.rig.daemon import reserved_port
from tests.e2e.realmta import KINDS, RealMta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.testing.rig import Instance


@pytest.fixture(scope="session", params=list(KINDS))
def running_mta(request: pytest.FixtureRequest) -> Iterator[RealMta]:
    if missing := KINDS[request.param].unavailable():
        if os.environ.get(REQUIRE):
            pytest.fail(f"{REQUIRE} is set, but: {missing}", pytrace=False)
        pytest.skip(missing)
    with RealMta(request.param) as mta:
        yield mta


@pytest.fixture
def real_mta(running_mta: RealMta) -> Iterator[RealMta]:
    """A real Postfix, then a real Sendmail, shared by all tests; none may leave mail behind."""
    yield running_mta
    assert running_mta.leftovers() == []


@pytest.fixture(params=list(KINDS))
def mta_factory(request: pytest.FixtureRequest) -> Callable[..., Instance]:
    """What starts a Postfix, then a Sendmail, of the test's own; see the fixtures ``postfix`` and ``sendmail``."""
    factory: Callable[..., Instance] = request.getfixturevalue(request.param)
    return factory


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A short temporary directory that every user may enter, for UNIX sockets; pytest keeps tmp_path to itself."""
    with tempfile.TemporaryDirectory(prefix="e2e-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def unused() -> Iterator[str]:
    """The address of a filter that is not there, and that nobody else takes meanwhile."""
    with reserved_port() as port:
        yield f"inet:{port}@127.0.0.1"
