from __future__ import annotations

import socket
import stat
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from pmilter import Context, Milter, Status, sequential_dispatcher
from pmilter.testing.rig import serve

if TYPE_CHECKING:
    from pathlib import Path

    from pmilter.address import Address

OFFER = struct.pack(">IcIII", 13, b"O", 6, 0x1FF, 0x1FFFFF)


def make_filter() -> Milter:
    milter = Milter("served")

    @milter.on("eom")
    def eom(_: Context) -> Status:
        return Status.ACCEPT

    return milter


def negotiate(address: Address) -> bytes:
    """Offer what an MTA offers; the letter of the filter's answer."""
    if address.path is not None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address.path)
    else:
        connection = socket.create_connection((address.host, int(address.port or 0)), 10)
    with connection, connection.makefile("rb") as stream:
        connection.sendall(OFFER)
        return stream.read(5)[4:]


def test_filter_answers_on_the_yielded_address() -> None:
    with serve(make_filter()) as address:
        assert address.startswith("inet:")
        assert negotiate(address) == b"O"


def test_filter_is_gone_after_the_block() -> None:
    with serve(make_filter()) as address:
        pass
    with pytest.raises(ConnectionRefusedError):
        negotiate(address)


def test_main_has_returned_after_the_block() -> None:
    def mains() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "pmilter-main"]

    with serve(make_filter()) as address:
        negotiate(address)
        assert mains() == ["pmilter-main"]
    assert mains() == []


def test_unix_socket_gets_the_mode(public_path: Path) -> None:
    path = public_path / "f.sock"
    with serve(make_filter(), f"unix:{path}", perms=0o666) as address:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert negotiate(address) == b"O"
    assert not path.exists()


def test_filter_with_a_socket_keeps_it(public_path: Path) -> None:
    milter = make_filter()
    milter.setconn(f"unix:{public_path}/own.sock")
    with serve(milter) as address:
        assert address == f"unix:{public_path}/own.sock"
        assert negotiate(address) == b"O"


def test_filter_can_be_served_again() -> None:
    milter = make_filter()
    for _ in range(2):
        with serve(milter) as address:
            assert negotiate(address) == b"O"


def test_chosen_dispatcher_serves() -> None:
    with serve(make_filter(), dispatcher=sequential_dispatcher()) as address:
        assert negotiate(address) == b"O"


def broken_dispatcher(*_: object) -> None:
    raise KeyError("broken")


def test_error_of_main_comes_out_of_the_block() -> None:
    with (
        pytest.raises(KeyError, match="broken"),
        serve(make_filter(), dispatcher=broken_dispatcher),
    ):
        pass


def test_error_of_main_comes_with_that_of_the_block() -> None:
    with (
        pytest.raises(KeyError, match="broken") as caught,
        serve(make_filter(), dispatcher=broken_dispatcher),
    ):
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, ZeroDivisionError)


def test_error_of_the_block_stops_the_filter() -> None:
    addresses: list[Address] = []

    def fail() -> None:
        with serve(make_filter()) as address:
            addresses.append(address)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pytest.raises(ConnectionRefusedError):
        negotiate(addresses[0])


def test_address_in_use_is_told_before_the_block(public_path: Path) -> None:
    address = f"unix:{public_path}/f.sock"
    with serve(make_filter(), address), pytest.raises(OSError, match="in use"):
        serve(make_filter(), address).__enter__()
