from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Action, ConfigError, Context, Limits, Milter, Reply, Status
from pmilter.testing.trial import QUEUE_ID, try_out
from tests.support.playbook import filter_of, raises, returns

if TYPE_CHECKING:
    from collections.abc import Callable


def test_filter_sees_a_whole_session() -> None:
    seen: list[str] = []

    def note(stage: str) -> Callable[..., None]:
        return lambda *_: seen.append(stage)

    stages = ["connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"]
    try_out(filter_of({stage: note(stage) for stage in [*stages, "abort", "close"]}))
    assert list(dict.fromkeys(seen)) == [*stages, "close"]


def test_message_can_be_told_from_mail() -> None:
    ids: list[str | None] = []

    def eom(ctx: Context) -> None:
        ids.append(ctx.queue_id)

    try_out(filter_of({"eom": eom}))
    assert ids == [QUEUE_ID]


@pytest.mark.parametrize(
    "result",
    [Status.REJECT, Status.TEMPFAIL, Status.ACCEPT, Status.DISCARD, Reply(550, None, "no")],
)
def test_any_verdict_will_do(result: object) -> None:
    try_out(filter_of({"envfrom": returns(result)}))
    try_out(filter_of({"eom": returns(result)}))


def test_changes_may_be_made() -> None:
    milter = filter_of({"eom": lambda ctx: ctx.addheader("X-A", "b")}, actions=Action.ADDHDRS)
    try_out(milter)


@pytest.mark.parametrize("stage", ["negotiate", "connect", "helo", "header", "eom", "close"])
def test_filter_that_raises_anywhere_is_not_fit(stage: str) -> None:
    with pytest.raises(ConfigError) as caught:
        try_out(filter_of({"connect": returns(None), stage: raises(LookupError("no such table"))}))
    assert "LookupError: no such table" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_names_the_place() -> None:
    def helo(_ctx: Context, _name: str) -> None:
        raise KeyError("x")

    with pytest.raises(ConfigError, match=r"test_trial\.py, line \d+"):
        try_out(filter_of({"helo": helo}))


def test_coroutine_is_tried_too() -> None:
    async def helo(_ctx: Context, _name: str) -> None:
        raise KeyError("x")

    with pytest.raises(ConfigError):
        try_out(filter_of({"helo": helo}))


def test_filter_that_calls_exit_is_not_fit() -> None:
    milter: Any = Milter("app")
    milter.on("helo")(raises(SystemExit(0)))
    with pytest.raises(ConfigError, match="SystemExit"):
        try_out(milter)


@pytest.mark.parametrize("result", [42, True, "accept", Status.SKIP, Status])
def test_filter_that_returns_something_else_is_not_fit(result: object) -> None:
    with pytest.raises(ConfigError, match="the eom callback returned"):
        try_out(filter_of({"eom": returns(result)}))


def test_filter_that_takes_longer_than_it_has_is_not_fit() -> None:
    def helo(*_: object) -> None:
        threading.Event().wait(0.02)

    slow = filter_of({"helo": helo}, limits=Limits(command_time=0.01))
    with pytest.raises(ConfigError, match=r"the helo callback took 0\.\d seconds, it has 0\.01"):
        try_out(slow)


def test_place_of_what_pmilter_raises_is_that_in_the_program() -> None:
    def eom(ctx: Context) -> None:
        ctx.delrcpt("<a@x>")

    line = eom.__code__.co_firstlineno + 1
    with pytest.raises(ConfigError, match=rf"test_trial\.py, line {line}"):
        try_out(filter_of({"eom": eom}))
