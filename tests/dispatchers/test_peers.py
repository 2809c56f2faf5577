from __future__ import annotations

import os
import socket
import struct
import tempfile
from pathlib import Path

import pytest

from pmilter.dispatchers.peers import credentials, further_groups, peer_key, plain_host
from tests.support.processes import in_child

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")


def test_credentials_are_those_of_who_has_connected() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert credentials(one) == (os.getpid(), os.geteuid(), os.getegid())
        assert further_groups(one) == set(os.getgroups())
        assert peer_key(one) == f"uid {os.geteuid()}"


@as_root
def test_credentials_are_those_at_the_time_of_connecting() -> None:
    def become_nobody() -> None:
        os.setgroups([12345, 2**32 - 2])
        os.setresgid(65533, 65533, 65533)
        os.setresuid(2**32 - 3, 2**32 - 3, 2**32 - 3)

    def work() -> None:
        with (
            tempfile.TemporaryDirectory(prefix="pm-") as directory,
            socket.socket(socket.AF_UNIX) as listening,
        ):
            path = Path(directory, "s")
            path.parent.chmod(0o777)
            listening.bind(str(path))
            path.chmod(0o777)
            listening.listen()

            def client() -> None:
                become_nobody()
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(str(path))

            in_child(client)
            conn, _ = listening.accept()
            with conn:
                who = credentials(conn)
                assert who is not None
                assert (who.uid, who.gid) == (2**32 - 3, 65533)
                assert further_groups(conn) == {12345, 2**32 - 2}
                assert peer_key(conn) == f"uid {2**32 - 3}"

    in_child(work)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::1", "::1"),
        ("::ffff:1", "::ffff:1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
    ],
)
def test_hosts_are_written_as_people_write_them(host: str, plain: str) -> None:
    assert plain_host(host) == plain


def test_key_of_an_internet_peer_is_its_host() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), source_address=("127.0.0.7", 0))
        conn, _ = listening.accept()
        with client, conn:
            assert peer_key(conn) == "127.0.0.7"


def test_peer_that_has_gone_has_a_key_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        conn, _ = listening.accept()
        with conn:
            assert peer_key(conn) == "a peer that has gone"
