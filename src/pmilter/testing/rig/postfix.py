"""A private Postfix: its two configuration files, its queue directory, its commands.

``master`` is run by itself, without ``postfix start`` and without reading anything below /etc/postfix.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Unpack

from pmilter.testing.rig.instance import HOST_NAME, Common, Instance, QueuedMessage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pmilter.address import Address
    from pmilter.milter import Milter

_OWNER: Final = "postfix"
_SUBMITTERS: Final = "postdrop"

# One service a line: name, type, private, wake-up (seconds), most processes (0: any number), program. None is
# chrooted, so that the path of a UNIX socket means what it says.
_SERVICES: Final = """\
{address} inet n - - smtpd
pickup unix n 60 1 pickup
cleanup unix n - 0 cleanup
qmgr unix n 300 1 qmgr
tlsmgr unix - 1000? 1 tlsmgr
rewrite unix - - - trivial-rewrite
bounce unix - - 0 bounce
defer unix - - 0 bounce
trace unix - - 0 bounce
verify unix - - 1 verify
flush unix n 1000? 0 flush
proxymap unix - - - proxymap
smtp unix - - - smtp
relay unix - - - smtp
showq unix n - - showq
error unix - - - error
retry unix - - - error
discard unix - - - discard
anvil unix - - 1 anvil
scache unix - - 1 scache
postlog unix-dgram n - 1 postlogd
"""

# Mode, owner, group, names of the directories below the queue directory.
_QUEUE_DIRECTORIES: Final = f"""\
0700 {_OWNER} root active bounce corrupt defer deferred flush hold incoming private saved trace
1730 {_OWNER} {_SUBMITTERS} maildrop
2710 {_OWNER} {_SUBMITTERS} public
0755 root root pid
"""


class _Installation(NamedTuple):
    version: str
    commands: Path
    daemons: Path


class Postfix(Instance):
    """A private Postfix; `Instance` tells what it can do.

    Clients on the loopback may use XCLIENT, so that ``client.command("XCLIENT ADDR=192.0.2.1 NAME=mx.example.net")``
    pretends any client. Message size and the number of errors are not limited.
    """

    name = "postfix"

    def __init__(
        self,
        *filters: Milter | str,
        settings: Mapping[str, str] | None = None,
        **common: Unpack[Common],
    ) -> None:
        """Prepare an instance.

        Args:
            filters: As in `Instance`.
            settings: Parameters of main.cf, instead of or beside the rig's own. A wrong one shows as a client that
                waits in vain, and as ``fatal:`` in the log.
            common: The keywords of `Instance`.
        """
        super().__init__(*filters, **common)
        self._settings = dict(settings or {})

    @classmethod
    def unavailable(cls) -> str | None:
        """Ask for the package, or for root."""
        if _installation() is None:
            return "Postfix is not installed: apt-get install postfix (tools/install-mtas.sh of pmilter does it too)"
        if os.geteuid() != 0:
            return "a private Postfix can only be started by root: run the tests as root, in a container for example"
        return None

    @property
    def version(self) -> str:
        """What ``postconf mail_version`` says."""
        return _located().version

    def submit(
        self,
        message: bytes,
        sender: str = "a@example.com",
        recipients: Sequence[str] = ("b@example.org",),
    ) -> None:
        """Hand in a message by way of Postfix's maildrop queue and non_smtpd_milters."""
        sendmail = [*self._program("sendmail", "-C"), "-i", "-f", sender, "--", *recipients]
        self._run(sendmail, message)

    def flush(self) -> None:
        """Try the maildrop and deferred queues now."""
        self._run([*self._program("postqueue"), "-f"])

    def release(self, queue_id: str) -> None:
        """Deliver a message of the hold queue."""
        self._run([*self._program("postsuper"), "-H", queue_id])
        self.flush()

    def _queue(self) -> list[QueuedMessage]:
        listing = self._run([*self._program("postqueue"), "-j"])
        return [_queued(json.loads(line)) for line in listing.splitlines()]

    def _command(self) -> list[str]:
        return [str(_located().daemons / "master"), "-c", str(self.directory / "etc"), "-s"]

    def _program(self, name: str, option: str = "-c") -> list[str]:
        return [str(_located().commands / name), option, str(self.directory / "etc")]

    def _configure(self, filters: Sequence[Address]) -> None:
        self._make_directories()
        etc = self.directory / "etc"
        host, port = self.smtp_address
        (etc / "master.cf").write_text(_master_cf(f"{host}:{port}"))
        main = etc / "main.cf"
        parameters = self._parameters([one.postfix for one in filters]) | self._settings
        main.write_text("".join(f"{name} = {value}\n" for name, value in parameters.items()))
        for path in etc.iterdir():
            path.chmod(0o644)
        # Every Postfix program waits until main.cf is older than a second, lest somebody is still writing it.
        minute_ago = time.time() - 60
        os.utime(main, (minute_ago, minute_ago))

    def _make_directories(self) -> None:
        _make_directory(self.directory / "etc", 0o755, "root", "root")
        _make_directory(self.directory / "data", 0o700, _OWNER, "root")
        queue = self.directory / "queue"
        _make_directory(queue, 0o755, "root", "root")
        for line in _QUEUE_DIRECTORIES.splitlines():
            mode, owner, group, *names = line.split()
            for name in names:
                _make_directory(queue / name, int(mode, 8), owner, group)

    def _parameters(self, filters: Sequence[str]) -> dict[str, str]:
        sink = f"[127.0.0.1]:{self._sink.port}"
        return {
            "compatibility_level": "3.6",
            "queue_directory": f"{self.directory}/queue",
            "data_directory": f"{self.directory}/data",
            "daemon_directory": str(_located().daemons),
            "command_directory": str(_located().commands),
            "mail_owner": _OWNER,
            "setgid_group": _SUBMITTERS,
            "maillog_file": f"{self.directory}/mail.log",
            "maillog_file_prefixes": f"{self.directory}, /dev/stdout",
            "myhostname": HOST_NAME,
            "mydestination": "",
            "mynetworks": "127.0.0.0/8 [::1]/128",
            "inet_interfaces": "127.0.0.1",
            "alias_maps": "",
            "local_recipient_maps": "",
            "relayhost": sink,
            "local_transport": f"smtp:{sink}",
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "smtpd_relay_restrictions": "check_client_access static:OK, reject",
            "smtpd_authorized_xclient_hosts": "127.0.0.0/8",
            "smtpd_milters": ", ".join(filters),
            "non_smtpd_milters": "$smtpd_milters",
            "milter_default_action": self._default_action,
            # Tests refuse a lot and send at once: no pauses after errors or under load, mail of any size.
            "smtpd_error_sleep_time": "0",
            "smtpd_hard_error_limit": "1000",
            "in_flow_delay": "0",
            "message_size_limit": "0",
            "mailbox_size_limit": "0",
        }


