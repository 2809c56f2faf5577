from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from pmilter.dispatchers.notify import Notifier
from pmilter.dispatchers.pipes import await_readable
from tests.support.playbook import filter_of, returns
from tests.support.service import DISPATCHERS, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """The service manager's end."""

    def __init__(self, address: str | bytes) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(address)
        self.sock.settimeout(10)

    def next(self) -> list[str]:
        """Return the lines of the next message."""
        return self.sock.recv(4096).decode().split("\n")

    def is_silent(self) -> bool:
        """Return whether no message is there."""
        return not await_readable((self.sock.fileno(),), 0)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.sock.close()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def test_ready(manager: Manager, environ: dict[str, str]) -> None:
    Notifier.from_environment(environ).ready("serves")
    assert manager.next() == ["READY=1", "STATUS=serves"]


def test_reloading_tells_the_time_as_systemd_wants_it(
    manager: Manager, environ: dict[str, str]
) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier.from_environment(environ).reloading("again")
    first, when, status = manager.next()
    assert first == "RELOADING=1"
    name, _, number = when.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(number) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert status == "STATUS=again"


def test_stopping(manager: Manager, environ: dict[str, str]) -> None:
    Notifier.from_environment(environ).stopping()
    assert manager.next()[0] == "STOPPING=1"


def test_status_is_one_line_whatever_it_says(manager: Manager, environ: dict[str, str]) -> None:
    Notifier.from_environment(environ).status("one\nREADY=1\r\ntwo \udcff")
    assert manager.next() == ["STATUS=one READY=1 two ?"]


def test_abstract_socket() -> None:
    name = f"pmilter-test-{os.getpid()}"
    manager = Manager(b"\0" + name.encode())
    Notifier(f"@{name}").ready("serves")
    assert manager.next()[0] == "READY=1"
    manager.sock.close()


def test_nothing_is_sent_where_no_manager_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)  # any use would raise
    notifier = Notifier.from_environment({})
    notifier.ready("serves")
    notifier.stopping()
    assert notifier.sign_of_life() == float("inf")


@pytest.mark.parametrize("address", ["/nowhere/notify", "@pmilter-nobody-listens", "x" * 200])
def test_manager_that_is_not_there_is_no_error(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(address).ready("serves")
    assert "cannot tell the service manager" in caplog.text


# --- watchdog


def test_watchdog_is_fed_twice_in_its_time(manager: Manager, environ: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environ | {"WATCHDOG_USEC": "20000000"})
    assert notifier.sign_of_life() == pytest.approx(10.0, abs=0.1)
    assert manager.next() == ["WATCHDOG=1"]
    assert notifier.sign_of_life() <= 10.0
    assert manager.is_silent()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_watchdog_that_is_not_asked_for(
    variables: dict[str, str], manager: Manager, environ: dict[str, str]
) -> None:
    assert Notifier.from_environment(environ | variables).sign_of_life() == float("inf")
    assert manager.is_silent()


def test_watchdog_for_this_process(manager: Manager, environ: dict[str, str]) -> None:
    variables = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier.from_environment(environ | variables).sign_of_life() <= 0.5
    assert manager.next() == ["WATCHDOG=1"]


def test_variables_can_be_taken_so_that_children_have_none(environ: dict[str, str]) -> None:
    environ |= {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier.from_environment(environ, take=True)
    assert environ == {"HOME": "/"}


def test_variables_stay_where_they_are_otherwise(environ: dict[str, str]) -> None:
    before = dict(environ)
    Notifier.from_environment(environ)
    assert environ == before


# --- a service


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_service_tells_when_it_serves_and_when_it_stops(
    dispatcher: str, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher) as service:
        assert manager.next() == ["READY=1", f"STATUS=test serves on {service.address}"]
        assert manager.is_silent()
        service.signal()
        assert manager.next()[0] == "STOPPING=1"
        assert service.wait(1.5) == 0
    assert manager.is_silent()


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_service_feeds_the_watchdog_while_nothing_comes(
    dispatcher: str, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    with serving(filter_of({"helo": returns(None)}), tmp_path, dispatcher):
        assert manager.next()[0] == "READY=1"
        for _ in range(3):
            assert manager.next() == ["WATCHDOG=1"]
