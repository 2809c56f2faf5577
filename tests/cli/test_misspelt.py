from __future__ import annotations

import pytest

from pmilter.cli.misspelt import meant, unknown_variables
from pmilter.cli.options import option_table
from pmilter.cli.settings import SETTINGS

NAMES = {"log-level": "'log-level'", "dispatcher": "'dispatcher'", "workers": "'workers'"}


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("worker", "; the nearest is 'workers'"),
        ("log-lvel", "; the nearest is 'log-level'"),
        ("nosuch", ""),
        ("x", ""),
        ("check", ": --check belongs on the command line"),
        ("json", ": --json belongs on the command line"),
        ("app", ": APP belongs on the command line"),
        ("config", ": --config belongs on the command line"),
    ],
)
def test_only_what_is_near_is_proposed(key: str, told: str) -> None:
    assert meant(key, NAMES) == told


def test_variables_that_are_no_options_are_told_with_what_was_meant() -> None:
    environ = {
        "PMILTER_WORKER": "4",
        "PMILTER_CONFG": "x",
        "PMILTER_CHECK": "1",
        "PMILTER_JSON": "1",
        "PMILTER_APP": "x.py",
        "PMILTER_QQQ": "",
    }
    assert list(unknown_variables(environ, option_table(SETTINGS))) == [
        "PMILTER_APP is not the variable of any option: APP belongs on the command line",
        "PMILTER_CHECK is not the variable of any option: --check belongs on the command line",
        "PMILTER_CONFG is not the variable of any option; the nearest is PMILTER_CONFIG",
        "PMILTER_JSON is not the variable of any option: --json belongs on the command line",
        "PMILTER_QQQ is not the variable of any option",
        "PMILTER_WORKER is not the variable of any option; the nearest is PMILTER_WORKERS",
    ]


@pytest.mark.parametrize(
    "name", ["PMILTER_LOG_LEVEL", "PMILTER_CONFIG", "PMILTER_REQUIRE_MTA", "PMILTERS", "PATH"]
)
def test_variables_that_there_are_and_those_of_others_are_no_matter(name: str) -> None:
    assert list(unknown_variables({name: "x"}, option_table(SETTINGS))) == []