@cache
def _installation() -> _Installation | None:
    path = os.pathsep.join(["/usr/sbin", "/usr/local/sbin", os.environ.get("PATH", "")])
    postconf = shutil.which("postconf", path=path)
    if postconf is None:
        return None
    names = ("mail_version", "command_directory", "daemon_directory")
    command = [postconf, "-d", "-h", *names]
    values = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()  # noqa: S603  no input
    version, commands, daemons = values
    return _Installation(version, Path(commands), Path(daemons))


def _located() -> _Installation:
    found = _installation()
    assert found is not None  # `unavailable` was asked first
    return found


def _master_cf(address: str) -> str:
    rows = (line.split() for line in _SERVICES.format(address=address).splitlines())
    return "".join(
        f"{name} {kind} {private} - n {wake_up} {limit} {program}\n"
        for name, kind, private, wake_up, limit, program in rows
    )


def _make_directory(path: Path, mode: int, owner: str, group: str) -> None:
    path.mkdir()
    shutil.chown(path, owner, group)
    path.chmod(mode)  # after chown, which clears the set-group-id bit


def _queued(row: Mapping[str, Any]) -> QueuedMessage:
    recipients = row["recipients"]
    reasons = [one["delay_reason"] for one in recipients if one.get("delay_reason")]
    addresses = tuple(one["address"] for one in recipients)
    return QueuedMessage(
        row["queue_id"], row["queue_name"], row["sender"], addresses, next(iter(reasons), None)
    )
