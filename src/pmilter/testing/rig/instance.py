"""What the private Postfix and the private Sendmail share: a directory, a sink, filters and a process.

A subclass writes its configuration, names its command and reads its queue. Everything lies in one temporary
directory and listens on loopback ports that the system chose, so any number of instances live side by side.
"""

from __future__ import annotations

import subprocess
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypedDict

from pmilter.address import parse_address
from pmilter.errors import ConfigError, MilterError, MilterTimeout
from pmilter.testing.rig.daemon import LOOPBACK, reserved_port, running, wait_for
from pmilter.testing.rig.log import Log
from pmilter.testing.rig.serve import serve
from pmilter.testing.rig.sink import Delivered, Sink
from pmilter.testing.rig.smtp import HELO, SmtpClient, SmtpResult

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator, Sequence
    from typing import Self

    from pmilter.address import Address
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.milter import Milter

HOST_NAME: Final = "mta.example.test"
COMMAND_TIMEOUT: Final = 60.0  # seconds
ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A message in the MTA's queue.

    Attributes:
        queue_id: The MTA's name for it.
        queue: Which queue it lies in: ``"hold"``, ``"deferred"``, ``"maildrop"`` and others for Postfix;
            ``"hold"``, ``"mqueue"`` or ``"clientqueue"`` for Sendmail.
        sender: Envelope sender without brackets.
        recipients: Envelope recipients without brackets.
        reason: Why it is there, if the MTA keeps that. Postfix forgets the reason of a quarantine.
    """

    queue_id: str
    queue: str
    sender: str
    recipients: tuple[str, ...]
    reason: str | None


class Common(TypedDict, total=False):
    """The keywords that both MTAs know; `Instance` tells what they mean."""

    socket: Literal["inet", "unix"]
    default_action: Literal["tempfail", "accept", "reject"]
    dispatcher: Dispatcher | None


class Instance(ABC):
    """A real MTA of your own for the length of a ``with`` block; all mail it accepts ends in a sink.

    Its methods may be called from any thread.

    Attributes:
        name: ``"postfix"`` or ``"sendmail"``.
        directory: Where its configuration, queue, log and UNIX sockets are.
        smtp_address: Host and port to send mail to.
    """

    name: ClassVar[str]
    directory: Path
    smtp_address: tuple[str, int]

    def __init__(
        self,
        *filters: Milter | str,
        socket: Literal["inet", "unix"] = "inet",
        default_action: Literal["tempfail", "accept", "reject"] = "tempfail",
        dispatcher: Dispatcher | None = None,
    ) -> None:
        """Prepare an instance; nothing is started before the ``with`` block.

        Args:
            filters: Filters in the order in which the MTA shall ask them. A `Milter` is served in a background
                thread as long as the instance lives; a string is the address of a filter that runs elsewhere,
                or that is missing on purpose.
            socket: What a `Milter` without a socket shall listen on.
            default_action: What the MTA does when a filter cannot be reached or breaks the protocol.
            dispatcher: How to serve the filters, see `serve`.
        """
        self._filters = filters
        self._socket = socket
        self._default_action = default_action
        self._dispatcher = dispatcher
        self._running = ExitStack()
        self._sink: Sink

    def __enter__(self) -> Self:
        """Start the filters and the MTA; return when it listens.

        Raises:
            ConfigError: The MTA is not installed here; the message tells what to do.
            MilterError: It did not start; the log is in the notes of the error.
        """
        if missing := self.unavailable():
            raise ConfigError(missing)
        with ExitStack() as stack:
            self.directory = stack.enter_context(_directory(f"pmilter-{self.name}-"))
            output = self.directory / "output.log"
            self._log = Log(self.name, output, self.directory / "mail.log")
            stack.enter_context(self._log.shown_in_errors())
            self._sink = stack.enter_context(Sink())
            filters = [self._filter_address(n, stack) for n in range(len(self._filters))]
            with reserved_port() as port:
                self.smtp_address = (LOOPBACK, port)
                self._configure(filters)
                stack.enter_context(running(self._command(), ENVIRONMENT, output=output, port=port))
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End the MTA, then the filters, and remove the directory."""
        self._running.close()

    # What the two MTAs do each in their own way

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Say why this MTA cannot be started here and what helps; None if it can."""

    @property
    @abstractmethod
    def version(self) -> str:
        """The MTA's version, such as ``"3.7.11"``."""

    @abstractmethod
    def submit(
        self,
        message: bytes,
        sender: str = "a@example.com",
        recipients: Sequence[str] = ("b@example.org",),
    ) -> None:
        """Hand in a message as local programs do, through this MTA's ``sendmail`` command.

        Filtering and delivery may go on after it has returned.

        Raises:
            MilterError: The command failed.
        """

    @abstractmethod
    def flush(self) -> None:
        """Try now to deliver everything that waits in the queues, held messages excepted."""

    @abstractmethod
    def release(self, queue_id: str) -> None:
        """Deliver a held message after all."""

    @abstractmethod
    def _configure(self, filters: Sequence[Address]) -> None:
        """Write all that is needed to start."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command that runs the MTA in the foreground."""

    @abstractmethod
    def _queue(self) -> list[QueuedMessage]:
        """All messages in all queues."""

    # Mail in

    @contextmanager
    def client(self, *, timeout: float = 30.0) -> Iterator[SmtpClient]:
        """A raw SMTP connection, greeting read, EHLO not yet said; `timeout` (seconds) is for each reply."""
        with self._log.shown_in_errors(), SmtpClient(self.smtp_address, timeout=timeout) as client:
            yield client

    def send(
        self,
        message: bytes,
        sender: str = "a@example.com",
        recipients: Sequence[str] = ("b@example.org",),
        *,
        helo: str = HELO,
        mail_args: Sequence[str] = (),
        rcpt_args: Sequence[str] = (),
    ) -> SmtpResult:
        """Send one message by SMTP on a connection of its own; arguments as in `SmtpClient.send`."""
        with self.client() as client:
            return client.send(
                message, sender, recipients, helo=helo, mail_args=mail_args, rcpt_args=rcpt_args
            )

    # Mail out

    def delivered(self, n: int = 1, timeout: float = 10.0) -> list[Delivered]:
        """Wait for the next `n` messages that the MTA delivers, oldest first; each is returned once.

        Raises:
            MilterTimeout: Fewer than `n` came within `timeout` seconds.
        """
        with self._log.shown_in_errors():
            return self._sink.take(n, timeout)

    def held(self, n: int = 0, timeout: float = 10.0) -> list[QueuedMessage]:
        """The messages in quarantine; waits until there are `n` at least.

        Raises:
            MilterTimeout: There were fewer after `timeout` seconds.
        """
        return self._listed("held", n, timeout)

    def queued(self, n: int = 0, timeout: float = 10.0) -> list[QueuedMessage]:
        """The messages that are neither delivered nor held: deferred, or on their way just now; waits as `held`."""
        return self._listed("queued", n, timeout)

    # What it says

    def log(self) -> str:
        """The MTA's log so far. It may lag a moment behind the replies; `logged` waits."""
        return self._log.text()

    def logged(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait until the regular expression `pattern` is found in the log, and return the first match.

        Raises:
            MilterTimeout: It was not found within `timeout` seconds.
        """
        with self._log.shown_in_errors():
            return self._log.find(pattern, timeout)

    def _listed(
        self, kind: Literal["held", "queued"], n: int, timeout: float
    ) -> list[QueuedMessage]:
        found: list[QueuedMessage] = []

        def enough() -> bool:
            found[:] = [one for one in self._queue() if (one.queue == "hold") == (kind == "held")]
            return len(found) >= n

        with self._log.shown_in_errors():
            if not wait_for(enough, timeout):
                raise MilterTimeout(
                    f"{len(found)} of {n} messages were {kind} within {timeout:g} s",
                    seconds=timeout,
                )
        return found

    # Parts of the start

    def _filter_address(self, number: int, stack: ExitStack) -> Address:
        """The address of one filter, which is served from now on if it is an object."""
        one = self._filters[number]
        if isinstance(one, str):
            return parse_address(one)
        if self._socket == "inet":
            return stack.enter_context(
                serve(one, f"inet:0@{LOOPBACK}", dispatcher=self._dispatcher)
            )
        path = f"unix:{self.directory}/filter{number}.sock"
        # The MTA connects as a user of its own, hence the mode.
        return stack.enter_context(serve(one, path, perms=0o666, dispatcher=self._dispatcher))

    def _run(self, command: Sequence[str], data: bytes = b"") -> str:
        """Run one of the MTA's commands and return what it prints."""
        try:
            done = subprocess.run(  # noqa: S603  no shell; the program is the MTA's own
                command,
                env=ENVIRONMENT,
                input=data,
                capture_output=True,
                timeout=COMMAND_TIMEOUT,
                check=True,
                cwd=self.directory,
            )
        except subprocess.CalledProcessError as error:
            said = (error.stderr + error.stdout).decode(errors="replace").strip()
            raise MilterError(
                f"{command!r} ended with status {error.returncode}: {said}"
            ) from error
        return done.stdout.decode(errors="replace")


@contextmanager
def _directory(prefix: str) -> Iterator[Path]:
    """A directory that the MTA's own users may enter, which those of $TMPDIR often are not."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
