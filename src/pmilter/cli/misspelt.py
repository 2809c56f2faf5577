"""Names that are none, in the environment and in files, and what was probably meant."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from pmilter.cli.options import VARIABLE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pmilter.cli.options import Setting

_NEAR: Final = 0.6
"""Likeness below which a name helps nobody, from 0 to 1."""

_TYPED: Final = {"app": "APP", "check": "--check", "config": "--config", "json": "--json"}
"""Key -> what is given on the command line only (but for the file, which a variable may name too)."""

_CONFIG: Final = "PMILTER_CONFIG"
"""Names the file itself."""

_OTHER_VARIABLES: Final = frozenset(
    {
        "PMILTER_ACCELERATE",
        "PMILTER_COMPILED_PYTHON",
        "PMILTER_PROOF",
        "PMILTER_REQUIRE_MTA",
        "PMILTER_SENDMAIL",
    }
)
"""Variables of build and tests."""


def meant(key: str, names: Mapping[str, str]) -> str:
    """Return what to say after the news that a name is none; empty where nothing is near.

    Args:
        key: The name, in the form that keys of a file have.
        names: Key -> how to show it, of all that there are.
    """
    if key in _TYPED:
        return f": {_TYPED[key]} belongs on the command line"
    nearest = get_close_matches(key, names, n=1, cutoff=_NEAR)
    return f"; the nearest is {names[nearest[0]]}" if nearest else ""


def unknown_variables(environ: Mapping[str, str], table: list[Setting]) -> Iterator[str]:
    """Yield a sentence for each variable of the environment that looks like an option's and is none."""
    names = {one.option.key: one.option.variable for one in table} | {"config": _CONFIG}
    known = _OTHER_VARIABLES.union(names.values())
    for name in sorted(environ):
        if name.startswith(VARIABLE_PREFIX) and name not in known:
            key = name.removeprefix(VARIABLE_PREFIX).lower().replace("_", "-")
            yield f"{name} is not the variable of any option{meant(key, names)}"
