"""What modules of the package import, read from their source without running it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "pmilter"


class Import(NamedTuple):
    """One import of a module of ours."""

    importer: str
    imported: str
    typing_only: bool
    """Whether it stands under TYPE_CHECKING."""
    local: bool
    """Whether it stands in a function."""


def module_name(path: Path) -> str:
    """Return the name of a source file's module."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


class _Finder(ast.NodeVisitor):
    def __init__(self, importer: str) -> None:
        self.found: list[Import] = []
        self._importer = importer
        self._typing_only = False
        self._local = False

    def visit_If(self, node: ast.If) -> None:
        before = self._typing_only
        self._typing_only = before or "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.body:
            self.visit(child)
        self._typing_only = before
        for child in node.orelse:
            self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, self._local = self._local, True
        self.generic_visit(node)
        self._local = before

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  # the name that a visitor looks for

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._note(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert not node.level, f"{self._importer} imports by a relative name"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self._note(whole if whole in MODULES else node.module or "")

    def _note(self, name: str) -> None:
        if name in MODULES and name != self._importer:
            self.found.append(Import(self._importer, name, self._typing_only, self._local))


def imports() -> list[Import]:
    """Return all imports of ours within the package."""
    found: list[Import] = []
    for name, path in MODULES.items():
        finder = _Finder(name)
        finder.visit(ast.parse(path.read_text()))
        found += finder.found
    return found
