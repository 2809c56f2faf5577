r"""The pytest fixtures ``postfix`` and ``sendmail``: a real MTA around the filter under test.

    def test_tag_is_added(postfix):
        mta = postfix(milter)
        assert mta.send(b"Subject: hello\n\nhello\n").code == 250
        [message] = mta.delivered()
        assert message.header("X-Tagged") == ["yes"]

pytest loads this module in every run of everybody who has pmilter installed, so it imports the rest inside the
fixtures.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pmilter.testing.rig import Postfix, Sendmail

AnyInstance = TypeVar("AnyInstance", "Postfix", "Sendmail")

REQUIRE: Final = "PMILTER_REQUIRE_MTA"  # environment variable


@pytest.fixture
def postfix(request: pytest.FixtureRequest) -> Iterator[Callable[..., Postfix]]:
    """What starts a private Postfix around filters; its arguments are those of `pmilter.testing.rig.Postfix`.

    Each call starts another one; all are stopped at the end of the test. Where Postfix is not installed the test
    is skipped, or fails if the environment variable PMILTER_REQUIRE_MTA is set.
    """
    from pmilter.testing.rig import Postfix

    yield from _factory(request, Postfix)


@pytest.fixture
def sendmail(request: pytest.FixtureRequest) -> Iterator[Callable[..., Sendmail]]:
    """What starts a private Sendmail around filters; its arguments are those of `pmilter.testing.rig.Sendmail`.

    All else is as for the fixture ``postfix``.
    """
    from pmilter.testing.rig import Sendmail

    yield from _factory(request, Sendmail)


def _factory(
    request: pytest.FixtureRequest, kind: type[AnyInstance]
) -> Iterator[Callable[..., AnyInstance]]:
    if missing := kind.unavailable():
        _give_up(missing)
    with ExitStack() as stack:

        def start(*filters: Any, **settings: Any) -> AnyInstance:
            mta = stack.enter_context(kind(*filters, **settings))
            # pytest shows the section only if the test fails.
            stack.callback(
                lambda: request.node.add_report_section("teardown", f"{kind.name} log", mta.log())
            )
            return mta

        yield start


def _give_up(reason: str) -> None:
    if os.environ.get(REQUIRE):
        pytest.fail(f"{REQUIRE} is set, but: {reason}", pytrace=False)
    pytest.skip(reason)
