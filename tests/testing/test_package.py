"""What `pmilter.testing` costs whom: pytest loads its plug-in in every run."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pmilter.testing


def test_plug_in_loads_nothing_else_of_the_kit() -> None:
    script = "import sys, pmilter.testing.plugin; print([m for m in sys.modules if m.startswith('pmilter')])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert eval(done.stdout) == ["pmilter", "pmilter.testing", "pmilter.testing.plugin"]


def test_plain_filters_are_tested_without_asyncio() -> None:
    script = (
        "import sys; from pmilter import Milter; from pmilter.testing import Mta\n"
        "with Mta(Milter()) as mta: print(mta.send(b'A: 1\\n\\n').verdict, 'asyncio' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["accept", "False"]


def test_every_name_is_there() -> None:
    assert [name for name in pmilter.testing.__all__ if not hasattr(pmilter.testing, name)] == []
    assert dir(pmilter.testing) == sorted(pmilter.testing.__all__)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="Mtx"):
        pmilter.testing.Mtx  # noqa: B018  # what is tested
