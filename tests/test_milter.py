from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import (
    Action,
    ConfigError,
    Context,
    Limits,
    Milter,
    Status,
    Step,
    ithread_dispatcher,
)
from pmilter.protocol.rules import STAGES
from tests.support.playbook import filter_of, returns
from tests.support.processes import DEADLINE

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler


def callbacks(milter: Milter) -> dict[str, Any]:
    return {stage: callback.function for stage, callback in milter.plan().callbacks.items()}


# --- construction


def test_defaults() -> None:
    plan = Milter().plan()
    assert plan.callbacks == {}
    assert plan.actions == Action(0)
    assert plan.steps == Step(0)
    assert plan.keep == {"connect", "helo", "envfrom", "envrcpt"}
    assert plan.fallback == dict.fromkeys(STAGES, Status.TEMPFAIL)
    assert plan.limits == Limits()
    assert plan.timeout == 7210.0


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        Milter("name", Action.ADDHDRS)  # type: ignore[call-arg]  # that is the point


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actions": 0x200}, "unknown action bits 0x200"),
        ({"actions": 0x1FFF}, "unknown action bits 0x1e00"),
        ({"steps": Step.NOBODY}, "NOBODY.* follows from"),
        ({"steps": Step.NR_HDR}, "NR_HDR.* follows from"),
        ({"steps": Step.MDS_1M}, "steps may hold"),
        ({"keep": ("connect", "rcpt")}, "keep: unknown stage rcpt"),
        ({"keep": "header"}, "keep: unknown stage header"),
        ({"fallback": Status.DISCARD}, "fallback"),
        ({"fallback": {"nonsense": Status.REJECT}}, "nonsense"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Milter(**options)


def test_bits_may_be_numbers() -> None:
    plan = Milter(actions=0x01, steps=0x100000).plan()
    assert (plan.actions, plan.steps) == (Action.ADDHDRS, Step.HDR_LEADSPC)


@pytest.mark.parametrize("steps", [Step.HDR_LEADSPC, Step.RCPT_REJ, Step.SKIP])
def test_abilities_may_be_asked_for(steps: Step) -> None:
    assert Milter(steps=steps).plan().steps == steps


def test_one_stage_to_keep_may_be_a_text() -> None:
    assert Milter(keep="helo").plan().keep == {"helo"}


# --- on


def test_on_returns_the_function_unchanged_and_adds_it() -> None:
    milter = Milter()

    def eom(ctx: Context) -> None: ...

    assert milter.on("eom")(eom) is eom
    assert callbacks(milter) == {"eom": eom}


def test_on_replaces_its_stage_alone() -> None:
    milter = filter_of({"eom": returns(1), "helo": (helo := returns(2))})
    milter.on("eom")(eom := returns(3))
    assert callbacks(milter) == {"eom": eom, "helo": helo}


def test_one_function_may_serve_several_stages() -> None:
    milter = Milter()

    @milter.on("data")
    @milter.on("eoh")
    def both(ctx: Context) -> None: ...

    assert callbacks(milter) == {"data": both, "eoh": both}


@pytest.mark.parametrize("stage", STAGES)
def test_on_refuses_a_function_that_cannot_take_the_arguments(stage: Any) -> None:
    milter = Milter()
    with pytest.raises(ConfigError, match=f"the {stage} callback"):
        milter.on(stage)(lambda: None)  # type: ignore[no-untyped-call]  # the stage is not known here
    assert callbacks(milter) == {}


def test_on_refuses_an_unknown_stage_at_once() -> None:
    with pytest.raises(ConfigError, match=r"unknown stage 'rcpt'; the stages are .*envrcpt"):
        Milter().on("rcpt")  # type: ignore[call-overload]  # that is the point


@pytest.mark.parametrize("stage", ["negotiate", "eom", "abort", "close"])
def test_noreply_is_not_for(stage: Any) -> None:
    with pytest.raises(ConfigError, match=f"stage {stage} cannot be without a reply"):
        Milter().on(stage, noreply=True)


@pytest.mark.parametrize(
    "stage", [s for s in STAGES if s not in {"negotiate", "eom", "abort", "close"}]
)
def test_noreply_is_for_the_others(stage: Any) -> None:
    milter = filter_of({stage: returns(None)}, noreply=[stage])
    assert milter.plan().callbacks[stage].noreply


@pytest.mark.parametrize("stage", ["negotiate", "unknown", "abort", "close"])
def test_macros_are_not_for(stage: Any) -> None:
    with pytest.raises(ConfigError, match=stage):
        Milter().on(stage, macros="i")


def test_macros_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="'a b' cannot be the name of a macro"):
        Milter().on("eom", macros=["a b"])


def test_methods_and_partials_are_callbacks() -> None:
    class Filter:
        def eom(self, ctx: Context) -> None: ...

    milter = Milter()
    milter.on("eom")(Filter().eom)
    milter.on("helo")(partial(lambda extra, ctx, name: extra and ctx and name, None))
    assert set(callbacks(milter)) == {"eom", "helo"}


