from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pmilter

PUBLIC = {
    "Action",
    "Address",
    "ConfigError",
    "ConnectionClosed",
    "Context",
    "Family",
    "LimitExceeded",
    "Limits",
    "LocalProtocolError",
    "MacroStage",
    "Milter",
    "MilterError",
    "MilterTimeout",
    "NegotiationError",
    "Options",
    "ProtocolError",
    "RemoteProtocolError",
    "Reply",
    "Status",
    "Step",
    "Stopped",
    "drop_privileges",
    "ithread_dispatcher",
    "parse_address",
    "postfork_dispatcher",
    "printable",
    "sequential_dispatcher",
}


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_is_there_and_has_a_docstring(name: str) -> None:
    assert getattr(pmilter, name).__doc__
    assert name in dir(pmilter)


def test_every_listed_name_is_there() -> None:
    for name in dir(pmilter):
        assert getattr(pmilter, name, None) is not None or name.startswith("SMFI"), name


def test_constants_are_the_enums_own_members() -> None:
    assert pmilter.SMFIS_CONTINUE is pmilter.Status.CONTINUE
    assert pmilter.SMFIF_ADDHDRS is pmilter.Action.ADDHDRS
    assert pmilter.SMFIF_SETSENDER is pmilter.Action.CHGFROM


@pytest.mark.parametrize(
    "name", ["nonsense", "SMFIS_MSG_LOOP", "SMFI_NONSENSE", "dispatchers_", "X"]
)
def test_unknown_name_is_an_attribute_error_that_names_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'pmilter' has no attribute '{name}'"):
        getattr(pmilter, name)
    with pytest.raises(ImportError, match=name):
        exec(f"from pmilter import {name}", {})


def test_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z]+\d+)?", pmilter.__version__)


def loaded(statement: str) -> set[str]:
    """Return the modules that a statement loads into a bare interpreter."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    source = Path(pmilter.__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(source)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return set(result.stdout.split())


def test_importing_the_package_loads_none_of_its_modules() -> None:
    modules = loaded("import pmilter")
    assert {name for name in modules if name.startswith("pmilter")} == {"pmilter"}


@pytest.mark.parametrize(
    "heavy",
    [
        "asyncio",
        "click",
        "dataclasses",
        "importlib.metadata",
        "inspect",
        "multiprocessing",
        "pmilter.cli",
        "pmilter.client",
        "pmilter.dispatchers",
        "pmilter.symbols",
        "pmilter.testing",
        "rich",
        "socket",
        "subprocess",
    ],
)
def test_writing_a_filter_does_not_load(heavy: str) -> None:
    modules = loaded("from pmilter import Milter, Context, Reply, Status, Action")
    assert not {name for name in modules if name == heavy or name.startswith(f"{heavy}.")}


def test_writing_a_filter_loads_few_modules() -> None:
    modules = loaded("from pmilter import Milter, Context, Reply")
    assert len(modules) <= 85, sorted(modules)


def test_serving_a_filter_does_not_load_asyncio() -> None:
    statement = (
        "from pmilter import Milter, ithread_dispatcher, postfork_dispatcher\n"
        "m = Milter(); m.setconn('inet:0@127.0.0.1'); import pmilter.dispatchers.serving"
    )
    assert "asyncio" not in loaded(statement)


def test_star_import_gives_all_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from pmilter import *", namespace)  # it is the statement that is tested
    assert {"Milter", "Context", "SMFIS_CONTINUE", "ithread_dispatcher"} <= namespace.keys()
