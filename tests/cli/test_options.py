from __future__ import annotations

from dataclasses import dataclass, field

import click
import pytest
from click.testing import CliRunner

from pmilter.cli.options import (
    Option,
    Setting,
    SettingsCommand,
    option,
    option_table,
    with_settings,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    size: int | None = field(
        default=None,
        metadata=option("-s", "--brush-size", help="How large.", metavar="N", parse=int),
    )
    colour: str = field(
        default="red",
        metadata=option(
            "--colour", help="Which.", choices=("red", "green"), heading="Look and feel"
        ),
    )
    coats: tuple[str, ...] = field(
        default=(), metadata=option("--coat", help="One more.", repeated=True)
    )
    gloss: bool | None = field(default=None, metadata=option("--gloss", help="Shine.", switch=True))
    time: float | None = field(
        default=None, metadata=option("--time", help="How long.", otherwise="an hour")
    )


@click.command("paint", cls=SettingsCommand, table=option_table(Settings))
@click.argument("wall")
@with_settings(Settings)
@click.option("--twice", is_flag=True, help="Again.")
def paint(wall: str, typed: dict[str, object], *, twice: bool) -> None:
    click.echo(f"{wall} {typed} {twice}")


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(paint, arguments)
    return result.exit_code, result.output


def test_what_is_not_typed_is_not_there() -> None:
    assert run("north") == (0, "north {} False\n")


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (("-s", "4"), {"size": "4"}),
        (("--brush-size", "four"), {"size": "four"}),
        (("--coat", "a", "--coat", "b"), {"coats": ("a", "b")}),
        (("--gloss",), {"gloss": True}),
        (("--no-gloss",), {"gloss": False}),
        (("--colour", "GREEN"), {"colour": "GREEN"}),
    ],
)
def test_what_is_typed_is_given_as_it_stands(
    arguments: tuple[str, ...], typed: dict[str, object]
) -> None:
    assert run("north", *arguments) == (0, f"north {typed} False\n")


def test_help_lists_settings_under_their_headings_with_flags_forms_and_defaults() -> None:
    _, output = run("--help")

    head, _, rest = output.partition("Look and feel:")
    look, _, other = rest.partition("Other options:")
    assert "-s, --brush-size N" in head
    assert "--colour [red|green]" in look
    assert "[default: red]" in look
    assert "--gloss / --no-gloss" in output
    assert "[default: an hour]" in output
    assert "--twice" in other


def test_table_lists_name_record_and_default() -> None:
    assert option_table(Settings)[0] == Setting(
        "size", Option(("-s", "--brush-size"), "How large.", "N", int), None
    )
    assert [setting.name for setting in option_table(Settings)] == [
        "size",
        "colour",
        "coats",
        "gloss",
        "time",
    ]


def test_every_option_has_a_flag_a_key_and_a_variable() -> None:
    record = option_table(Settings)[0].option

    assert (record.flag, record.key, record.variable) == (
        "--brush-size",
        "brush-size",
        "PMILTER_BRUSH_SIZE",
    )
