"""One value from the command line, the environment or a file; each gives the same value, or the same error with its own place."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import ConfigError, drop_privileges
from pmilter.cli.options import option
from pmilter.cli.sources import Sources, differences
from tests.support.processes import in_child

if TYPE_CHECKING:
    from pathlib import Path


def _even(text: str) -> int:
    if not text.isdigit() or int(text) % 2:
        raise ValueError(f"{text!r} is no even number")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    size: int = field(
        default=2, metadata=option("-s", "--brush-size", help="", parse=_even, kinds=(int, str))
    )
    colour: str | None = field(
        default=None, metadata=option("--colour", help="", choices=("red", "green"))
    )
    coats: tuple[int, ...] = field(
        default=(),
        metadata=option("--coat", help="", parse=_even, kinds=(int, str), repeated=True),
    )
    thickness: float | None = field(
        default=None, metadata=option("--thickness", help="", parse=float, kinds=(int, float))
    )
    gloss: bool | None = field(default=None, metadata=option("--gloss", help="", switch=True))


class Given:
    """The three places."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "paint.toml"

    def read(
        self,
        typed: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        text: str | None = None,
    ) -> Settings:
        if text is not None:
            self.file.write_text(text)
        path = None if text is None else self.file
        return Sources(Settings, typed or {}, environ or {}, path).read()


@pytest.fixture
def given(tmp_path: Path) -> Given:
    return Given(tmp_path)


def test_nothing_given_leaves_the_defaults(given: Given) -> None:
    assert given.read(text="") == Settings()


@pytest.mark.parametrize(
    ("typed", "environ", "text", "size"),
    [
        ({"size": "4"}, {"PMILTER_BRUSH_SIZE": "6"}, "brush-size = 8", 4),
        ({}, {"PMILTER_BRUSH_SIZE": "6"}, "brush-size = 8", 6),
        ({}, {"PMILTER_BRUSH_SIZE": ""}, "brush-size = 8", 8),
        ({}, {}, "", 2),
    ],
    ids=["typed", "environment", "file", "default"],
)
def test_command_line_goes_before_environment_before_file_before_default(
    given: Given, typed: dict[str, Any], environ: dict[str, str], text: str, size: int
) -> None:
    assert given.read(typed, environ, text).size == size


@pytest.mark.parametrize("text", ["brush-size = 8", "brush_size = 8", "brush-size = '8'"])
def test_keys_are_the_long_names_with_either_stroke(given: Given, text: str) -> None:
    assert given.read(text=text).size == 8


@pytest.mark.parametrize(
    ("typed", "environ", "text"),
    [
        ({"coats": ("2", "4")}, {}, ""),
        ({}, {"PMILTER_COAT": "2 4"}, ""),
        ({}, {"PMILTER_COAT": " 2, 4 "}, ""),
        ({}, {}, "coat = [2, '4']"),
    ],
)
def test_what_can_be_repeated_is_repeated_everywhere(
    given: Given, typed: dict[str, Any], environ: dict[str, str], text: str
) -> None:
    assert given.read(typed, environ, text).coats == (2, 4)


def test_single_value_in_a_file_needs_no_list(given: Given) -> None:
    assert given.read(text="coat = 2").coats == (2,)


@pytest.mark.parametrize(
    ("typed", "environ", "text", "gloss"),
    [
        ({"gloss": True}, {}, "gloss = false", True),
        ({"gloss": False}, {"PMILTER_GLOSS": "yes"}, "", False),
        ({}, {"PMILTER_GLOSS": "Yes"}, "", True),
        ({}, {"PMILTER_GLOSS": "0"}, "gloss = true", False),
        ({}, {}, "gloss = true", True),
    ],
)
def test_switches_are_on_or_off_everywhere(
    given: Given, typed: dict[str, Any], environ: dict[str, str], text: str, gloss: bool
) -> None:
    assert given.read(typed, environ, text).gloss is gloss


def test_choice_may_be_in_any_case(given: Given) -> None:
    assert given.read({"colour": "GREEN"}).colour == "green"


