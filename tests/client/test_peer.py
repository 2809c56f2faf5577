from __future__ import annotations

from typing import Any

import pytest

from pmilter.client import POSTFIX, SENDMAIL, Dialect, parse_peer
from pmilter.errors import ConfigError

FRAMES = [
    (
        POSTFIX,
        ("mx.example.org", "192.0.2.10", 0xC000),
        b"mx.example.org\x004\xc0\x00192.0.2.10\x00",
    ),
    (
        SENDMAIL,
        ("mx.example.org", "192.0.2.10", 0xC000),
        b"mx.example.org\x004\xc0\x00192.0.2.10\x00",
    ),
    (POSTFIX, (None, "192.0.2.10", 1), b"[192.0.2.10]\x004\x00\x01192.0.2.10\x00"),
    (SENDMAIL, (None, "192.0.2.10", 1), b"[192.0.2.10]\x004\x00\x01192.0.2.10\x00"),
    (POSTFIX, ("v6.example", "2001:DB8:0::1", 1), b"v6.example\x006\x00\x012001:db8::1\x00"),
    (
        SENDMAIL,
        ("v6.example", "2001:db8::1", 1),
        b"v6.example\x006\x00\x01IPv6:2001:db8:0:0:0:0:0:1\x00",
    ),
    (POSTFIX, (None, "2001:db8::1", 1), b"[2001:db8::1]\x006\x00\x012001:db8::1\x00"),
    (
        SENDMAIL,
        (None, "IPv6:::1", 1),
        b"[IPv6:0:0:0:0:0:0:0:1]\x006\x00\x01IPv6:0:0:0:0:0:0:0:1\x00",
    ),
    (
        POSTFIX,
        ("mapped.example", "::ffff:192.0.2.10", 1),
        b"mapped.example\x004\x00\x01192.0.2.10\x00",
    ),
    (POSTFIX, "/run/mail.sock", b"localhost\x00L\x00\x00/run/mail.sock\x00"),
    (
        SENDMAIL,
        ("local.example", "/run/mail.sock"),
        b"local.example\x00L\x00\x00/run/mail.sock\x00",
    ),
    (POSTFIX, None, b"unknown\x00U"),
    (SENDMAIL, None, b"localhost\x00U"),
]


@pytest.mark.parametrize(("dialect", "given", "payload"), FRAMES)
def test_connect_command(dialect: Dialect, given: Any, payload: bytes) -> None:
    assert parse_peer(given).connect(dialect).payload() == payload


def test_port_is_likely_where_none_is_given() -> None:
    assert parse_peer(("mx.example.org", "192.0.2.10")).port == 49152


@pytest.mark.parametrize(
    ("dialect", "given", "validated", "name"),
    [
        (POSTFIX, ("mx.example", "192.0.2.10"), "mx.example [192.0.2.10]", "mx.example"),
        (POSTFIX, (None, "192.0.2.10"), "unknown [192.0.2.10]", "unknown"),
        (SENDMAIL, (None, "192.0.2.10"), "[192.0.2.10]", "[192.0.2.10]"),
        (SENDMAIL, ("v6.example", "::1"), "v6.example [IPv6:0:0:0:0:0:0:0:1]", "v6.example"),
        (POSTFIX, ("v6.example", "::1"), "v6.example [::1]", "v6.example"),
        (SENDMAIL, None, "localhost", "localhost"),
    ],
)
def test_macros(dialect: Dialect, given: Any, validated: str, name: str) -> None:
    macros = parse_peer(given).macros(dialect)
    assert (macros["_"], macros["client_name"]) == (validated, name)


@pytest.mark.parametrize(
    ("given", "resolved"), [(("mx.example", "192.0.2.10"), "OK"), ((None, "192.0.2.10"), "FAIL")]
)
def test_client_resolve_tells_whether_the_name_is_verified(given: Any, resolved: str) -> None:
    assert parse_peer(given).macros(POSTFIX)["client_resolve"] == resolved


@pytest.mark.parametrize(
    "given",
    [
        ("mx", "mail.example.com"),
        ("mx", "192.0.2"),
        ("mx", "192.0.2.1", 65536),
        ("mx", "192.0.2.1", True),
        "relative.sock",
    ],
)
def test_what_cannot_be_read_names_the_input(given: Any) -> None:
    with pytest.raises(ConfigError, match="client"):
        parse_peer(given)


@pytest.mark.parametrize(
    "given", [("mx",), ("mx", 1), (1, "192.0.2.1"), ("mx", "192.0.2.1", 1, 2), ("mx", None)]
)
def test_wrong_types(given: Any) -> None:
    with pytest.raises(TypeError):
        parse_peer(given)
