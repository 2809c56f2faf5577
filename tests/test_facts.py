from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.support.playbook import PLAIN, Playbook, filter_of

if TYPE_CHECKING:
    from pmilter import Context


def client(line: str) -> tuple[object, object]:
    """Return what connect is called with, and what `Context` says afterwards."""
    later: list[object] = []

    def helo(ctx: Context, _name: str) -> None:
        later.append((ctx.hostname, ctx.address))

    def connect(ctx: Context, hostname: str, address: object) -> None:
        assert (ctx.hostname, ctx.address) == (hostname, address)

    playbook = Playbook(filter_of({"connect": connect, "helo": helo}))
    playbook.play(f"{PLAIN}>> {line}\n<< c\n>> H x␀\n<< c")
    return playbook.calls[0][1:], later[0]


@pytest.mark.parametrize(
    ("line", "hostname", "address"),
    [
        (r"C mx.example.com␀4\x34\xc0192.0.2.10␀", "mx.example.com", ("192.0.2.10", 13504)),
        (r"C [192.0.2.10]␀4\x00\x00192.0.2.10␀", "[192.0.2.10]", ("192.0.2.10", 0)),
        (r"C x␀6\x36\xc02001:db8::1␀", "x", ("2001:db8::1", 14016, 0, 0)),
        (r"C x␀6\x36\xc0IPv6:2001:DB8:0:0:0:0:0:1␀", "x", ("2001:db8::1", 14016, 0, 0)),
        (r"C x␀6\x00\x00ipv6:::1␀", "x", ("::1", 0, 0, 0)),
        (r"C localhost␀L\x00\x00/run/submit.sock␀", "localhost", "/run/submit.sock"),
        (r"C localhost␀L\x00\x00/\xff␀", "localhost", "/\udcff"),
        ("C localhost␀U", "localhost", None),
        (r"C \xfc␀U", "\udcfc", None),
        ("C ␀U", "", None),
    ],
)
def test_client_as_the_mta_tells_it(line: str, hostname: str, address: object) -> None:
    assert client(line) == ((hostname, address), (hostname, address))


@pytest.mark.parametrize(
    "line",
    [
        r"C x␀4\x00\x00not-an-address␀",
        r"C x␀4\x00\x00127.1␀",
        r"C x␀4\x00\x00localhost␀",
        r"C x␀4\x00\x00␀",
        r"C x␀4\x00\x00\xff\xfe␀",
        r"C x␀6\x00\x00192.0.2.1␀",
        r"C x␀6\x00\x00IPv6:fe80::1%eth0␀",
    ],
)
def test_address_that_cannot_be_read_is_none_and_not_looked_up(
    line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pmilter")
    assert client(line) == (("x", None), ("x", None))
    assert "cannot be read" in caplog.text
