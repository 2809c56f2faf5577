from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter import Milter
from pmilter.errors import ConfigError
from pmilter.sendmailcf import MAX_SIZE, class_members, find_connection, find_option, read_lines

DEBIAN = str(Path(__file__).parent / "data" / "sendmailcf" / "debian.cf")


def write(tmp_path: Path, text: str | bytes, name: str = "sendmail.cf") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# --- as m4 makes it


def test_filters_of_a_generated_file_are_found() -> None:
    assert find_connection("tagger", DEBIAN) == "inet:8891@127.0.0.1"
    assert find_connection("second", DEBIAN) == "local:/run/second/socket"


def test_a_filter_that_is_not_there_is_none() -> None:
    assert find_connection("third", DEBIAN) is None


def test_options_of_a_generated_file_are_found_whole() -> None:
    assert find_option("InputMailFilters", DEBIAN) == "tagger, second"
    assert find_option("Milter.macros.envfrom", DEBIAN) == "i, {mail_addr}, {client_addr}"
    assert find_option("aliasfile", DEBIAN) == "/etc/mail/aliases"
    assert find_option("NoSuchOption", DEBIAN) is None


def test_classes_of_a_generated_file_have_all_their_lines() -> None:
    assert class_members("w", DEBIAN) == ["localhost", "example.test", "mail.example.test"]
    assert class_members("{w}", DEBIAN) == class_members("w", DEBIAN)
    assert class_members("VirtHost", DEBIAN) == ["virtual.example.test"]


def test_milter_methods_use_the_file_that_was_set() -> None:
    milter = Milter()
    assert milter.get_sendmail_cf() == "/etc/mail/sendmail.cf"
    milter.set_sendmail_cf(DEBIAN)
    assert milter.get_sendmail_cf() == DEBIAN
    assert milter.auto_getconn("tagger") == "inet:8891@127.0.0.1"
    assert milter.get_sendmail_class("VirtHost") == ["virtual.example.test"]
    assert milter.get_sendmail_option("InputMailFilters") == "tagger, second"
    milter.set_sendmail_cf(None)
    assert milter.get_sendmail_cf() == "/etc/mail/sendmail.cf"


def test_auto_setconn_listens_where_the_file_says(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    config = write(tmp_path, f"Xmine, F=T, S=local:{socket}\n")
    milter = Milter()
    milter.on("eom")(lambda _: None)
    milter.auto_setconn("mine", config)
    assert milter.address == f"unix:{socket}"
    milter.stop()
    milter.main()


def test_auto_setconn_of_an_unknown_filter_names_it_and_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, "Xother, S=inet:1@h\n")
    with pytest.raises(ConfigError, match="mine") as caught:
        Milter().auto_setconn("mine", config)
    assert caught.value.source == config


# --- awkward X lines


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("Xa, S=local:/run/a", "local:/run/a"),
        ("Xa,S=inet:3@h,F=T", "inet:3@h"),
        ("Xa, F=T, T=C:1m;E:5m, S=inet:1@h", "inet:1@h"),
        ("Xa, F=, S=inet:2@h", "inet:2@h"),
        ("Xa , S=inet:4@h", "inet:4@h"),
        ("Xa, S=inet:6@h , F=T", "inet:6@h"),
        ("Xa, S = inet:7@h", "inet:7@h"),
        ("Xa, Socket=inet:8@h", "inet:8@h"),
        ("Xa, F=T,\n\tS=inet:9@h", "inet:9@h"),
        ("Xa, F=T\nXa, S=inet:10@h", "inet:10@h"),
        ("Xa, S=inet:11@h\nXa, S=inet:12@h", "inet:11@h"),
        ("Xa, S=inet:13@h, S=inet:14@h", "inet:13@h"),
        ("#Xa, S=inet:15@h\nXa, S=inet:16@h", "inet:16@h"),
        ("Xab, S=inet:17@h\nXa, S=inet:18@h", "inet:18@h"),
        ("Xa, S=inet:19@h\r", "inet:19@h"),
        ("Xa, S=inet:20@h   ", "inet:20@h"),
        ("Xa", None),
        ("Xa, F=T", None),
        ("Xa, S=", None),
        ("Xa, s=inet:1@h", None),
        (" Xa, S=inet:1@h", None),
        ("XA, S=inet:1@h", None),
        ("", None),
    ],
)
def test_a_filters_address_is_read_as_sendmail_reads_it(
    tmp_path: Path, line: str, address: str | None
) -> None:
    assert find_connection("a", write(tmp_path, line + "\n")) == address


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
VALUES = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="@:/;"), min_size=1
)


