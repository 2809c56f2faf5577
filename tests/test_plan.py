from __future__ import annotations

from typing import Any

import pytest

from pmilter import Action, ConfigError, MacroStage, Milter, Status, Step
from pmilter.plan import complete_symlists, format_symlist, macros_stage, make_fallback
from pmilter.protocol.rules import STAGES
from tests.support.playbook import filter_of, returns


@pytest.mark.parametrize(
    ("names", "wire"),
    [
        ("i", b"i"),
        ("{i}", b"i"),
        ("mail_addr", b"{mail_addr}"),
        ("{mail_addr}", b"{mail_addr}"),
        ("i, {mail_addr}  _ j", b"i {mail_addr} _ j"),
        (["i", " auth_type "], b"i {auth_type}"),
        (("client_addr",), b"{client_addr}"),
        ("", b""),
        ([], b""),
    ],
)
def test_macro_names_are_written_as_sendmail_wants_them(names: Any, wire: bytes) -> None:
    assert format_symlist(names) == wire


@pytest.mark.parametrize("name", ["a b", "a,b", "{", "{}", "{{a}}", "a\0", "a\nb", "ü", ""])
def test_what_cannot_be_a_macro_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a macro"):
        format_symlist([name])


def test_50_names_are_the_most_for_a_stage() -> None:
    names = [f"macro{number}" for number in range(51)]
    assert format_symlist(names[:50]).count(b"{") == 50
    with pytest.raises(ConfigError, match=r"51 macro names .* 50 at most"):
        format_symlist(names)


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("connect", MacroStage.CONNECT),
        ("helo", MacroStage.HELO),
        ("envfrom", MacroStage.ENVFROM),
        ("envrcpt", MacroStage.ENVRCPT),
        ("data", MacroStage.DATA),
        ("header", MacroStage.EOH),
        ("eoh", MacroStage.EOH),
        ("body", MacroStage.EOM),
        ("eom", MacroStage.EOM),
    ],
)
def test_macros_of_a_stage_are_asked_for_under(stage: str, number: MacroStage) -> None:
    assert macros_stage(stage) is number


@pytest.mark.parametrize("stage", ["negotiate", "unknown", "abort", "close", "macro", "nonsense"])
def test_no_macros_can_be_asked_for_with(stage: str) -> None:
    with pytest.raises(ConfigError, match=stage):
        macros_stage(stage)


@pytest.mark.parametrize("alone", [MacroStage.EOM, MacroStage.EOH])
def test_eom_and_eoh_are_set_together(alone: MacroStage) -> None:
    assert complete_symlists({alone: b"i"}) == {MacroStage.EOM: b"i", MacroStage.EOH: b"i"}
    both = {MacroStage.EOM: b"i", MacroStage.EOH: b"j"}
    assert complete_symlists(both) == both
    assert complete_symlists({MacroStage.DATA: b"i"}) == {MacroStage.DATA: b"i"}


ALLOWED: list[Any] = [
    Status.TEMPFAIL,
    Status.REJECT,
    Status.ACCEPT,
    Status.CONTINUE,
    "shutdown",
]


@pytest.mark.parametrize("status", ALLOWED)
def test_one_fallback_is_for_all_stages(status: Any) -> None:
    assert make_fallback(status) == dict.fromkeys(STAGES, status)


def test_stage_left_out_of_a_mapping_falls_back_to_tempfail() -> None:
    fallback = make_fallback({"eom": Status.ACCEPT, "envrcpt": "shutdown"})
    assert fallback == {
        **dict.fromkeys(STAGES, Status.TEMPFAIL),
        "eom": Status.ACCEPT,
        "envrcpt": "shutdown",
    }


@pytest.mark.parametrize("choice", [*[s for s in Status if s not in ALLOWED], "reject", ""])
def test_other_statuses_and_texts_are_no_fallback(choice: Any) -> None:
    allowed = "must be one of ACCEPT, CONTINUE, REJECT, TEMPFAIL or 'shutdown'"
    for fallback in (choice, {"eom": choice}):
        with pytest.raises(ConfigError, match=allowed):
            make_fallback(fallback)


@pytest.mark.parametrize("fallback", [None, 104, ["shutdown"], {"eom": 104}, {"eom": None}])
def test_fallback_of_another_type_is_none(fallback: Any) -> None:
    with pytest.raises(TypeError, match="fallback"):
        make_fallback(fallback)


def test_fallback_for_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown stage 'rcpt'"):
        make_fallback({"rcpt": Status.REJECT})


def test_plan_is_a_snapshot() -> None:
    milter = filter_of({"helo": returns(None)})
    plan = milter.plan()
    milter.on("eom")(returns(None))
    milter.settimeout(5)
    assert set(plan.callbacks) == {"helo"}
    assert plan.timeout == 7210.0
    assert set(milter.plan().callbacks) == {"helo", "eom"}


def test_wish_of_a_filter() -> None:
    milter = Milter(actions=Action.ADDHDRS, steps=Step.HDR_LEADSPC, keep=("helo", "envfrom"))
    milter.on("envfrom", macros="i")(lambda *_: None)
    milter.on("body", noreply=True)(lambda *_: None)
    wish = milter.plan().wish()
    assert wish.stages == {"helo", "envfrom", "body"}
    assert wish.quiet == {"helo", "body"}
    assert wish.actions == Action.ADDHDRS
    assert wish.abilities == Step.HDR_LEADSPC | Step.SKIP
    assert wish.symlists == ((MacroStage.ENVFROM, b"i"),)
