from __future__ import annotations

import os
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


@pytest.fixture
def relocated(tmp_path: Path) -> str:
    """The generated file with its class files looked for in `tmp_path`, not on this machine."""
    text = Path(DEBIAN).read_text(encoding="utf-8")
    return write(tmp_path, text.replace("/etc/mail/", f"{tmp_path}/"))


def test_classes_of_a_generated_file_have_all_their_lines(relocated: str) -> None:
    assert class_members("w", relocated) == ["localhost", "example.test", "mail.example.test"]
    assert class_members("{w}", relocated) == class_members("w", relocated)
    assert class_members("VirtHost", relocated) == ["virtual.example.test"]
    assert class_members("t", relocated) == ["root", "daemon", "uucp"]
    assert class_members("O", relocated) == ["@", "%", "!"]
    assert class_members("[", relocated) == ["["]


def test_class_files_of_a_generated_file_are_read_by_their_formats(
    tmp_path: Path, relocated: str
) -> None:
    write(tmp_path, "# ours\none.example.test two.example.test # both\n", "local-host-names")
    write(tmp_path, "relay.example.test\nother.example.test second word\n", "relay-domains")
    assert class_members("w", relocated) == [
        "localhost",
        "one.example.test",
        "two.example.test",
        "example.test",
        "mail.example.test",
    ]
    assert class_members("R", relocated) == [
        "relay.example.test",
        "other.example.test",
        "virtual.example.test",
    ]


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
        ("Xa S=inet:21@h", "inet:21@h"),
        ("Xa,, , S=inet:22@h,", "inet:22@h"),
        ("Xa, F=T # was S=inet:1@h\n\t, S=inet:23@h # new", "inet:23@h"),
        ("Xa, F=T,\n # S=inet:1@h,\n S=inet:24@h", "inet:24@h"),
        ('Xa, S="local:/run/a,b", F=T', "local:/run/a,b"),
        ("Xa, S=local:/run/a\\,b, F=T", "local:/run/a,b"),
        ('Xa, S="local:/run/a, F=T', "local:/run/a, F=T"),
        ("Xa, S=local:/run/a\\#b", "local:/run/a#b"),
        ("Xa, S=\nXa, S=inet:25@h", "inet:25@h"),
        ("# a comment\n goes on\nXa, S=inet:26@h", "inet:26@h"),
        ("Xa, junk, S=inet:1@h", None),
        ("# Xb\n Xa, S=inet:1@h", None),
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
COMMAS = st.sampled_from([", ", ",", " , ", ",\n  ", ", ,", " # S=no, F=no\n\t,"])
EQUALS = st.sampled_from(["=", " = ", "ocket=", "= "])
FIELDS = st.lists(st.tuples(st.sampled_from("FSTs"), VALUES | st.just("")), max_size=5)


@given(st.lists(st.tuples(NAMES, FIELDS), max_size=6), st.data())
def test_what_is_written_is_found_again(
    tmp_path_factory: pytest.TempPathFactory,
    filters: list[tuple[str, list[tuple[str, str]]]],
    data: st.DataObject,
) -> None:
    text = ""
    expected: dict[str, str | None] = {}
    for name, fields in filters:
        text += f"X{name}"
        for key, value in fields:
            text += f"{data.draw(COMMAS)}{key}{data.draw(EQUALS)}{value}"
            if key == "S" and not expected.get(name):
                expected[name] = value or None
        text += "\n"
        expected.setdefault(name, None)
    path = write(tmp_path_factory.mktemp("cf"), text)
    assert {name: find_connection(name, path) for name in expected} == expected


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
        ("O Name=1 # one", "1"),
        ("O Name=$j $v/$Z; $#x \\#1 # greeting", "$j $v/$Z; $#x #1"),
        ("O  Name   =   a=b", "a=b"),
        ("O Name.sub=1", None),
    ],
)
def test_an_options_value_is_its_whole_text(tmp_path: Path, line: str, value: str | None) -> None:
    assert find_option("Name", write(tmp_path, line + "\n")) == value


def test_old_short_options_go_by_their_letter(tmp_path: Path) -> None:
    path = write(tmp_path, "OA/etc/aliases\nOa5\n")
    assert find_option("A", path) == "/etc/aliases"
    assert find_option("a", path) == "5"


def test_a_letter_and_its_long_name_are_the_same_option(tmp_path: Path) -> None:
    path = write(tmp_path, "OA/etc/aliases\nO LogLevel=9\nOQ/var/spool/mqueue\n")
    assert find_option("AliasFile", path) == "/etc/aliases"
    assert find_option("L", path) == "9"
    assert find_option("queuedirectory", path) == "/var/spool/mqueue"
    assert find_option("QueueFactor", path) is None


def test_an_option_may_have_a_part_after_a_dot(tmp_path: Path) -> None:
    path = write(tmp_path, "O Timeout.ident=5s\nO Timeout.queuereturn=5d\n")
    assert find_option("Timeout.QueueReturn", path) == "5d"


# --- classes


def test_class_words_are_in_file_order_each_once(tmp_path: Path) -> None:
    path = write(tmp_path, "Cwb a\nC{w}c b\nCw\n  d e\nCxz\nC{ww}y\n")
    assert class_members("w", path) == ["b", "a", "c", "d", "e"]


def test_class_lines_may_have_comments_and_escaped_hashes(tmp_path: Path) -> None:
    path = write(tmp_path, "Cw a # b\n # c\n d# e\n\tf\\#g\n# h\n i\n")
    assert class_members("w", path) == ["a", "d", "f#g"]


