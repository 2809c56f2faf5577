from __future__ import annotations

import json
import os
import pwd
import sys
from pathlib import Path

import pytest

from pmilter import ConfigError, Milter, drop_privileges
from pmilter.cli.app import AppName, load_app, parse_app
from tests.support.processes import in_child

FILTER = """\
from pmilter import Milter

milter = Milter("first")
other = Milter("second")


@milter.on("eom")
@other.on("eom")
def eom(ctx):
    pass
"""


def write(directory: Path, text: str, name: str = "myfilter.py") -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


# --- names


@pytest.mark.parametrize(
    ("text", "place", "attribute", "is_file"),
    [
        ("filters", "filters", "milter", False),
        ("mail.filters:tagger", "mail.filters", "tagger", False),
        ("tagger.py", "tagger.py", "milter", True),
        ("./sub/tagger.py:mine", "./sub/tagger.py", "mine", True),
        ("odd:dir/tagger.py", "odd:dir/tagger.py", "milter", True),
    ],
)
def test_name_is_taken_apart(text: str, place: str, attribute: str, is_file: bool) -> None:
    name = parse_app(text)

    assert name == AppName(place, attribute)
    assert name.is_file is is_file


@pytest.mark.parametrize("text", ["", ":milter", "module:", "module:two words", "module:a.b"])
def test_bad_name_is_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(ConfigError, match=r"module:attribute or path/to/file\.py:attribute"):
        parse_app(text)


# --- loading


def test_file_gives_its_milter(tmp_path: Path) -> None:
    assert load_app(write(tmp_path, FILTER)).name == "first"


def test_attribute_chooses_another_one(tmp_path: Path) -> None:
    assert load_app(write(tmp_path, FILTER) + ":other").name == "second"


def test_module_is_found_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, FILTER, "from_here.py")
    monkeypatch.chdir(tmp_path)

    assert load_app("from_here:other").name == "second"


def test_relative_path_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, FILTER)
    monkeypatch.chdir(tmp_path)

    assert load_app("myfilter.py").name == "first"


def test_modules_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    write(tmp_path, FILTER, "beside.py")

    assert load_app(write(tmp_path, "from beside import milter")).name == "first"


def test_code_under_the_guard_does_not_run(tmp_path: Path) -> None:
    guarded = FILTER + '\nif __name__ == "__main__":\n    raise SystemExit("run")\n'

    assert load_app(write(tmp_path, guarded)).name == "first"


def test_file_may_have_the_name_of_a_module_in_use(tmp_path: Path) -> None:
    assert load_app(write(tmp_path, FILTER, "json.py")).name == "first"
    assert sys.modules["json"] is json


def test_file_whose_name_is_no_identifier_works(tmp_path: Path) -> None:
    assert load_app(write(tmp_path, FILTER, "my-filter.v2.py")).name == "first"


@pytest.mark.parametrize("name", ["script", "filter.txt", "filter.v2"])
def test_file_may_have_any_suffix_or_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, FILTER, name)
    monkeypatch.chdir(tmp_path)

    assert load_app(path).name == "first"
    assert load_app(f"./{name}:other").name == "second"
    assert load_app(name).name == "first"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_package_is_a_module_though_it_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filters").mkdir()
    write(tmp_path, FILTER, "filters/__init__.py")
    monkeypatch.chdir(tmp_path)

    assert load_app("filters").name == "first"


# --- what can be wrong with it


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/gone\.py: no such file"):
        load_app(str(tmp_path / "gone.py"))


def test_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory, not a file: name the file"):
        load_app(f"{tmp_path}/")


@pytest.mark.parametrize("name", [".", "..", "two-words"])
def test_directory_whose_name_is_no_modules_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "two-words").mkdir()
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match="is a directory, not a file") as caught:
        load_app(name)
    assert str(caught.value).startswith(f"{name}: ")


def test_what_is_no_regular_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="/dev/null: no regular file"):
        load_app("/dev/null")


def test_file_that_may_not_be_read_is_told_with_the_user(tmp_path: Path) -> None:
    path = Path(write(tmp_path, FILTER))
    path.chmod(0)

    def work() -> None:
        if os.geteuid() == 0:
            drop_privileges("nobody")
        user = pwd.getpwuid(os.geteuid()).pw_name
        with pytest.raises(ConfigError, match=rf"myfilter\.py: user {user} may not read it"):
            load_app(str(path))

    in_child(work)


def test_missing_module_is_named_with_the_remedy() -> None:
    with pytest.raises(
        ConfigError, match="no module 'no_such_filter'; run pmilter in its directory"
    ):
        load_app("no_such_filter")


def test_missing_attribute_names_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, FILTER)

    with pytest.raises(ConfigError) as caught:
        load_app(f"{path}:nothing")

    assert str(caught.value) == f"{path} has no 'nothing'; write {path}:milter or {path}:other"


def test_program_without_a_milter_is_told_to_define_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no 'milter'; define milter = pmilter\.Milter"):
        load_app(write(tmp_path, "pass"))


def test_attribute_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no Milter but of type function"):
        load_app(write(tmp_path, FILTER) + ":eom")


def test_milter_without_callbacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no callbacks: define some with @milter\.on"):
        load_app(write(tmp_path, "import pmilter\nmilter = pmilter.Milter()"))


@pytest.mark.parametrize(
    ("program", "line", "reason"),
    [
        (
            "x = 1\nimport no_such_module_here\n",
            2,
            "there is no module 'no_such_module_here'; install",
        ),
        ("x = 1\n\nif x\n", 3, "SyntaxError: "),
        ("def f():\n    return y\n\nf()\n", 2, "NameError: name 'y' is not defined"),
        ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError: "),
        ("open('/no/such/file')\n", 1, "FileNotFoundError: "),
        ("import sys\nsys.exit('bye')\n", 2, "it exits while it is loaded"),
        ("from pmilter import Milter\nMilter().on('emo')\n", 2, "unknown stage 'emo'"),
    ],
    ids=["import", "syntax", "name", "library", "file", "exit", "misuse"],
)
def test_program_that_cannot_be_imported_is_named_with_the_line(
    tmp_path: Path, program: str, line: int, reason: str
) -> None:
    path = write(tmp_path, program)

    with pytest.raises(ConfigError) as caught:
        load_app(path)

    assert str(caught.value).startswith(f"cannot load {path}, line {line}: ")
    assert reason in str(caught.value)
    assert (caught.value.source, caught.value.line) == (path, line)
    assert "myfilter" not in sys.modules


def test_error_in_a_module_beside_it_names_that_one(tmp_path: Path) -> None:
    beside = write(tmp_path, "1 / 0\n", "broken_beside.py")

    with pytest.raises(ConfigError, match=r"ZeroDivisionError") as caught:
        load_app(write(tmp_path, "import broken_beside\n"))

    assert (caught.value.source, caught.value.line) == (beside, 1)


@pytest.mark.parametrize(
    "call", ["milter.main()", "try:\n    milter.main()\nexcept Exception:\n    pass"]
)
def test_main_at_import_is_refused_and_explained(tmp_path: Path, call: str) -> None:
    main = Milter.main

    with pytest.raises(ConfigError, match='if __name__ == "__main__":'):
        load_app(write(tmp_path, f"{FILTER}\n{call}\n"))

    assert Milter.main is main


def test_socket_that_cannot_be_opened_at_import_is_the_systems_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing/socket"

    with pytest.raises(FileNotFoundError, match="make it first"):
        load_app(write(tmp_path, f"{FILTER}\nmilter.setconn('unix:{missing}')\n"))
