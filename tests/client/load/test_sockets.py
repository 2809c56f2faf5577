from __future__ import annotations

import socket
import time

import pytest

from pmilter.address import parse_address
from pmilter.client.load.sockets import Endpoint, Poller, look_up
from pmilter.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/filter", Endpoint(socket.AF_UNIX, "/run/filter")),
        ("inet:8891@127.0.0.1", Endpoint(socket.AF_INET, ("127.0.0.1", 8891))),
        ("inet:8891", Endpoint(socket.AF_INET, ("127.0.0.1", 8891))),
        ("inet6:8891@::1", Endpoint(socket.AF_INET6, ("::1", 8891, 0, 0))),
        ("inet6:8891", Endpoint(socket.AF_INET6, ("::1", 8891, 0, 0))),
    ],
)
def test_address_becomes_what_sockets_want(text: str, endpoint: Endpoint) -> None:
    assert look_up(parse_address(text)) == endpoint


def test_socket_handed_in_cannot_be_connected_to() -> None:
    with pytest.raises(ConfigError, match="the address behind it"):
        look_up(parse_address("fd:filter"))


def test_unknown_service_is_an_error_that_names_the_address() -> None:
    with pytest.raises(OSError, match="nosuchservice") as caught:
        look_up(parse_address("inet:nosuchservice@127.0.0.1"))
    assert caught.value.filename == "inet:nosuchservice@127.0.0.1"


def test_sockets_never_block_and_send_at_once() -> None:
    with Endpoint(socket.AF_INET, ("127.0.0.1", 1)).socket() as sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    with Endpoint(socket.AF_UNIX, "/run/filter").socket() as sock:
        assert not sock.getblocking()


def test_poller_tells_of_bytes_and_of_room() -> None:
    poller = Poller()
    left, right = socket.socketpair()
    with left, right:
        poller.watch(left.fileno(), room=False)
        assert poller.wait(0) == []
        right.send(b"x")
        assert [fd for fd, _ in poller.wait(1)] == [left.fileno()]
        left.recv(1)
        poller.watch(left.fileno(), room=True)
        assert [fd for fd, _ in poller.wait(1)] == [left.fileno()]
    poller.close()


def test_short_waits_are_neither_skipped_nor_rounded_up() -> None:
    poller = Poller()
    waits = []
    for _ in range(30):
        begun = time.perf_counter()
        assert poller.wait(0.0003) == []
        waits.append(time.perf_counter() - begun)
    poller.close()
    assert 0.0003 <= min(waits) < 0.001
