from __future__ import annotations

import pytest

import pmilter
from pmilter import errors

TREE = {
    "MilterError": Exception,
    "ProtocolError": errors.MilterError,
    "LocalProtocolError": errors.ProtocolError,
    "RemoteProtocolError": errors.ProtocolError,
    "NegotiationError": errors.MilterError,
    "ConnectionClosed": errors.MilterError,
    "MilterTimeout": errors.MilterError,
    "ConfigError": errors.MilterError,
    "LimitExceeded": errors.MilterError,
}


@pytest.mark.parametrize(("name", "parent"), TREE.items())
def test_error_has_its_place_in_the_tree(name: str, parent: type[Exception]) -> None:
    assert getattr(errors, name).__bases__[0] is parent


@pytest.mark.parametrize("name", TREE)
def test_error_is_importable_from_pmilter(name: str) -> None:
    assert getattr(pmilter, name) is getattr(errors, name)


def test_there_are_no_others() -> None:
    found = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert found == set(TREE)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.LocalProtocolError, ValueError),
        (errors.ConfigError, ValueError),
        (errors.MilterTimeout, TimeoutError),
    ],
)
def test_error_is_also_the_built_in_one(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)


def test_message_is_the_text_and_data_are_attributes() -> None:
    error = errors.RemoteProtocolError("what", command="Mail", state="START")
    assert (str(error), error.command, error.state) == ("what", "Mail", "START")


@pytest.mark.parametrize(
    ("error", "data"),
    [
        (errors.LocalProtocolError("x"), {"command": None, "state": None}),
        (errors.NegotiationError("x", offered=1, answered=2), {"offered": 1, "answered": 2}),
        (errors.ConnectionClosed("x", clean=False), {"clean": False}),
        (errors.ConnectionClosed("x"), {"clean": True}),
        (errors.MilterTimeout("x", seconds=5), {"seconds": 5}),
        (errors.ConfigError("x", source="f", line=3), {"source": "f", "line": 3}),
        (errors.LimitExceeded("x", limit=10, size=11), {"limit": 10, "size": 11}),
    ],
)
def test_data_of_an_error(error: errors.MilterError, data: dict[str, object]) -> None:
    assert vars(error) == data
    assert str(error) == "x"
