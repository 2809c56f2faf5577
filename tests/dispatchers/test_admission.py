"""Who may connect: the rules by themselves, then over every dispatcher and one of the user's own."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import Address, ConfigError, Limits, Milter, parse_address
from pmilter.dispatchers.admission import Gate, Peers
from tests.support.notation import EOF
from tests.support.playbook import filter_of, returns
from tests.support.processes import in_child
from tests.support.service import DISPATCHERS, Service, serving

if TYPE_CHECKING:
    from pathlib import Path

    from pmilter.dispatchers.accepting import Listener
    from pmilter.dispatchers.handling import Handler

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")

SESSION = ">> O 6 1ff 77f\n<< O *\n>> C x␀U\n<< c\n>> H x␀\n<< c\n>> Q\n<< EOF"
NOBODY = 65534


class Inet(socket.socket):
    """A connection from somewhere."""


def admits(peers: Peers, host: str) -> bool:
    with Inet(socket.AF_INET6 if ":" in host else socket.AF_INET) as conn:
        return Gate(peers).admits(conn, (host, 25, 0, 0) if ":" in host else (host, 25))


# --- how peers are written


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("::1", "::1/128"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
    ],
)
def test_networks(written: str, meant: str) -> None:
    assert Peers().allowing(written).networks == {ip_network(meant)}


def test_users_and_groups_by_name_and_number() -> None:
    root, daemon = pwd.getpwuid(0), grp.getgrnam("daemon")
    peers = Peers().allowing(f"user:{root.pw_name}", "User:4711", "group:daemon", "group:4712")
    assert peers == Peers(uids=frozenset({0, 4711}), gids=frozenset({daemon.gr_gid, 4712}))


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ("192.0.2.5/24", "has host bits set"),
        ("localhost", "write a network such as"),
        ("192.0.2.0/33", "write a network such as"),
        ("192.0.2", "write a network such as"),
        ("[::1]", "write a network such as"),
        ("", "write a network such as"),
        ("uid:5", "write a network such as"),
        ("user:no-such-user", "no user 'no-such-user' on this machine"),
        ("group:no-such-group", "no group 'no-such-group' on this machine"),
        ("user:", "no user ''"),
    ],
)
def test_what_is_no_peer_is_named_with_the_remedy(peer: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Milter().allow_peers(peer)


@pytest.mark.parametrize("peer", [5, None, b"192.0.2.1", ["192.0.2.1"], ip_network("192.0.2.0/24")])
def test_peer_of_another_type(peer: Any) -> None:
    with pytest.raises(TypeError, match="a peer is a text"):
        Milter().allow_peers(peer)


def test_allowing_nobody_is_no_way_to_allow_all() -> None:
    with pytest.raises(ConfigError, match="without a call all are served"):
        Milter().allow_peers()


def test_each_call_allows_more() -> None:
    milter = Milter()
    assert milter.peers is None
    milter.allow_peers("192.0.2.0/24")
    milter.allow_peers("::1", "user:5")
    peers = milter.peers
    assert peers == Peers().allowing("192.0.2.0/24", "::1", "user:5")


def test_call_that_fails_allows_nobody() -> None:
    milter = Milter()
    with pytest.raises(ConfigError):
        milter.allow_peers("192.0.2.0/24", "nonsense")
    assert milter.peers is None


@pytest.mark.parametrize(
    ("peers", "address", "remedy"),
    [
        (["user:0"], "inet:1@127.0.0.1", "give allow_peers networks"),
        (["group:0"], "inet6:1@::1", "give allow_peers networks"),
        (["::1"], "unix:/run/x.sock", "'user:NAME' or 'group:NAME'"),
    ],
)
def test_peers_that_cannot_use_the_socket_at_all_are_a_mistake(
    peers: list[str], address: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=remedy):
        Peers().allowing(*peers).check(parse_address(address))


@pytest.mark.parametrize(
    ("peers", "address"),
    [
        (["user:0", "::1"], Address.inet("inet", 1, "127.0.0.1")),
        (["user:0", "::1"], Address.unix("/run/x.sock")),
        (["group:0"], Address.unix("/run/x.sock")),
    ],
)
def test_peers_for_other_sockets_too_are_none(peers: list[str], address: Address) -> None:
    Peers().allowing(*peers).check(address)


def test_main_says_so_before_it_serves() -> None:
    milter = filter_of({"eom": returns(None)})
    milter.allow_peers("user:0")
    milter.setconn("inet:0@127.0.0.1")
    with pytest.raises(ConfigError, match="nobody may connect to inet:"):
        milter.main()


# --- who is let in


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", True),
        ("192.0.2.255", True),
        ("192.0.3.0", False),
        ("::ffff:192.0.2.1", True),
        ("::ffff:192.0.3.1", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("::1", False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_hosts_of_the_networks_are_admitted(host: str, expected: bool) -> None:
    peers = Peers().allowing("192.0.2.0/24", "2001:db8::/32", "fe80::/10")
    assert admits(peers, host) is expected


def test_who_is_not_admitted_is_named_with_the_remedy_and_cannot_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(Peers().allowing("192.0.2.0/24"))
    with Inet() as conn:
        for number in range(100):
            assert not gate.admits(conn, (f"198.51.100.{number}", 4711))
    (message,) = caplog.messages
    assert "198.51.100.0 may not connect" in message
    assert "allow_peers('198.51.100.0')" in message


def test_user_and_groups_of_the_process_count() -> None:
    one, two = socket.socketpair()
    with one, two:
        for peer in (f"user:{os.geteuid()}", f"group:{os.getegid()}"):
            assert Gate(Peers().allowing(peer)).admits(one, "")
        for peer in ("user:4711", "group:4711", "127.0.0.0/8"):
            assert not Gate(Peers().allowing(peer)).admits(one, "")


@as_root
def test_further_groups_of_the_process_count() -> None:
    def work() -> None:
        os.setgroups([4711])
        one, two = socket.socketpair()
        with one, two:
            assert Gate(Peers().allowing("group:4711")).admits(one, "")
            assert not Gate(Peers().allowing("group:4712")).admits(one, "")

    in_child(work)


def test_process_that_is_not_admitted_is_named_with_the_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = socket.socketpair()
    with one, two:
        Gate(Peers().allowing("user:4711")).admits(one, "")
    assert f"pid {os.getpid()} of uid {os.geteuid()} may not connect" in caplog.text
    assert f"allow_peers('user:{os.geteuid()}')" in caplog.text


def test_closed_connection_is_not_admitted() -> None:
    one, two = socket.socketpair()
    one.close()
    two.close()
    assert not Gate(Peers().allowing("user:0")).admits(one, "")


# --- over the dispatchers


def own_dispatcher(_milter: Milter, listener: Listener, handler: Handler) -> None:
    """Do what the documentation says that a dispatcher of the user's own does."""
    while True:
        conn, _ = listener.accept()
        handler(conn)


