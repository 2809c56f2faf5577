"""The public names as a list under version control: nobody adds, renames or loses one by accident.

After a change that is meant: ``python -m tests.meta.test_public_names`` writes the list anew.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pmilter

SNAPSHOT = Path(__file__).with_name("public_names.txt")

SHOWN = ("Milter", "Context", "Reply", "Limits", "Options", "Address")
"""Classes whose members are part of the list."""


def signature(function: object) -> str:
    """Return the names and defaults of a callable's parameters; types are the type checker's business."""
    parameters: list[str] = []
    try:
        found = inspect.signature(function)  # type: ignore[arg-type]  # it is callable, or raises
    except (TypeError, ValueError):
        return "(...)"
    for parameter in found.parameters.values():
        shown = str(parameter.replace(annotation=parameter.empty))
        keyword_only = parameter.kind is parameter.KEYWORD_ONLY
        if keyword_only and "*" not in "".join(parameters):
            parameters.append("*")
        parameters.append(shown)
    return f"({', '.join(parameters)})"


def members(name: str) -> list[str]:
    """Return the public members of a class, methods with their parameters."""
    owner = getattr(pmilter, name)
    lines = [f"{name}{signature(owner)}"]
    for member in sorted(vars(owner)):
        if member.startswith("_"):
            continue
        raw = inspect.getattr_static(owner, member)
        value = getattr(owner, member)
        is_method = callable(value) and not isinstance(raw, property)
        lines.append(f"{name}.{member}{signature(value) if is_method else ''}")
    return lines


def public_names() -> str:
    """Return the list as it is now."""
    lines: list[str] = []
    for name in sorted(dir(pmilter)):
        value = getattr(pmilter, name)
        if name in SHOWN:
            lines += members(name)
        elif callable(value) and not isinstance(value, type):
            lines.append(f"{name}{signature(value)}")
        else:
            lines.append(name)
    return "\n".join(lines) + "\n"


def test_public_names_are_those_of_the_list() -> None:
    assert public_names().splitlines() == SNAPSHOT.read_text().splitlines()


if __name__ == "__main__":
    SNAPSHOT.write_text(public_names())