def test_class_words_are_divided_by_ascii_blanks_only(tmp_path: Path) -> None:
    members = write(tmp_path, "a\u00a0b c\u2028d\x1ce\n", "members")
    path = write(tmp_path, f"Cwa\u00a0b\x0bc\u2028d\x1ce\nFf{members} %[^\\#]\n")
    assert class_members("w", path) == ["a\u00a0b", "c\u2028d\x1ce"]
    assert class_members("f", path) == class_members("w", path)


def test_the_case_of_a_class_name_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "C{long}a\nC{Long}b\n")
    assert class_members("long", path) == ["a"]


def test_trusted_users_are_class_t(tmp_path: Path) -> None:
    path = write(tmp_path, "Troot daemon\nCt uucp\n")
    assert class_members("t", path) == ["root", "daemon", "uucp"]


def test_a_class_copied_into_another_gives_what_it_has_so_far(tmp_path: Path) -> None:
    path = write(tmp_path, "C{V}v1\nCmm1\nCR a $={V} $=m b\nC{V}v2\nCm$={R}\nCc$=c $={none} x\n")
    assert class_members("R", path) == ["a", "v1", "m1", "b"]
    assert class_members("m", path) == ["m1", "a", "v1", "b"]
    assert class_members("c", path) == ["x"]


def test_copying_a_class_into_itself_does_not_grow_it(tmp_path: Path) -> None:
    path = write(tmp_path, "Ca x y\n" + "Ca$=a $=a\n" * 200)
    assert class_members("a", path) == ["x", "y"]


def test_only_class_files_that_the_class_needs_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, f"Cw a\nFo{tmp_path}/none\nCw $=v\nFv{tmp_path}/none\n")
    assert class_members("w", path) == ["a"]


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


def test_other_characters_than_a_hash_may_end_the_text_of_a_class_file(tmp_path: Path) -> None:
    members = write(tmp_path, "one two, three\n# four, five\n:six\nseven#\n", "members")
    path = write(tmp_path, f"Fw{members} %[^,:]\n")
    assert class_members("w", path) == ["one", "two", "seven#"]


def test_tabs_and_quotes_and_escaped_blanks_in_class_lines(tmp_path: Path) -> None:
    members = write(tmp_path, "one two\n", "my members")
    escaped = members.replace(" ", "\\ ")
    path = write(tmp_path, f'Fw\t-o\t"{members}"\t%[^\\#]\nFx -o {escaped}\n')
    assert class_members("w", path) == ["one", "two"]
    assert class_members("x", path) == ["one"]


def test_an_optional_class_file_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, f"Cwhere\nFw-o {tmp_path}/none\nF{{w}}-o {tmp_path}/none %[^\\#]\n")
    assert class_members("w", path) == ["here"]


def test_a_missing_class_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path, f"Fw{tmp_path}/none\n")
    with pytest.raises(ConfigError, match=r"none.*No such file") as caught:
        class_members("w", path)
    assert (caught.value.source, caught.value.line) == (path, 1)


def test_an_optional_class_file_that_is_there_must_be_readable(tmp_path: Path) -> None:
    path = write(tmp_path, f"Cw a\nFw-o {tmp_path}\n")
    with pytest.raises(ConfigError, match=r"line 2: cannot read .*directory"):
        class_members("w", path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_optional_class_file_in_a_closed_directory_is_an_error(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    path = write(tmp_path, f"Fw-o {closed}/members\n")
    with pytest.raises(ConfigError, match="Permission denied"):
        class_members("w", path)


def test_a_class_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "members").open("wb") as file:
        file.truncate(MAX_SIZE + 1)
    path = write(tmp_path, f"Fw-o {tmp_path}/members\n")
    with pytest.raises(ConfigError, match="larger") as caught:
        class_members("w", path)
    assert (caught.value.source, caught.value.line) == (path, 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Fw|/bin/list", "program"),
        ("Fw-o |/bin/list", "program"),
        ("Fw@ldap:-k x", "map"),
        ("Fwkey@hash:/etc/x", "map"),
        ("Fwhash:/etc/x", "map"),
        ("Fw@LDAP", "map"),
        ("Fw-o", "no file"),
        ("Fw/etc/x %[a-z]", "format"),
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


def test_line_numbers_count_physical_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "# one\n  two\n\nCw a\n  b\nFw|five\n")
    with pytest.raises(ConfigError, match="line 6") as caught:
        class_members("w", path)
    assert caught.value.line == 6


@given(st.text('XCOTaw{}$=,# \t\n\r\v\0\\"\udce9é.:-%[^]', max_size=60))
def test_no_text_is_too_odd(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.mktemp("cf"), text.encode("utf-8", "surrogateescape"))
    find_connection("a", path)
    find_option("a", path)
    assert all(word and not set(word) & set(" \t\n\r\v") for word in class_members("w", path))


WORDS = st.lists(st.text("ab.-@é\x85", min_size=1, max_size=4), max_size=5)
BLANKS = st.sampled_from([" ", "\t", "\n ", " # no\n\t", "\r\n "])


@given(st.lists(st.tuples(st.sampled_from(["w", "{w}", "W", "{ww}"]), WORDS), max_size=6), BLANKS)
def test_written_classes_have_their_words(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, list[str]]], blank: str
) -> None:
    text = "".join(f"C{name}{blank}{blank.join(words)}\n" for name, words in lines)
    path = write(tmp_path_factory.mktemp("cf"), text)
    expected = [word for name, words in lines if name in ("w", "{w}") for word in words]
    assert class_members("w", path) == list(dict.fromkeys(expected))