# --- register

MODULE = """
def connect_callback(ctx, hostname, address): ...
def helo_callback(ctx, name): ...
def on_eom(ctx): ...
value = 5
milter.register("perl-like", {callbacks}, {flags})
"""


def register(
    milter: Milter, callbacks: str, flags: str = "0", module: str = MODULE
) -> dict[str, Any]:
    """Run a module that registers callbacks, and return its names."""
    namespace: dict[str, Any] = {"__name__": "somewhere", "milter": milter}
    exec(module.format(callbacks=callbacks, flags=flags), namespace)
    return namespace


def test_register_takes_names_and_looks_the_rest_up_in_the_callers_module() -> None:
    milter = Milter("before")
    module = register(milter, "{'eom': 'on_eom', 'helo': lambda ctx, name: None}")
    found = callbacks(milter)
    assert found["eom"] is module["on_eom"]
    assert found["connect"] is module["connect_callback"]
    assert found["helo"] is not module["helo_callback"]
    assert set(found) == {"connect", "helo", "eom"}
    assert milter.name == "perl-like"


def test_register_without_callbacks_takes_all_of_the_module() -> None:
    milter = Milter()
    register(milter, "None")
    assert set(callbacks(milter)) == {"connect", "helo"}


def test_register_replaces_all_callbacks_and_the_actions() -> None:
    milter = filter_of({"body": returns(None)}, actions=Action(0x1FF), noreply=["body"])
    register(milter, "{}", "1")
    assert set(callbacks(milter)) == {"connect", "helo"}
    assert milter.plan().actions == Action.ADDHDRS
    register(milter, "{}")
    assert milter.plan().actions == Action(0)


def test_on_adds_to_what_was_registered() -> None:
    milter = Milter()
    register(milter, "{}")
    milter.on("body")(lambda *_: None)
    assert set(callbacks(milter)) == {"connect", "helo", "body"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{'eom': 'gone'}", "'gone' is not a function of somewhere"),
        ("{'eom': 'value'}", "must be callable"),
        ("{'eom': 5}", "must be callable"),
        ("{'rcpt': on_eom}", "unknown stage rcpt"),
        ("{'eom': 'helo_callback'}", "the eom callback is called as"),
    ],
)
def test_register_that_fails_changes_nothing(given: str, message: str) -> None:
    milter = filter_of({"body": (body := returns(None))}, actions=Action.ADDHDRS)
    with pytest.raises(ConfigError, match=message):
        register(milter, given)
    assert callbacks(milter) == {"body": body}
    assert milter.plan().actions == Action.ADDHDRS


def test_register_with_unknown_flags_changes_nothing() -> None:
    milter = filter_of({"body": (body := returns(None))}, actions=Action.ADDHDRS)
    with pytest.raises(ConfigError, match="unknown action bits"):
        register(milter, "{}", "0x200")
    assert callbacks(milter) == {"body": body}


def test_register_keeps_the_name_where_it_is_given_none() -> None:
    milter = Milter("kept")
    milter.register(None, {"eom": returns(None)})
    assert milter.name == "kept"


# --- settings


@pytest.mark.parametrize("seconds", [0, -1, 0.0, float("nan")])
def test_timeout_must_be_above_0(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="timeout must be"):
        Milter().settimeout(seconds)


@pytest.mark.parametrize("seconds", [0.5, 7210, None])
def test_timeout_is_taken(seconds: float | None) -> None:
    milter = Milter()
    milter.settimeout(seconds)
    assert milter.plan().timeout == seconds


@pytest.mark.parametrize("seconds", ["5", True, False, b"5"])
def test_timeout_of_another_type(seconds: Any) -> None:
    with pytest.raises(TypeError, match="timeout must be a number"):
        Milter().settimeout(seconds)


