from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmilter import Address, ConfigError, parse_address

NONE = {"host": None, "port": None, "path": None, "name": None}


def parts(address: Address) -> dict[str, object]:
    return {part: getattr(address, part) for part in ("scheme", *NONE)}


@pytest.mark.parametrize(
    ("text", "canonical", "expected"),
    [
        ("local:/run/f.sock", "unix:/run/f.sock", {"scheme": "unix", "path": "/run/f.sock"}),
        ("unix:/run/f.sock", "unix:/run/f.sock", {"scheme": "unix", "path": "/run/f.sock"}),
        ("/run/f.sock", "unix:/run/f.sock", {"scheme": "unix", "path": "/run/f.sock"}),
        ("/run/a:b@c", "unix:/run/a:b@c", {"scheme": "unix", "path": "/run/a:b@c"}),
        ("UNIX:/run/F", "unix:/run/F", {"scheme": "unix", "path": "/run/F"}),
        ("inet:8891", "inet:8891", {"scheme": "inet", "host": "", "port": 8891}),
        (
            "inet:8891@127.0.0.1",
            "inet:8891@127.0.0.1",
            {"scheme": "inet", "host": "127.0.0.1", "port": 8891},
        ),
        (
            "INET:8891@mx.example.com",
            "inet:8891@mx.example.com",
            {"scheme": "inet", "host": "mx.example.com", "port": 8891},
        ),
        (
            "inet:127.0.0.1:8891",
            "inet:8891@127.0.0.1",
            {"scheme": "inet", "host": "127.0.0.1", "port": 8891},
        ),
        (
            "inet:localhost:8891",
            "inet:8891@localhost",
            {"scheme": "inet", "host": "localhost", "port": 8891},
        ),
        (
            "inet:[::1]:8891",
            "inet6:8891@[::1]",
            {"scheme": "inet6", "host": "::1", "port": 8891},
        ),
        ("inet6:8891", "inet6:8891", {"scheme": "inet6", "host": "", "port": 8891}),
        (
            "inet6:8891@::1",
            "inet6:8891@[::1]",
            {"scheme": "inet6", "host": "::1", "port": 8891},
        ),
        (
            "inet6:8891@[2001:db8::1]",
            "inet6:8891@[2001:db8::1]",
            {"scheme": "inet6", "host": "2001:db8::1", "port": 8891},
        ),
        (
            "inet6:8891@localhost",
            "inet6:8891@localhost",
            {"scheme": "inet6", "host": "localhost", "port": 8891},
        ),
        ("inet:smtp@127.0.0.1", "inet:smtp@127.0.0.1", {"host": "127.0.0.1", "port": "smtp"}),
        ("inet:0@127.0.0.1", "inet:0@127.0.0.1", {"host": "127.0.0.1", "port": 0}),
        ("inet:65535", "inet:65535", {"host": "", "port": 65535}),
        ("fd:milter", "fd:milter", {"scheme": "fd", "name": "milter"}),
    ],
)
def test_every_spelling_is_understood(
    text: str, canonical: str, expected: dict[str, object]
) -> None:
    address = parse_address(text)
    assert str(address) == canonical
    assert parts(address) == {**NONE, "scheme": address.scheme, **expected}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8891",
        "run/f.sock",
        "unix:run/f.sock",
        "unix:",
        "unix:/",
        "unix:/run/",
        "unix:/run/a\0b",
        "inet:",
        "inet:65536",
        "inet:99999999",
        "inet:-1",
        "inet:8891@",
        "inet:8891@[]",
        "inet:8891@a b",
        "inet:::1:8891",
        "inet:８８９１",  # noqa: RUF001  # digits of another script are meant
        "inet6:8891@192.0.2.1",
        "tcp:8891",
        "fd:",
        "fd:a b",
        "fd:a:b",
    ],
)
def test_error_shows_the_input_and_the_right_spelling(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)
    assert "inet:PORT@HOST" in str(caught.value)
    assert caught.value.source == text


@pytest.mark.parametrize("prefix", ["", "unix:", "local:"])
def test_path_of_107_bytes_is_the_longest(prefix: str) -> None:
    longest = "/" + "x" * 106
    assert parse_address(prefix + longest).path == longest
    with pytest.raises(ConfigError, match=r"108 bytes.* at most 107"):
        parse_address(f"{prefix}{longest}x")


def test_path_is_measured_in_bytes() -> None:
    with pytest.raises(ConfigError, match="109 bytes"):
        parse_address("/" + "ü" * 54)


def test_address_must_be_text() -> None:
    with pytest.raises(TypeError, match="address must be str, not int"):
        parse_address(8891)  # type: ignore[arg-type]  # that is the point


HOSTS = st.one_of(
    st.just(""),
    st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
)
ADDRESSES = st.one_of(
    st.builds(lambda p: Address.unix(f"/{p}"), st.from_regex(r"[a-z.:@]{1,50}", fullmatch=True)),
    st.builds(lambda p, h: Address.inet("inet", p, h), st.integers(0, 65535), HOSTS),
    st.builds(
        lambda p, h: Address.inet("inet6", p, str(h)),
        st.integers(0, 65535),
        st.ip_addresses(v=6),
    ),
    st.builds(Address.fd, st.from_regex(r"[a-z.-]{1,20}", fullmatch=True)),
)


@given(ADDRESSES)
def test_canonical_spelling_means_itself(address: Address) -> None:
    again = parse_address(str(address))
    assert (str(again), parts(again)) == (str(address), parts(address))


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError as error:
        source = error.source
    else:
        source = text
        assert parse_address(address) == address
    assert source == text


@pytest.mark.parametrize(
    ("text", "postfix"),
    [
        ("unix:/run/f.sock", "unix:/run/f.sock"),
        ("inet:8891@192.0.2.1", "inet:192.0.2.1:8891"),
        ("inet6:8891@::1", "inet:[::1]:8891"),
        ("inet:8891", "inet:127.0.0.1:8891"),
    ],
)
def test_postfix_spelling(text: str, postfix: str) -> None:
    assert parse_address(text).postfix == postfix


def test_postfix_spelling_means_the_same_address() -> None:
    for text in ("unix:/run/f.sock", "inet:8891@192.0.2.1", "inet6:8891@[::1]"):
        assert parse_address(parse_address(text).postfix) == text
