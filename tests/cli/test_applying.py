"""Settings in force on a filter, seen in what the filter then is."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pmilter import ConfigError, Limits, Milter, Status
from pmilter.cli.applying import apply, dispatcher_name
from pmilter.cli.settings import SETTINGS
from pmilter.cli.sources import Sources
from pmilter.dispatchers.registry import choose_dispatcher
from pmilter.dispatchers.sequential import sequential_dispatcher


def made(coroutine: bool = False, **options: Any) -> Milter:
    """Return a filter with a callback."""
    milter = Milter("made", **options)
    if coroutine:

        @milter.on("eom")
        async def later(ctx: Any) -> None: ...

    else:

        @milter.on("eom")
        def eom(ctx: Any) -> None: ...

    return milter


def settings(**typed: Any) -> Any:
    return Sources(SETTINGS, typed, {}).read()


def applied(milter: Milter, **typed: Any) -> Milter:
    apply(settings(**typed), milter)
    return milter


def test_what_is_not_given_stays_as_the_program_has_it() -> None:
    milter = made(limits=Limits(headers=5), fallback={"eom": Status.REJECT, "helo": Status.ACCEPT})
    milter.settimeout(77)
    own = sequential_dispatcher()
    milter.set_dispatcher(own)
    before = milter.plan()

    applied(milter)

    after = milter.plan()
    assert (after.limits, after.fallback, after.timeout) == (
        before.limits,
        before.fallback,
        before.timeout,
    )
    assert milter.dispatcher is own
    assert milter.peers is None


def test_given_limits_override_the_programs_and_leave_the_others() -> None:
    milter = applied(
        made(limits=Limits(headers=5, grace=3)),
        headers="7",
        deadlines="sendmail",
        connections_per_peer="9",
    )

    assert milter.plan().limits == Limits.for_sendmail(headers=7, grace=3, connections_per_peer=9)


def test_deadline_can_be_switched_off() -> None:
    assert applied(made(), eom_time="none").plan().limits.eom_time is None


def test_given_fallbacks_override_stage_by_stage() -> None:
    milter = applied(made(fallback={"helo": Status.ACCEPT}), fallback=("eom=shutdown",))

    fallback = milter.plan().fallback
    assert (fallback["eom"], fallback["helo"], fallback["data"]) == (
        "shutdown",
        Status.ACCEPT,
        Status.TEMPFAIL,
    )


def test_fallback_for_all_stages_leaves_room_for_one() -> None:
    milter = applied(made(fallback={"helo": Status.ACCEPT}), fallback=("eom=accept", "reject"))

    fallback = milter.plan().fallback
    assert (fallback["eom"], fallback["helo"]) == (Status.ACCEPT, Status.REJECT)


def test_peers_are_allowed_beside_those_of_the_program() -> None:
    milter = made()
    milter.allow_peers("192.0.2.1")

    applied(milter, allow=("198.51.100.0/24",))

    assert milter.peers is not None
    assert {str(network) for network in milter.peers.networks} == {
        "192.0.2.1/32",
        "198.51.100.0/24",
    }


@pytest.mark.parametrize(("text", "seconds"), [("5", 5.0), ("none", None)])
def test_timeout_is_given_on(text: str, seconds: float | None) -> None:
    assert applied(made(), timeout=text).plan().timeout == seconds


# --- the dispatcher


@pytest.mark.parametrize(
    ("coroutine", "typed", "name"),
    [
        (False, {}, "postfork"),
        (True, {}, "asyncio"),
        (False, {"dispatcher": "ithread"}, "ithread"),
        (False, {"dispatcher": "prefork", "max_memory": "1G"}, "prefork"),
    ],
)
def test_dispatcher_is_the_one_asked_for_or_that_fits(
    coroutine: bool, typed: dict[str, str], name: str
) -> None:
    milter = made(coroutine)

    assert dispatcher_name(settings(**typed), milter) == name
    applied(milter, **typed)
    assert f"{name}_dispatcher" in getattr(choose_dispatcher(milter), "__qualname__", "")


def test_given_dispatcher_overrides_the_programs() -> None:
    milter = made()
    milter.set_dispatcher(sequential_dispatcher())

    applied(milter, dispatcher="ithread")

    assert "ithread" in getattr(milter.dispatcher, "__qualname__", "")


def test_workers_serve_with_the_dispatcher_of_the_program_where_none_is_given() -> None:
    milter = made()
    milter.set_dispatcher(sequential_dispatcher())
    assert dispatcher_name(settings(workers="3"), milter) is None

    applied(milter, workers="3")

    assert "prefork" in getattr(milter.dispatcher, "__qualname__", "")


def test_workers_run_coroutines_where_their_dispatcher_does() -> None:
    milter = applied(made(coroutine=True), workers="2")

    assert choose_dispatcher(milter) is milter.dispatcher


@pytest.mark.parametrize(
    ("coroutine", "typed", "told"),
    [
        (False, {"uvloop": True}, "--uvloop is for the dispatcher asyncio, not for postfork"),
        (
            True,
            {"dispatcher": "selector"},
            "which the dispatcher selector cannot run: .*--dispatcher asyncio",
        ),
        (
            True,
            {"dispatcher": "ithread", "workers": "2"},
            "which the dispatcher ithread cannot run",
        ),
        (False, {"workers": "2", "max_children": "4"}, "--max-children does not go with --workers"),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    coroutine: bool, typed: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        applied(made(coroutine), **typed)


def test_uvloop_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)

    with pytest.raises(ConfigError, match="uvloop is not installed"):
        applied(made(coroutine=True), uvloop=True)
