from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import socket
import stat
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmilter import ConfigError, LocalProtocolError, Milter
from pmilter.dispatchers.listening import ListeningSocket, adopt, listen_on, locked
from tests.support.processes import DEADLINE, fork, in_child, wait
from tests.support.wire import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root's rights")


@pytest.fixture
def path() -> Iterator[str]:
    """A path for a UNIX socket, short enough for one."""
    with tempfile.TemporaryDirectory(prefix="pm-") as directory:
        yield f"{directory}/f.sock"


@contextlib.contextmanager
def listening(
    desc: str, perms: Any = None, group: Any = None, backlog: int = 5
) -> Iterator[ListeningSocket]:
    bound = listen_on(desc, perms, group, backlog)
    try:
        yield bound
    finally:
        bound.close()


def mode(path: str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


# --- internet


def test_port_0_gets_a_port_that_address_tells() -> None:
    with listening("inet:0@127.0.0.1") as bound:
        assert bound.address == f"inet:{bound.socket.getsockname()[1]}@127.0.0.1"
        connect(bound.address).close()


def test_ipv6() -> None:
    try:
        with listening("inet6:0@::1") as bound:
            assert str(bound.address).endswith("@[::1]")
            connect(bound.address).close()
    except OSError as error:
        if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            pytest.skip("this machine has no IPv6")
        raise


@pytest.mark.parametrize("desc", ["inet:0", "inet6:0"])
def test_all_interfaces_come_with_a_warning(desc: str, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.suppress(OSError), listening(desc):
        pass
    assert "all interfaces" in caplog.text


def test_one_interface_comes_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with listening("inet:0@127.0.0.1"), listening("inet:0@localhost"):
        pass
    assert caplog.messages == []


def test_port_in_use_is_an_error_that_names_address_and_remedy() -> None:
    with (
        listening("inet:0@127.0.0.1") as bound,
        pytest.raises(OSError, match="another program listens there") as caught,
    ):
        listen_on(str(bound.address), None, None, 5)
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.filename == bound.address


def test_port_can_be_taken_again_at_once() -> None:
    with listening("inet:0@127.0.0.1") as bound:
        client = connect(bound.address)
        served, _ = bound.socket.accept()
        served.close()  # this end now waits for the other's last word
    with listening(str(bound.address)):
        client.close()


@pytest.mark.parametrize("desc", ["inet:0@no-such-host.invalid", "inet:no-such-service@127.0.0.1"])
def test_unknown_host_or_service_is_a_config_error(desc: str) -> None:
    with pytest.raises(ConfigError, match="is unknown") as caught:
        listen_on(desc, None, None, 5)
    assert caught.value.source == desc


@pytest.mark.parametrize(("perms", "group"), [(0o660, None), (None, 0)])
def test_mode_and_group_are_for_unix_sockets(perms: Any, group: Any) -> None:
    with pytest.raises(ConfigError, match="mode and group are for UNIX sockets"):
        listen_on("inet:0@127.0.0.1", perms, group, 5)


# --- UNIX: who may connect


@pytest.mark.parametrize(
    ("perms", "expected"),
    [(0o600, 0o600), ("660", 0o660), ("0o666", 0o666), ("0770", 0o770), (0, 0), (0o777, 0o777)],
)
def test_mode_is_exactly_what_was_asked_for(path: str, perms: Any, expected: int) -> None:
    umask = os.umask(0o077)
    try:
        with listening(path, perms):
            assert mode(path) == expected
    finally:
        os.umask(umask)


@pytest.mark.parametrize(
    ("umask", "expected"), [(0o022, 0o640), (0o002, 0o660), (0o077, 0o600), (0, 0o660)]
)
def test_without_a_mode_the_umask_counts_and_others_get_nothing(
    path: str, umask: int, expected: int
) -> None:
    before = os.umask(umask)
    try:
        with listening(path):
            assert mode(path) == expected
        assert os.umask(umask) == umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("perms", [0o1777, -1, "rw", "888", "0x1ff", "", "66 0"])
def test_bad_mode_is_refused_before_anything_is_made(path: str, perms: Any) -> None:
    with pytest.raises(ConfigError, match="must be octal"):
        listen_on(path, perms, None, 5)
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("perms", "group"), [(True, None), (6.6, None), (b"660", None), (None, True), (None, b"daemon")]
)
def test_mode_and_group_of_other_types(path: str, perms: Any, group: Any) -> None:
    with pytest.raises(TypeError, match="must be a n"):
        listen_on(path, perms, group, 5)
    assert not Path(path).exists()


def test_address_of_another_type() -> None:
    wrong: Any = 8891
    with pytest.raises(TypeError, match="an address is a text"):
        listen_on(wrong, None, None, 5)


def test_umask_of_the_process_is_left_alone(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be making a file."""

    def umask(_mask: int) -> int:
        raise AssertionError("the umask was touched")

    monkeypatch.setattr(os, "umask", umask)
    for perms in (None, 0o600):
        with listening(path, perms):
            assert mode(path) & 0o007 == 0


@as_root
@pytest.mark.parametrize("group", ["daemon", "1", 1])
def test_group_is_set(path: str, group: Any) -> None:
    with listening(path, 0o660, group):
        assert os.lstat(path).st_gid == grp.getgrnam("daemon").gr_gid == 1
        assert mode(path) == 0o660


@pytest.mark.parametrize("group", ["no-such-group", "\N{SUPERSCRIPT TWO}"])
def test_unknown_group_is_refused_before_anything_is_made(group: str, path: str) -> None:
    with pytest.raises(ConfigError, match=f"no group '{group}'"):
        listen_on(path, None, group, 5)
    assert not Path(path).exists()


@as_root
def test_nobody_can_connect_before_mode_and_group_are_set(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each system call that makes the socket, another user tries to connect."""
    tried: list[str] = []

    def try_as_nobody() -> int:
        def work() -> None:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)

        read, write = os.pipe()
        saved = os.dup(2)
        os.dup2(write, 2)
        try:
            return wait(fork(work))
        finally:
            os.dup2(saved, 2)
            for fd in (read, write, saved):
                os.close(fd)

    def spied(name: str, original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            if Path(path).exists():
                tried.append(name)
                assert try_as_nobody() == 1, f"connected after {name}"
            return result

        return call

    Path(path).parent.chmod(0o777)
    monkeypatch.setattr(os, "chown", spied("chown", os.chown))
    monkeypatch.setattr(Path, "chmod", spied("chmod", Path.chmod))
    monkeypatch.setattr(socket.socket, "bind", spied("bind", socket.socket.bind))
    bound = listen_on(path, 0o600, 1, 5)
    monkeypatch.undo()
    bound.close()
    assert tried == ["bind", "chown", "chmod"]


def test_where_the_group_cannot_be_set_nothing_is_left(path: str) -> None:
    def work() -> None:
        if os.geteuid() == 0:
            Path(path).parent.chmod(0o777)
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        with pytest.raises(PermissionError):
            listen_on(path, None, 0, 5)
        assert not Path(path).exists()

    if os.geteuid() != 0 and 0 in os.getgroups():
        pytest.skip("this user may give files to group 0")
    in_child(work)


# --- UNIX: stale and live sockets


def make_stale(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()


def test_stale_socket_is_replaced(path: str) -> None:
    make_stale(path)
    with listening(path):
        connect(path).close()


def test_lock_of_another_program_on_the_directory_is_waited_for_a_second_and_named(
    tmp_path: Path,
) -> None:
    """Whoever can read a directory can lock it."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        with pytest.raises(OSError, match="lslocks") as caught:
            listen_on(f"unix:{tmp_path}/socket", None, None, 5)
        assert str(tmp_path) in str(caught.value)
    finally:
        os.close(fd)
    assert not (tmp_path / "socket").exists()
    listen_on(f"unix:{tmp_path}/socket", None, None, 5).close()


def test_lock_that_is_released_in_time_is_no_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    release = threading.Timer(0.1, os.close, (fd,))
    release.start()
    with locked(tmp_path):
        release.join()


def test_live_socket_is_never_stolen(path: str) -> None:
    with listening(path) as first:
        with pytest.raises(OSError, match="another program listens there") as caught:
            listen_on(path, None, None, 5)
        assert caught.value.errno == errno.EADDRINUSE
        client = connect(path)
        first.socket.accept()[0].close()
        client.close()


def test_live_socket_with_a_full_backlog_is_not_stolen(path: str) -> None:
    with listening(path, backlog=1), contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(OSError, match="another program listens there"):
            listen_on(path, None, None, 5)


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo"])
def test_what_is_no_socket_is_not_removed(path: str, kind: str) -> None:
    target = Path(path)
    if kind == "file":
        target.write_text("precious")
    elif kind == "directory":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        target.symlink_to("elsewhere")
    with pytest.raises(FileExistsError, match="is no socket"):
        listen_on(path, None, None, 5)
    assert os.path.lexists(path)


def test_directory_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = str(tmp_path / "gone" / "f.sock")
    with pytest.raises(FileNotFoundError, match="make it first") as caught:
        listen_on(path, None, None, 5)
    assert path in str(caught.value)


class Starter(threading.Thread):
    """One of several filters that start at the same moment."""

    def __init__(self, path: str, barrier: threading.Barrier) -> None:
        super().__init__()
        self._path = path
        self._barrier = barrier
        self.bound: ListeningSocket | None = None
        self.error: OSError | None = None

    def run(self) -> None:
        self._barrier.wait(DEADLINE)
        try:
            self.bound = listen_on(self._path, 0o600, None, 5)
        except OSError as error:
            self.error = error


def test_of_many_starters_at_the_same_time_one_wins_and_is_reachable(path: str) -> None:
    for _ in range(10):
        make_stale(path)
        barrier = threading.Barrier(4)
        starters = [Starter(path, barrier) for _ in range(4)]
        for starter in starters:
            starter.start()
        for starter in starters:
            starter.join(DEADLINE)
        (won,) = (starter.bound for starter in starters if starter.bound)
        assert {s.error.errno for s in starters if s.error} == {errno.EADDRINUSE}
        connect(path).close()
        won.socket.accept()[0].close()
        won.close()


# --- UNIX: the end


def test_path_is_removed_at_the_end(path: str) -> None:
    with listening(path):
        assert Path(path).is_socket()
    assert not Path(path).exists()


def test_path_that_is_another_ones_by_now_stays(path: str) -> None:
    with listening(path):
        Path(path).unlink()
        second = listen_on(path, None, None, 5)
    connect(path).close()
    second.close()


def test_file_in_place_of_the_socket_stays(path: str) -> None:
    with listening(path):
        Path(path).unlink()
        Path(path).write_text("precious")
    assert Path(path).read_text() == "precious"


def test_path_that_a_successor_takes_while_it_is_being_closed_stays(path: str) -> None:
    """At a quick restart the next filter may start between the closing of the socket and the removal of its path."""

    class Closing(socket.socket):
        def close(self) -> None:
            super().close()
            with contextlib.suppress(OSError):
                successors.append(listen_on(path, None, None, 5))

    for _ in range(20):
        successors: list[ListeningSocket] = []
        first = listen_on(path, None, None, 5)
        first.socket = Closing(fileno=first.socket.detach())
        first.close()
        there = Path(path).exists()
        for successor in successors:
            successor.close()
        assert there or not successors


def test_path_that_is_gone_already_is_no_error(path: str) -> None:
    with listening(path):
        Path(path).unlink()


def test_child_that_closes_leaves_the_path_to_its_parent(path: str) -> None:
    with listening(path) as bound:
        in_child(bound.close)
        connect(path).close()


def test_filter_that_became_a_daemon_after_binding_removes_its_path(path: str) -> None:
    milter = Milter()
    milter.on("eom")(lambda _ctx: None)
    milter.setconn(path)

    def daemon() -> None:
        milter.set_dispatcher(lambda *_: None)
        milter.main()

    in_child(daemon)
    left = Path(path).exists()
    milter.set_dispatcher(lambda *_: None)
    milter.main()
    assert not left


# --- sockets that others made


def test_socket_that_listens_is_adopted_and_its_path_stays(path: str) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    bound = adopt(sock)
    assert bound.address == f"unix:{path}"
    bound.close()
    assert sock.fileno() == -1
    assert Path(path).exists()


@pytest.mark.parametrize("listen", [False, None])
def test_what_does_not_listen_is_refused(listen: Any) -> None:
    with socket.socket() as sock:
        given: Any = sock if listen is False else "socket"
        with pytest.raises((ConfigError, TypeError), match="listen"):
            adopt(given)
        assert listen is None or sock.fileno() != -1


def inherited(names: str, count: str, address: str, *, pid: int | None = None) -> None:
    """Be a process that systemd has started with two listening sockets, and listen on one by its name."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [one.getsockname()[1], two.getsockname()[1]]
        low = [os.dup(one.fileno()), os.dup(two.fileno())]
        os.dup2(low[0], 200)
        os.dup2(low[1], 201)
        os.dup2(200, 3)
        os.dup2(201, 4)
        os.environ.update(
            LISTEN_PID=str(pid or os.getpid()), LISTEN_FDS=count, LISTEN_FDNAMES=names
        )
        milter = Milter()
        milter.setconn(address)
        assert milter.address == f"inet:{ports[names.split(':').index(address[3:])]}@127.0.0.1"
        assert not os.get_inheritable(3 + names.split(":").index(address[3:]))


@pytest.mark.parametrize("name", ["first", "second"])
def test_socket_handed_in_is_found_by_its_name(name: str) -> None:
    in_child(lambda: inherited("first:second", "2", f"fd:{name}"))


@pytest.mark.parametrize(
    ("names", "count", "pid"),
    [
        ("first:second", "2", None),
        ("third", "0", None),
        ("third", "x", None),
        ("third", "\N{SUPERSCRIPT TWO}", None),
        ("third", "1", 1),
    ],
)
def test_name_that_was_not_handed_in_is_a_config_error(
    names: str, count: str, pid: int | None
) -> None:
    def work() -> None:
        with pytest.raises(ConfigError, match="fd:third"):
            inherited(names, count, "fd:third", pid=pid)

    in_child(work)


def test_nothing_handed_in_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    with pytest.raises(ConfigError, match="systemd socket unit"):
        listen_on("fd:milter", None, None, 5)


# --- as methods of Milter


def test_setconn_binds_at_once_and_tells_the_address(path: str) -> None:
    milter = Milter()
    milter.setconn(path, 0o600)
    assert milter.address == f"unix:{path}"
    connect(path).close()
    milter.on("eom")(lambda _ctx: None)
    milter.set_dispatcher(lambda *_: None)
    milter.main()
    assert not Path(path).exists()


@pytest.mark.parametrize("second", ["setconn", "set_socket", "set_listen"])
def test_second_socket_or_a_late_backlog_is_refused(second: str) -> None:
    milter = Milter()
    milter.setconn("inet:0@127.0.0.1")
    address = milter.address
    with socket.create_server(("127.0.0.1", 0)) as other:
        argument: Any = {"setconn": "inet:0@127.0.0.1", "set_socket": other, "set_listen": 5}
        with pytest.raises(LocalProtocolError, match=f"there is a socket already, on {address}"):
            getattr(milter, second)(argument[second])
    assert milter.address == address
    milter.on("eom")(lambda _ctx: None)
    milter.set_dispatcher(lambda *_: None)
    milter.main()


def test_setconn_that_fails_can_be_done_again(path: str) -> None:
    milter = Milter()
    with pytest.raises(OSError, match="make it first"):
        milter.setconn(f"{path}.d/gone")
    with pytest.raises(ConfigError):
        milter.setconn("nonsense")
    milter.set_listen(7)
    milter.setconn(path)
    assert milter.address == f"unix:{path}"
    milter.on("eom")(lambda _ctx: None)
    milter.set_dispatcher(lambda *_: None)
    milter.main()


def test_address_must_be_text() -> None:
    with pytest.raises(TypeError):
        Milter().setconn(8891)  # type: ignore[arg-type]  # that is the point