@pytest.mark.parametrize(
    "options",
    [
        {"name": 5},
        {"actions": "ADDHDRS"},
        {"actions": True},
        {"steps": 1.0},
        {"keep": 5},
        {"fallback": None},
        {"limits": {"recipients": 5}},
    ],
)
def test_option_of_another_type(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Milter(**options)


def test_fallback_and_limits_may_be_set_later() -> None:
    milter = Milter(fallback=Status.REJECT, limits=Limits(recipients=5))
    milter.set_fallback({"eom": "shutdown"})
    milter.set_limits(Limits(headers=7))
    plan = milter.plan()
    assert (plan.fallback["eom"], plan.fallback["helo"]) == ("shutdown", Status.TEMPFAIL)
    assert plan.limits == Limits(headers=7)
    wrong: Any = {"headers": 7}
    with pytest.raises(TypeError, match="must be a Limits"):
        milter.set_limits(wrong)


@pytest.mark.parametrize("backlog", ["128", 128.0, True])
def test_backlog_of_another_type(backlog: Any) -> None:
    with pytest.raises(TypeError, match="backlog must be a whole number"):
        Milter().set_listen(backlog)


@pytest.mark.parametrize("backlog", [0, -1])
def test_backlog_must_be_above_0(backlog: Any) -> None:
    with pytest.raises(ConfigError, match="backlog must be 1 or above"):
        Milter().set_listen(backlog)


def test_dispatcher_must_be_callable() -> None:
    with pytest.raises(TypeError, match="dispatcher"):
        Milter().set_dispatcher("ithread")  # type: ignore[arg-type]  # that is the point
    milter = Milter()
    milter.set_dispatcher(dispatcher := ithread_dispatcher())
    assert milter.dispatcher is dispatcher


def test_coroutine_stages_are_known() -> None:
    async def eom(ctx: Context) -> None: ...

    milter = filter_of({"eom": eom, "helo": returns(None)})
    assert milter.coroutine_stages() == ["eom"]


# --- main's preconditions


def test_main_without_a_socket() -> None:
    with pytest.raises(ConfigError, match="no socket: call setconn"):
        filter_of({"eom": returns(None)}).main()


def test_address_before_setconn_is_none() -> None:
    assert Milter().address is None


def test_stop_without_main_does_nothing() -> None:
    Milter().stop()


@pytest.mark.source_only("it stops within a function, which only the source's can be")
def test_stop_that_comes_while_main_begins_is_not_lost() -> None:
    """The thread that stops has just seen that nothing is served when the other one begins to serve."""

    def dispatcher(_milter: Milter, listener: Listener, _handler: Handler) -> None:
        serves.set()
        listener.accept()

    def pause(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code is not Milter.stop.__code__:
            return None
        if event == "line" and frame.f_locals.get("serving", self) is None:
            main.start()
            assert serves.wait(DEADLINE)
        return pause

    def stop() -> None:
        sys.settrace(pause)
        milter.stop()

    self = object()
    serves = threading.Event()
    milter = filter_of({"helo": returns(None)})
    milter.set_dispatcher(dispatcher)
    milter.setconn("inet:0@127.0.0.1")
    main = threading.Thread(target=milter.main, daemon=True)
    stopper = threading.Thread(target=stop)
    stopper.start()
    stopper.join()
    main.join(1)
    assert not main.is_alive()


def test_numbers_of_main_before_main() -> None:
    milter = Milter()
    assert (milter.get_max_interpreters(), milter.get_max_requests()) == (0, 0)


# --- sendmail.cf


@pytest.fixture
def cf(tmp_path: Path) -> str:
    path = tmp_path / "sendmail.cf"
    path.write_text(
        "V10/Berkeley\n"
        "O MaxMessageSize=1000\n"
        "Cwlocalhost mx.example.com localhost\n"
        f"Xtagger, S=local:{tmp_path}/tagger.sock, F=T, T=C:5m;R:4m\n"
        "Xother, S=inet:0@127.0.0.1\n"
    )
    return str(path)


def test_default_file() -> None:
    assert Milter().get_sendmail_cf() == "/etc/mail/sendmail.cf"


def test_file_is_set_and_set_back(cf: str) -> None:
    milter = Milter()
    milter.set_sendmail_cf(cf)
    assert milter.get_sendmail_cf() == cf
    milter.set_sendmail_cf(None)
    assert milter.get_sendmail_cf() == "/etc/mail/sendmail.cf"


def test_socket_class_and_option_are_read_from_it(cf: str, tmp_path: Path) -> None:
    milter = Milter()
    milter.set_sendmail_cf(cf)
    assert milter.auto_getconn("tagger") == f"local:{tmp_path}/tagger.sock"
    assert milter.auto_getconn("gone") is None
    assert milter.get_sendmail_class("w") == ["localhost", "mx.example.com"]
    assert milter.get_sendmail_option("MaxMessageSize") == "1000"
    assert milter.get_sendmail_option("Gone") is None


def test_file_may_be_given_with_the_question(cf: str, tmp_path: Path) -> None:
    milter = Milter()
    assert milter.auto_getconn("tagger", cf) == f"local:{tmp_path}/tagger.sock"
    assert milter.get_sendmail_class("w", cf) == ["localhost", "mx.example.com"]
    assert milter.get_sendmail_option("MaxMessageSize", cf) == "1000"


def test_auto_setconn_of_a_filter_that_is_not_there(cf: str) -> None:
    milter = Milter()
    with pytest.raises(ConfigError, match="'gone'") as caught:
        milter.auto_setconn("gone", cf)
    assert caught.value.source == cf
    assert milter.address is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda milter, path: milter.auto_getconn("x", path),
        lambda milter, path: milter.auto_setconn("x", path),
        lambda milter, path: milter.get_sendmail_class("w", path),
        lambda milter, path: milter.get_sendmail_option("X", path),
    ],
)
def test_unreadable_file_is_a_config_error(ask: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "gone.cf")
    with pytest.raises(ConfigError, match=r"gone\.cf"):
        ask(Milter(), path)


def test_filter_without_a_name_cannot_be_looked_up(cf: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        Milter().auto_getconn("", cf)
