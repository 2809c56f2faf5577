from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pmilter
from pmilter import ConfigError, Context, Milter, sequential_dispatcher
from pmilter.dispatchers.registry import ENVIRONMENT, MODULES, choose_dispatcher, dispatcher_named
from tests.support.playbook import filter_of, returns
from tests.support.wire import connect

if TYPE_CHECKING:
    from pmilter.dispatchers.registry import Dispatcher

NAMES = sorted(MODULES)


def module_of(dispatcher: Dispatcher) -> str:
    return dispatcher.__module__


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


async def coroutine(ctx: Context) -> None: ...


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_maker_that_is_public(name: str) -> None:
    dispatcher = dispatcher_named(name)
    assert callable(dispatcher)
    assert module_of(dispatcher) == MODULES[name]
    assert callable(getattr(pmilter, f"{name}_dispatcher"))


@pytest.mark.parametrize("name", ["", "thread", "Postfork", "postfork_dispatcher", "os"])
def test_unknown_name_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown dispatcher .*postfork") as caught:
        dispatcher_named(name)
    assert caught.value.source == name


def test_default_is_postfork() -> None:
    assert module_of(choose_dispatcher(filter_of({"eom": returns(None)}))) == MODULES["postfork"]


@pytest.mark.parametrize("name", NAMES)
def test_environment_names_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, name)
    assert module_of(choose_dispatcher(filter_of({"eom": returns(None)}))) == MODULES[name]


def test_environment_that_is_empty_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "")
    assert module_of(choose_dispatcher(filter_of({"eom": returns(None)}))) == MODULES["postfork"]


def test_what_was_set_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "nonsense")
    milter = filter_of({"eom": returns(None)})
    milter.set_dispatcher(dispatcher := sequential_dispatcher())
    assert choose_dispatcher(milter) is dispatcher


@pytest.mark.parametrize("name", ["postfork", "ithread", "sequential", "selector"])
def test_coroutine_callback_under_a_dispatcher_that_cannot_run_it_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    milter = filter_of({"eom": coroutine, "helo": returns(None)})
    monkeypatch.setenv(ENVIRONMENT, name)
    refused = f"the eom callback is a coroutine function, which the dispatcher {name} cannot run: .*--dispatcher asyncio"
    with pytest.raises(ConfigError, match=refused):
        choose_dispatcher(milter)
    monkeypatch.delenv(ENVIRONMENT)
    milter.set_dispatcher(dispatcher_named(name))
    with pytest.raises(ConfigError, match="the eom callback is a coroutine function"):
        choose_dispatcher(milter)


@pytest.mark.parametrize("name", ["nonsense", "sequential"])
def test_main_that_cannot_serve_closes_its_socket(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, name)
    milter = filter_of({"eom": coroutine})
    milter.setconn("inet:0@127.0.0.1")
    address = str(milter.address)
    with pytest.raises(ConfigError):
        milter.main()
    with pytest.raises(ConnectionRefusedError):
        connect(address)
    assert milter.address is None


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"sequential", "prefork"}])
@pytest.mark.parametrize("overflow", ["refused", "", None, True])
def test_overflow_is_refuse_or_wait(name: str, overflow: Any) -> None:
    make = getattr(pmilter, f"{name}_dispatcher")
    error = ConfigError if isinstance(overflow, str) else TypeError
    with pytest.raises(error, match="overflow must be 'refuse' or 'wait'"):
        make(overflow=overflow)
    assert callable(make(overflow="wait"))


def test_filter_of_the_users_own_class() -> None:
    class Tagger(Milter):
        pass

    assert module_of(choose_dispatcher(Tagger())) == MODULES["postfork"]