every = pytest.mark.parametrize("dispatcher", [*DISPATCHERS, own_dispatcher])


def is_cut_off(service: Service, source: str | None = None) -> bool:
    with service.connect(source) as wire:
        return wire.answer() == EOF


@every
def test_only_allowed_hosts_are_served_and_the_others_counted(
    dispatcher: Any, tmp_path: Path
) -> None:
    milter = filter_of({"helo": returns(None)}, limits=Limits(grace=0.5))
    milter.allow_peers("127.0.0.2", "127.0.1.0/24")
    with serving(milter, tmp_path, dispatcher, desc="inet:0@0.0.0.0") as service:
        for source in ("127.0.0.2", "127.0.1.9"):
            with service.connect(source) as wire:
                wire.play(SESSION)
        for source in ("127.0.0.1", "127.0.0.3", "127.0.0.3"):
            assert is_cut_off(service, source)
        assert len(service.await_log("may not connect")) == 1
        service.signal(signal.SIGUSR1)
        (line,) = service.await_log("status: ")
    assert "2 requests, 0 probes, 3 denied" in line


@every
@pytest.mark.parametrize("allowed", [True, False])
def test_only_allowed_users_are_served(dispatcher: Any, allowed: bool, tmp_path: Path) -> None:
    milter = filter_of({"helo": returns(None)}, limits=Limits(grace=0.5))
    milter.allow_peers(f"user:{os.geteuid()}" if allowed else f"user:{NOBODY - 1}")
    with tempfile.TemporaryDirectory(prefix="pm-") as directory:
        desc = f"unix:{directory}/f.sock"
        with serving(milter, tmp_path, dispatcher, desc=desc) as service:
            if allowed:
                service.play(SESSION)
            else:
                assert is_cut_off(service)


def test_filters_that_allow_all_do_not_pay_for_it() -> None:
    code = """
import sys, pmilter
milter = pmilter.Milter()
milter.on("eom")(lambda ctx: None)
milter.setconn("inet:0@127.0.0.1")
milter.set_dispatcher(pmilter.sequential_dispatcher())
milter.stop()
milter.main()
assert "pmilter.dispatchers.admission" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
