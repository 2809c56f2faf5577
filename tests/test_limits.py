from __future__ import annotations

from typing import Any

import pytest

from pmilter import ConfigError, Limits, Milter
from pmilter.limits import check_whole

DEFAULTS = {
    "frame": 1048575,
    "macros": 256,
    "arguments": 256,
    "recipients": 10_000,
    "headers": 10_000,
    "header_bytes": 1_048_576,
    "connections": 10_000,
    "connections_per_peer": None,
    "negotiation": 60.0,
    "frame_time": 60.0,
    "grace": 10.0,
    "command_time": 25.0,
    "eom_time": 270.0,
    "progress_time": 5.0,
}

MAY_BE_NONE = {"connections_per_peer", "command_time", "eom_time"}
SECONDS = {"negotiation", "frame_time", "grace", "command_time", "eom_time", "progress_time"}


def test_defaults() -> None:
    limits = Limits()
    assert {name: getattr(limits, name) for name in limits.__slots__} == DEFAULTS


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [0, -1])
def test_limit_must_be_above_0_and_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"limit {name} must be a (whole )?number above 0"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", sorted(SECONDS))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_time_has_an_end(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"limit {name} must be a number above 0"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [True, "1", b"1", None])
def test_limit_of_another_type_is_no_limit(name: str, value: Any) -> None:
    if value is None and name in MAY_BE_NONE:
        none: Any = {name: None}
        assert getattr(Limits(**none), name) is None
        return
    with pytest.raises(TypeError, match=rf"limit {name} must be a (whole )?number, not"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", sorted(DEFAULTS.keys() - SECONDS))
def test_what_is_counted_is_a_whole_number(name: str) -> None:
    broken: Any = {name: 70_000.0}
    with pytest.raises(TypeError, match=f"limit {name} must be a whole number"):
        Limits(**broken)


def test_frame_holds_a_body_chunk_at_least() -> None:
    assert Limits(frame=65535).frame == 65535
    with pytest.raises(ConfigError, match="at least 65535"):
        Limits(frame=65534)


def test_limits_for_sendmail_are_below_its_own_times() -> None:
    limits = Limits.for_sendmail(recipients=5)
    assert limits == Limits(command_time=8.0, eom_time=280.0, recipients=5)
    assert Limits.for_sendmail(command_time=3).command_time == 3


def test_limits_with_some_changed_are_others() -> None:
    limits = Limits.for_sendmail(recipients=5)
    changed = limits.replace(connections_per_peer=3, eom_time=None)
    assert changed == Limits(command_time=8.0, eom_time=None, recipients=5, connections_per_peer=3)
    assert limits == Limits.for_sendmail(recipients=5)
    with pytest.raises(ConfigError, match="limit recipients"):
        limits.replace(recipients=0)
    with pytest.raises(TypeError, match="nonsense"):
        limits.replace(nonsense=1)


def test_limits_are_immutable_values() -> None:
    limits = Limits(recipients=5)
    with pytest.raises(AttributeError, match="recipients"):
        limits.recipients = 6
    assert limits == Limits(recipients=5)
    assert limits != Limits()
    assert limits != 5
    assert len({limits, Limits(recipients=5), Limits()}) == 2
    assert "recipients=5" in repr(limits)


@pytest.mark.parametrize(
    ("value", "error"),
    [(-1, ConfigError), (True, TypeError), (1.0, TypeError), ("1", TypeError), (None, TypeError)],
)
def test_whole_numbers_are_told_from_others(value: Any, error: type[Exception]) -> None:
    check_whole("number", 0, 0)
    with pytest.raises(error, match="number must be"):
        check_whole("number", value, 0)


def test_filter_takes_its_limits() -> None:
    assert Milter(limits=Limits(recipients=5)).plan().limits.recipients == 5
    assert Milter().plan().limits == Limits()
    milter = Milter(limits=Limits(recipients=5))
    milter.set_limits(milter.plan().limits.replace(headers=7))
    assert milter.plan().limits == Limits(recipients=5, headers=7)
