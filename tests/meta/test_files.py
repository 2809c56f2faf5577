"""Every module has its test file and every test file its module; and what no file may contain."""

from __future__ import annotations

import re
from pathlib import Path

from tests.meta.imports import MODULES, ROOT, SOURCE

TESTS = ROOT / "tests"

APART = {
    "benchmarks",
    "conformance",
    "data",
    "docs",
    "e2e",
    "examples",
    "meta",
    "promises",
    "proofs",
    "properties",
    "support",
    "typing",
}
"""Folders of tests that are not about one module."""

WITHOUT_TESTS = {
    "pmilter.__main__": "three lines, run by the tests of the command line",
    "pmilter._version": "a literal",
    "pmilter.client.effects": "values, tested with those who perform them",
}

WITHOUT_MODULE = {
    "client/test_captured_sessions.py": "what real MTAs said, said again",
    "testing/test_package.py": "the package's own __init__",
    "testing/test_same_as_real_mtas.py": "the MTA in memory beside real ones",
    "dispatchers/test_conformance.py": "the same scripts over every dispatcher",
    "test_init.py": "the package's own __init__",
}


def place_of(path: Path) -> str:
    """Return where the tests of a source file belong."""
    inside = path.relative_to(SOURCE)
    return str(inside.with_name(f"test_{inside.name}"))


WANTED = {
    place_of(path): name
    for name, path in MODULES.items()
    if path.name != "__init__.py" and name not in WITHOUT_TESTS
}


def test_modules_have_their_test_files() -> None:
    assert [path for path in sorted(WANTED) if not (TESTS / path).is_file()] == []


def test_test_files_have_their_modules() -> None:
    found = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if path.relative_to(TESTS).parts[0] not in APART
    }
    assert found - set(WANTED) <= set(WITHOUT_MODULE)
    assert set(WITHOUT_MODULE) <= found


OURS = ("src", "tests", "docs", "examples", "benchmarks", "proofs", "tools", ".ci")
MADE = {"__pycache__", "build", "venv"}
"""Folders that tools make."""

TEXTS = sorted(
    path
    for path in (*ROOT.glob("*.*"), *(p for folder in OURS for p in (ROOT / folder).rglob("*")))
    if path.suffix in {"", ".py", ".md", ".toml", ".txt", ".sh", ".c", ".yml"}
    and path.is_file()
    and not MADE & set(path.relative_to(ROOT).parts)
)

ONE_MACHINE = re.compile(r"(?<![\w.~/])/(?:home|mnt|root|srv|Users|work)/\w|(?:\.\./)+shared/")


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if ONE_MACHINE.search(line)
    ]
    assert found == []


SUPPRESSION = re.compile(r"#\s*(?:noqa|type:\s*ignore)(?!\w)(?P<rest>.*)")
EXPLAINED = re.compile(r"(?:: ?[A-Z]+\d+(?:, ?[A-Z]+\d+)*|\[[a-z, -]+\])\s+(?:# )?\s*\w.{4,}")


def test_every_suppression_names_its_rule_and_has_its_reason() -> None:
    bare = []
    for path in TEXTS:
        if path.suffix != ".py" or path.name == Path(__file__).name:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = SUPPRESSION.search(line)
            if match and not EXPLAINED.match(match["rest"]):
                bare.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert bare == []
