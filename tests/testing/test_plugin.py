"""The fixtures as an outside project meets them: in a pytest run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pmilter

pytest_plugins = ["pytester"]

SOURCES = str(Path(pmilter.__file__).parents[1])

USES_SENDMAIL = """
    def test_mine(sendmail):
        sendmail()
"""


@pytest.fixture
def outside(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project where this plugin, and no other, is loaded."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", SOURCES, prepend=os.pathsep)
    monkeypatch.delenv("PMILTER_REQUIRE_MTA", raising=False)
    pytester.plugins = ["pmilter.testing.plugin"]
    return pytester


def run(project: pytest.Pytester) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:cacheprovider", "-rs", "--strict-markers")


def test_missing_mta_skips_and_says_what_to_install(
    outside: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMILTER_SENDMAIL", "/nonexistent")
    outside.makepyfile(USES_SENDMAIL)
    result = run(outside)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED *Sendmail is not there: *tools/install-mtas.sh*"])


def test_missing_mta_fails_where_it_is_required(
    outside: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMILTER_SENDMAIL", "/nonexistent")
    monkeypatch.setenv("PMILTER_REQUIRE_MTA", "1")
    outside.makepyfile(USES_SENDMAIL)
    result = run(outside)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["PMILTER_REQUIRE_MTA is set, but: Sendmail is not there: *"])


@pytest.mark.mta
@pytest.mark.parametrize("name", ["postfix", "sendmail"])
def test_factory_starts_as_many_as_asked_for(
    request: pytest.FixtureRequest, outside: pytest.Pytester, name: str
) -> None:
    request.getfixturevalue(name)  # skips where it is missing
    outside.makepyfile(f"""
        def test_mine({name}):
            one, two = {name}(), {name}(default_action="accept")
            assert one.name == "{name}"
            assert one.smtp_address != two.smtp_address
            for mta in one, two:
                assert mta.send(b"Subject: hello\\n\\nhello\\n").code == 250
                assert mta.delivered()[0].body == b"hello\\r\\n"
    """)
    run(outside).assert_outcomes(passed=1)


@pytest.mark.mta
@pytest.mark.parametrize("name", ["postfix", "sendmail"])
def test_failed_test_shows_the_log_and_leaves_nothing(
    request: pytest.FixtureRequest, outside: pytest.Pytester, name: str
) -> None:
    request.getfixturevalue(name)
    outside.makepyfile(f"""
        def test_mine({name}):
            mta = {name}()
            mta.send(b"Subject: hello\\n\\nhello\\n")
            mta.delivered()
            print("directory", mta.directory)
            assert False
    """)
    result = run(outside)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*Captured {name} log teardown*", "*from=<a@example.com>*"])
    [directory] = [line.split()[1] for line in result.outlines if line.startswith("directory ")]
    assert not Path(directory).exists()


def test_plugin_loads_neither_the_rigs_nor_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import pmilter.testing.plugin; "
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    monkeypatch.setenv("PYTHONPATH", SOURCES, prepend=os.pathsep)
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= {"pmilter", "pmilter.testing", "pmilter.testing.plugin"}
