from __future__ import annotations

from dataclasses import dataclass, field

import click
from click.testing import CliRunner

from pmilter.cli.options import Option, option, option_table, with_settings


def _even(text: str) -> int:
    if int(text) % 2:
        raise ValueError(f"{text} is odd; give an even number")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    size: int | None = field(
        default=None, metadata=option("-s", "--size", help="How large.", metavar="N", parse=_even)
    )
    colour: str = field(
        default="red", metadata=option("--colour", help="Which.", choices=("red", "green"))
    )


@click.command("paint")
@click.argument("wall")
@with_settings(Settings)
def paint(wall: str, settings: Settings) -> None:
    click.echo(f"{wall} {settings!r}")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(paint, arguments)
    return result.exit_code, result.output


def test_defaults_are_those_of_the_fields() -> None:
    assert run("north") == (0, "north Settings(size=None, colour='red')\n")


def test_values_are_parsed_by_the_settings_own_parser() -> None:
    assert run("north", "-s", "4", "--colour", "GREEN") == (
        0,
        "north Settings(size=4, colour='green')\n",
    )


def test_parsers_error_is_the_message() -> None:
    status, output = run("north", "--size", "3")

    assert status == 2
    assert "3 is odd; give an even number" in output


def test_value_that_is_no_choice_is_refused() -> None:
    status, output = run("north", "--colour", "blue")

    assert status == 2
    assert "'red', 'green'" in output


def test_help_shows_flags_names_and_defaults() -> None:
    _, output = run("--help")

    assert "-s, --size N" in output
    assert "--colour [red|green]" in output
    assert "[default: red]" in output


def test_table_lists_name_record_and_default() -> None:
    assert option_table(Settings) == [
        ("size", Option(("-s", "--size"), "How large.", "N", _even), None),
        ("colour", Option(("--colour",), "Which.", choices=("red", "green")), "red"),
    ]
