"""A private Sendmail: its .cf files, made by m4, a library preloaded into it (shim.c), its queue files.

It is started from an unpacked package, since Debian does not let Sendmail and Postfix be installed together.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Unpack

from pmilter.errors import MilterError
from pmilter.testing.rig.instance import ENVIRONMENT, HOST_NAME, Common, Instance, QueuedMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pmilter.address import Address
    from pmilter.milter import Milter

_UNPACKED: Final = "/opt/pmilter-sendmail"
_FLAGS: Final = {"tempfail": "F=T, ", "accept": "", "reject": "F=R, "}
_SHIM_SOURCE: Final = Path(__file__).with_name("shim.c")

_COMMON: Final = """\
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `{host_name}')dnl
define(`ALIAS_FILE', `')define(`HELP_FILE', `')define(`STATUS_FILE', `')dnl
define(`confSERVICE_SWITCH_FILE', `{directory}/service.switch')dnl
define(`confDONT_BLAME_SENDMAIL', `GroupWritableDirPathSafe,TrustStickyBit')dnl
define(`confREFUSE_LA', `1000')define(`confQUEUE_LA', `1000')define(`confMIN_FREE_BLOCKS', `0')dnl
define(`confDONT_PROBE_INTERFACES', `True')dnl
"""

_DAEMON: Final = f"""{_COMMON}\
define(`QUEUE_DIR', `{{directory}}/mqueue')dnl
define(`confPID_FILE', `{{directory}}/sendmail.pid')dnl
define(`confRUN_AS_USER', `{{user}}')define(`confTRUSTED_USER', `{{user}}')dnl
define(`confTO_IDENT', `0s')dnl
undefine(`confBIND_OPTS')FEATURE(`nocanonify')FEATURE(`no_default_msa')dnl
FEATURE(`accept_unresolvable_domains')FEATURE(`accept_unqualified_senders')FEATURE(`promiscuous_relay')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {{sink}}')define(`SMART_HOST', `relay:[127.0.0.1]')dnl
DAEMON_OPTIONS(`Name=MTA, Family=inet, Addr=127.0.0.1, Port={{port}}')dnl
"""

# All mail goes to the sink, also that to our own name or to a name without a domain.
_MAILERS: Final = """\
MAILER(`local')dnl
MAILER(`smtp')dnl
LOCAL_RULE_0
R$* < @ $=w . > $*\t$#relay $@ [127.0.0.1] $: $1 < @ $2 . > $3
R$-\t$#relay $@ [127.0.0.1] $: $1 < @ $j . >
"""

_SUBMISSION: Final = f"""{_COMMON}\
define(`confCF_VERSION', `Submit')dnl
define(`__OSTYPE__', `')dnl
define(`MSP_QUEUE_DIR', `{{directory}}/clientqueue')dnl
define(`confDONT_INIT_GROUPS', `True')dnl
define(`confRUN_AS_USER', `{{submitter}}')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {{port}}')dnl
FEATURE(`msp', `[127.0.0.1]')dnl
"""


class _Installation(NamedTuple):
    program: Path
    macros: Path  # directory of cf.m4's parent


class Sendmail(Instance):
    """A private Sendmail; `Instance` tells what it can do. It needs no root.

    The environment variable PMILTER_SENDMAIL names the directory where the package was unpacked; without it
    /opt/pmilter-sendmail is looked at, then the place of an installed package.
    """

    name = "sendmail"

    def __init__(self, *filters: Milter | str, mc: str = "", **common: Unpack[Common]) -> None:
        """Prepare an instance.

        Args:
            filters: As in `Instance`.
            mc: Lines for sendmail.mc, put before the MAILER lines.
            common: The keywords of `Instance`.
        """
        super().__init__(*filters, **common)
        self._mc = mc

    @classmethod
    def unavailable(cls) -> str | None:
        """Ask for the unpacked package, or for m4 and gcc."""
        if _installation() is None:
            return "Sendmail is not there: unpack its packages with pmilter's tools/install-mtas.sh"
        path = ENVIRONMENT["PATH"]
        missing = [tool for tool in ("m4", "gcc") if shutil.which(tool, path=path) is None]
        if missing:
            return f"a private Sendmail needs {' and '.join(missing)}: apt-get install m4 gcc libc6-dev"
        return None

    @cached_property
    def version(self) -> str:
        """What ``sendmail -d0.1`` says."""
        said = self._run([*self._program("sendmail.cf"), "-d0.1", "-bt"])
        found = re.match(r"Version (\S+)", said)
        if found is None:
            raise MilterError(f"Sendmail does not tell its version but {said!r}")
        return found[1]

    def submit(
        self,
        message: bytes,
        sender: str = "a@example.com",
        recipients: Sequence[str] = ("b@example.org",),
    ) -> None:
        """Hand in a message through the submission program; it comes to the filters by SMTP."""
        options = ["-Ac", "-i", "-f", f"<{sender}>"]
        self._run([*self._program("submit.cf"), *options, "--", *recipients], message)

    def flush(self) -> None:
        """Run the queue of the submission program, then the daemon's."""
        self._run([*self._program("submit.cf"), "-Ac", "-q"])
        self._run([*self._program("sendmail.cf"), "-q"])

    def release(self, queue_id: str) -> None:
        """Deliver a message from quarantine."""
        self._run([*self._program("sendmail.cf"), "-Q", "-qQ", f"-qI{queue_id}"])
        self._run([*self._program("sendmail.cf"), f"-qI{queue_id}"])

    def _queue(self) -> list[QueuedMessage]:
        files = [*self.directory.glob("mqueue/[qh]f*"), *self.directory.glob("clientqueue/[qh]f*")]
        return [message for file in sorted(files) if (message := _queued(file))]

    def _command(self) -> list[str]:
        return [*self._program("sendmail.cf"), "-bD"]

    def _program(self, cf: str) -> list[str]:
        preload = f"LD_PRELOAD={self.directory}/shim.so"
        return ["env", preload, f"{self.directory}/sendmail", "-C", f"{self.directory}/{cf}"]

    def _configure(self, filters: Sequence[Address]) -> None:
        found = _located()
        # A copy has no set-group-id bit, which would make the loader ignore the preloaded library.
        shutil.copyfile(found.program, self.directory / "sendmail")
        (self.directory / "sendmail").chmod(0o755)
        (self.directory / "service.switch").write_text("hosts\tfiles\n")
        self._make_log()
        self._make_queues()
        self._compile_shim()
        self._write_cf("submit", self._fill(_SUBMISSION))
        daemon = [self._fill(_DAEMON), self._filter_lines(filters), f"{self._mc}\n", _MAILERS]
        self._write_cf("sendmail", "".join(daemon))

    def _make_log(self) -> None:
        log = self.directory / "mail.log"
        log.touch()
        log.chmod(0o666)  # the submission program writes it too, as another user

    def _make_queues(self) -> None:
        for name, user in ("mqueue", _user()), ("clientqueue", _submitter()):
            queue = self.directory / name
            queue.mkdir()
            queue.chmod(0o700)
            shutil.chown(queue, user, pwd.getpwnam(user).pw_gid)

    def _compile_shim(self) -> None:
        names = {"LOG_FILE": f"{self.directory}/mail.log", "HOST_NAME": HOST_NAME}
        options = [f'-D{name}="{value}"' for name, value in names.items()]
        library = self.directory / "shim.so"
        self._run(["gcc", "-shared", "-fPIC", *options, "-o", str(library), str(_SHIM_SOURCE)])

    def _fill(self, template: str) -> str:
        return template.format(
            host_name=HOST_NAME,
            directory=self.directory,
            port=self.smtp_address[1],
            sink=self._sink.port,
            user=_user(),
            submitter=_submitter(),
        )

    def _write_cf(self, name: str, mc: str) -> None:
        source = self.directory / f"{name}.mc"
        source.write_text(mc)
        macros = _located().macros
        text = self._run(["m4", f"-D_CF_DIR_={macros}/", str(macros / "m4/cf.m4"), str(source)])
        (self.directory / f"{name}.cf").write_text(text)

    def _filter_lines(self, filters: Sequence[Address]) -> str:
        flags = _FLAGS[self._default_action]
        return "".join(
            f"INPUT_MAIL_FILTER(`filter{number}', `S={address}, {flags}T=C:30s;S:30s;R:30s;E:5m')dnl\n"
            for number, address in enumerate(filters)
        )


def _installation() -> _Installation | None:
    chosen = os.environ.get("PMILTER_SENDMAIL")
    for prefix in [chosen] if chosen else [_UNPACKED, "/"]:
        program = Path(prefix, "usr/libexec/sendmail/sendmail")
        macros = Path(prefix, "usr/share/sendmail/cf")
        if program.exists() and (macros / "m4/cf.m4").exists():
            return _Installation(program, macros)
    return None


def _located() -> _Installation:
    found = _installation()
    assert found is not None  # `unavailable` was asked first
    return found


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _submitter() -> str:
    return "mail" if os.geteuid() == 0 else _user()  # the submission program refuses to be root


def _queued(control: Path) -> QueuedMessage | None:
    """Read a control file of the queue; None if it went while we looked."""
    try:
        lines = control.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    first = {line[:1]: line[1:] for line in reversed(lines)}
    recipients = tuple(line.partition(":")[2].strip("<>") for line in lines if line.startswith("R"))
    queue = "hold" if control.name.startswith("hf") else control.parent.name
    reason = first.get("q") or first.get("M")
    return QueuedMessage(
        control.name[2:], queue, first.get("S", "").strip("<>"), recipients, reason
    )
