"""Nothing below knows what stands above."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.meta.imports import MODULES, Import, imports

FLOORS = ("core", "conversation", "dispatchers", "testing", "cli")
"""From the lowest to the highest. The MTA's side stands beside the dispatchers."""

_PACKAGES = {
    "pmilter.protocol": "core",
    "pmilter.dispatchers": "dispatchers",
    "pmilter.client": "dispatchers",
    "pmilter.testing": "testing",
    "pmilter.cli": "cli",
}
_MODULES = {
    "pmilter.__main__": "cli",
    "pmilter._version": "core",
    "pmilter.errors": "core",
    "pmilter.text": "core",
}

LAZY = {
    (
        "pmilter.milter",
        "pmilter.dispatchers",
    ): "setconn and main need sockets, which tests of filters do not",
}
"""Imports within functions that reach up one floor, and why."""


def floor(module: str) -> int:
    """Return the floor that a module stands on."""
    package = ".".join(module.split(".")[:2])
    name = _MODULES.get(module) or _PACKAGES.get(package) or "conversation"
    return FLOORS.index(name)


def side(module: str) -> str:
    """Return the package within its floor."""
    return ".".join(module.split(".")[:2])


def is_lazy(found: Import) -> bool:
    """Return whether an import is one of those that may reach up."""
    return found.local and (found.importer, side(found.imported)) in LAZY


RUNTIME = [found for found in imports() if not found.typing_only and found.importer != "pmilter"]


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for found in RUNTIME:
        graph[found.importer].add(found.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_no_module_imports_from_a_floor_above() -> None:
    wrong = [
        f"{found.importer} imports {found.imported}"
        for found in RUNTIME
        if floor(found.imported) > floor(found.importer) and not is_lazy(found)
    ]
    assert wrong == []


def test_the_two_sides_do_not_know_each_other() -> None:
    sides = {"pmilter.dispatchers", "pmilter.client"}
    wrong = [
        f"{found.importer} imports {found.imported}"
        for found in RUNTIME
        if {side(found.importer), side(found.imported)} == sides
    ]
    assert wrong == []


def test_the_core_knows_nothing_above_it_not_even_as_a_type() -> None:
    wrong = [
        f"{found.importer} imports {found.imported}"
        for found in imports()
        if floor(found.importer) == 0 and floor(found.imported) > 0
    ]
    assert wrong == []


def test_every_exception_is_still_needed() -> None:
    used = {(f.importer, side(f.imported)) for f in RUNTIME if f.local}
    assert set(LAZY) <= used


FORBIDDEN_IN_THE_CORE = ("socket", "select", "threading", "logging", "time", "os", "asyncio")


@pytest.mark.parametrize("name", [name for name in MODULES if floor(name) == 0])
def test_the_core_does_no_input_or_output(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert not imported & set(FORBIDDEN_IN_THE_CORE)
