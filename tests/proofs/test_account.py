"""That the account tells of everything that could go wrong with mail: a proof that cannot fail proves nothing."""

from __future__ import annotations

import pytest

from pmilter.testing.rig import Delivered
from proofs.account import check_no_failure, close_account
from proofs.findings import Finding
from proofs.load import Attempt, recipient

ACCEPTED = Attempt(1, 250, None, "ABC", "250 2.0.0 Ok: queued as ABC")
REFUSED = Attempt(2, 451, "eom", None, "451 4.7.1 Service unavailable")


def copy(number: int = 1, mark: str | None = None, message_id: int | None = None) -> Delivered:
    """A message as it should arrive, but for what is said."""
    own = f"X-Proof: <{recipient(number)}> 99\r\n" if mark is None else mark
    name = f"Message-ID: <{message_id or number}@proofs.example.com>\r\n"
    return Delivered(
        "a@example.com", (), (recipient(number),), ((),), f"{name}{own}\r\nhello\r\n".encode()
    )


def failures(attempts: list[Attempt], delivered: list[Delivered]) -> list[str]:
    finding = Finding("test", "test")
    close_account(finding, attempts, delivered)
    return [check.text for check in finding.failures]


def test_accepted_and_delivered_once_or_refused_for_now_is_right() -> None:
    assert failures([ACCEPTED, REFUSED], [copy()]) == []


@pytest.mark.parametrize(
    ("attempts", "delivered", "failure"),
    [
        ([ACCEPTED], [], "none lost: accepted, so delivered"),
        ([REFUSED], [copy(2)], "none delivered that was not accepted"),
        ([ACCEPTED], [copy(), copy()], "none delivered twice"),
        ([ACCEPTED], [copy(mark="")], "each has the filter's mark, once, and its own"),
        (
            [ACCEPTED],
            [copy(mark=2 * f"X-Proof: <{recipient(1)}> 99\r\n")],
            "each has the filter's mark, once, and its own",
        ),
        (
            [ACCEPTED],
            [copy(mark=f"X-Proof: <{recipient(2)}> 99\r\n")],
            "each has the filter's mark, once, and its own",
        ),
        (
            [Attempt(1, 550, "eom", None, "550 5.7.1 no")],
            [],
            "every sender has an answer: accepted, or refused for now",
        ),
        (
            [Attempt(1, 0, "connection", None, "ConnectionClosed: gone")],
            [],
            "every sender has an answer: accepted, or refused for now",
        ),
        (
            [Attempt(1, 250, None, None, "250 2.0.0 Ok")],
            [],
            "every sender has an answer: accepted, or refused for now",
        ),
    ],
)
def test_whatever_is_wrong_with_one_message_is_found(
    attempts: list[Attempt], delivered: list[Delivered], failure: str
) -> None:
    assert failures(attempts, delivered) == [failure]


def test_message_with_the_content_of_another_is_found() -> None:
    assert "none lost: accepted, so delivered" in failures([ACCEPTED], [copy(message_id=2)])


def test_one_temporary_failure_is_one_too_many() -> None:
    finding = Finding("test", "test")
    check_no_failure(finding, [ACCEPTED])
    assert finding.passed
    check_no_failure(finding, [ACCEPTED, REFUSED])
    assert [check.detail for check in finding.failures] == [
        "2 at eom: 451 4.7.1 Service unavailable"
    ]