@pytest.mark.parametrize(
    ("typed", "environ", "text", "place"),
    [
        ({"size": "3"}, {}, "", "--brush-size"),
        ({}, {"PMILTER_BRUSH_SIZE": "3"}, "", "PMILTER_BRUSH_SIZE"),
        ({}, {}, "# large\n\nbrush_size = 3", "{file}, line 3: brush_size"),
        ({}, {}, "'brush-size' = '3'", "{file}, line 1: brush-size"),
    ],
)
def test_same_error_everywhere_with_the_place_where_the_text_stands(
    given: Given, typed: dict[str, Any], environ: dict[str, str], text: str, place: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        given.read(typed, environ, text)

    assert str(caught.value) == f"{place.format(file=given.file)}: '3' is no even number"


@pytest.mark.parametrize(
    ("environ", "text", "told"),
    [
        ({}, "colour = 'blue'", "line 1: colour: 'blue' is not one of red, green"),
        ({"PMILTER_COLOUR": "blue"}, "", "PMILTER_COLOUR: 'blue' is not one of red, green"),
        ({"PMILTER_GLOSS": "rather"}, "", "PMILTER_GLOSS: 'rather' is neither true nor false"),
        (
            {},
            "colour = 1",
            'line 1: colour: a whole number does not fit, it must be text: write "1"',
        ),
        (
            {},
            "colour =0o17 # odd",
            'colour: a whole number does not fit, it must be text: write "0o17"',
        ),
        (
            {},
            "brush-size = 4.5",
            "brush-size: a number does not fit, it must be a whole number or text",
        ),
        ({}, "thickness = 'x'", "thickness: text does not fit, it must be a number"),
        (
            {},
            "coat = []",
            "coat: an empty list would be the same as no such line, and restrict nothing",
        ),
        (
            {},
            "brush-size = true",
            "brush-size: true or false does not fit, it must be a whole number",
        ),
        (
            {},
            "brush-size = [2]",
            "brush-size: a list does not fit, it must be a whole number or text",
        ),
        ({}, "gloss = 'yes'", "gloss: text does not fit, it must be true or false"),
        ({}, "coat = [2, {}]", "coat: a table does not fit, it must be a whole number or text"),
        ({}, "colour = 1979-05-27", "colour: a date or time does not fit, it must be text"),
        ({}, "\n[colour]\nred = 1", "line 2: colour: a table does not fit"),
        ({}, "\ncolor = 'red'", "line 2: there is no key 'color'; the nearest is 'colour'"),
        ({}, "nosuch = 1", "line 1: there is no key 'nosuch'"),
        ({}, "json = true", "there is no key 'json': --json belongs on the command line"),
        ({}, "config = 'x'", "there is no key 'config': --config belongs on the command line"),
        ({}, "[coats]\na = 1", "line 1: there is no key 'coats'; the nearest is 'coat'"),
        ({}, "colour 'red'", "is no TOML file: "),
    ],
)
def test_what_is_wrong_in_a_file_or_variable_is_told_in_one_line(
    given: Given, environ: dict[str, str], text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        given.read(environ=environ, text=text)

    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert environ or str(given.file) in str(caught.value)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        Sources(Settings, {}, {}, tmp_path / "none.toml").read()


def test_file_that_is_not_utf8_is_no_toml(given: Given) -> None:
    given.file.write_bytes(b"colour = '\xff'")

    with pytest.raises(ConfigError, match="is no TOML file"):
        Sources(Settings, {}, {}, given.file).read()


def test_file_that_may_not_be_read_is_the_callers_to_judge(given: Given) -> None:
    given.file.touch(0)

    def work() -> None:
        if os.geteuid() == 0:
            drop_privileges("nobody")
        with pytest.raises(PermissionError):
            Sources(Settings, {}, {}, given.file).read()

    in_child(work)


def test_differences_are_the_settings_that_have_changed() -> None:
    changed = differences(Settings(), Settings(size=4, gloss=True))

    assert [setting.name for setting in changed] == ["size", "gloss"]
