from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

from pmilter import ConfigError, Limits
from pmilter.cli.options import option_table
from pmilter.cli.run import command
from pmilter.cli.settings import SETTINGS
from pmilter.cli.sources import Sources
from pmilter.dispatchers.registry import ENVIRONMENT

TABLE = option_table(SETTINGS)
PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text()


def read(typed: dict[str, str] | None = None, environ: dict[str, str] | None = None) -> Any:
    return Sources(SETTINGS, typed or {}, environ or {}).read()


@pytest.mark.parametrize("setting", TABLE, ids=[setting.name for setting in TABLE])
def test_every_setting_has_all_its_forms(setting: Any) -> None:
    option = setting.option
    context = click.Context(command)
    (parameter,) = [one for one in command.params if one.name == setting.name]
    (flags, _) = parameter.get_help_record(context) or ("", "")

    assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", option.flag)
    assert option.flag in flags
    assert option.variable == "PMILTER_" + option.flag[2:].upper().replace("-", "_")
    assert option.help.endswith(".")
    assert f"`{option.flag}" in PAGE


def test_names_are_used_once() -> None:
    flags = [flag for setting in TABLE for flag in setting.option.flags]

    assert len(flags) == len(set(flags))


def test_dispatchers_variable_is_the_one_that_milter_itself_knows() -> None:
    assert ENVIRONMENT in {setting.option.variable for setting in TABLE}


def test_every_limit_is_a_setting_with_the_limits_own_default() -> None:
    shown = {setting.name: setting.otherwise for setting in TABLE}

    for name in Limits.__slots__:
        default = getattr(Limits(), name)
        assert shown[name] == ("none" if default is None else f"{default:.15g}")


def test_help_of_a_limit_is_what_limits_says_of_it() -> None:
    (headers,) = [setting for setting in TABLE if setting.name == "headers"]

    assert headers.option.help == "Most header fields of one message."


@pytest.mark.parametrize("name", sorted(Limits.__slots__))
def test_every_limit_is_given_on_by_its_name(name: str) -> None:
    value = 70_000 if name == "frame" else 7

    assert read({name: str(value)}).limits() == {name: value}


@pytest.mark.parametrize("name", ["command_time", "eom_time", "connections_per_peer"])
def test_limits_that_need_not_be_can_be_switched_off(name: str) -> None:
    assert read({name: "none"}).limits() == {name: None}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("headers", "none", "--headers: 'none' must be a whole number"),
        ("headers", "1.5", "--headers: '1.5' must be a whole number"),
        ("frame", "65534", "--frame: limit frame must be at least 65535"),
        ("grace", "0", "--grace: '0' must be a number of seconds above 0"),
    ],
)
def test_limit_that_cannot_be_is_told(name: str, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read({name: text})

    assert str(caught.value).startswith(told)


def test_single_deadlines_win_over_both_at_once() -> None:
    settings = read({"deadlines": "sendmail"}, {"PMILTER_EOM_TIME": "60"})

    assert settings.limits() == {"command_time": 8.0, "eom_time": 60.0}


def test_nothing_given_is_no_limit_given() -> None:
    assert read().limits() == {}