@given(st.dictionaries(NAMES, VALUES, min_size=1), st.sampled_from([", ", ",", " , ", ",\n  "]))
def test_what_is_written_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, filters: dict[str, str], comma: str
) -> None:
    text = "".join(f"X{name}{comma}F=T{comma}S={value}\n" for name, value in filters.items())
    path = write(tmp_path_factory.mktemp("cf"), text)
    assert {name: find_connection(name, path) for name in filters} == filters


# --- options


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("O Name=value", "value"),
        ("O Name = a value ", "a value"),
        ("O name=value", "value"),
        ("O Name=", ""),
        ("O Name", ""),
        ("O Name=one\n  two", "one two"),
        ("O Name=1\nO Name=2", "1"),
        ("O NameX=1", None),
        ("OName=1", None),
        ("#O Name=1", None),
    ],
)
def test_an_options_value_is_its_whole_text(tmp_path: Path, line: str, value: str | None) -> None:
    assert find_option("Name", write(tmp_path, line + "\n")) == value


def test_old_short_options_go_by_their_letter(tmp_path: Path) -> None:
    path = write(tmp_path, "OA/etc/aliases\nOa5\n")
    assert find_option("A", path) == "/etc/aliases"
    assert find_option("a", path) == "5"


# --- classes


def test_class_words_are_in_file_order_each_once(tmp_path: Path) -> None:
    path = write(tmp_path, "Cwb a\nC{w}c b\nCw\n  d e\nCxz\nC{ww}y\n")
    assert class_members("w", path) == ["b", "a", "c", "d", "e"]


def test_class_names_are_no_patterns(tmp_path: Path) -> None:
    path = write(tmp_path, "Cwa\nC.b\n")
    assert class_members(".", path) == ["b"]


def test_a_class_file_gives_the_first_word_of_each_line(tmp_path: Path) -> None:
    members = write(tmp_path, "one 1\n# no\n\ntwo\none\n", "members")
    path = write(tmp_path, f"Fw{members}\nFw {members}\n")
    assert class_members("w", path) == ["one", "two"]


def test_a_class_file_with_the_usual_format_gives_all_words_before_a_hash(tmp_path: Path) -> None:
    members = write(tmp_path, "one two # three\n#four\n five\n", "members")
    path = write(tmp_path, f"Fw-o {members} %[^\\#]\n")
    assert class_members("w", path) == ["one", "two", "five"]


def test_an_optional_class_file_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, f"Cwhere\nFw-o {tmp_path}/none\nF{{w}}-o {tmp_path}/none %[^\\#]\n")
    assert class_members("w", path) == ["here"]


def test_a_missing_class_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path, f"Fw{tmp_path}/none\n")
    with pytest.raises(ConfigError, match=r"none.*No such file"):
        class_members("w", path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Fw|/bin/list", "program"),
        ("Fw-o |/bin/list", "program"),
        ("Fw@ldap:-k x", "map"),
        ("Fwkey@hash:/etc/x", "map"),
        ("Fwhash:/etc/x", "map"),
        ("Fw/etc/x %d", "format"),
    ],
)
def test_classes_from_elsewhere_are_refused_with_the_line(
    tmp_path: Path, line: str, words: str
) -> None:
    path = write(tmp_path, f"# a comment\n{line}\n")
    with pytest.raises(ConfigError, match=words) as caught:
        class_members("w", path)
    assert (caught.value.source, caught.value.line) == (path, 2)


# --- files


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = str(tmp_path / "none.cf")
    for look_up in (find_connection, find_option, class_members):
        with pytest.raises(ConfigError, match=r"none\.cf") as caught:
            look_up("w", path)
        assert caught.value.source == path


def test_a_directory_and_a_name_with_a_nul_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        find_connection("a", str(tmp_path))
    with pytest.raises(ConfigError):
        find_connection("a", "/etc/\0")


def test_eight_bit_and_nul_bytes_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, b"Xa, S=local:/run/\xe9\0\nCw\xc3\xa9t\xc3\xa9\n")
    assert find_connection("a", path) == "local:/run/\udce9\0"
    assert class_members("w", path) == ["été"]


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.cf"
    with path.open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    with pytest.raises(ConfigError, match="larger"):
        find_option("A", str(path))


def test_logical_lines_have_the_number_of_their_first(tmp_path: Path) -> None:
    path = write(tmp_path, "\n  stray\n#c\nCa\n  b\nDx\n")
    assert [(line.number, line.text) for line in read_lines(path)] == [
        (2, "  stray"),
        (4, "Ca b"),
        (6, "Dx"),
    ]
