"""`Milter`: a filter as its author defines it, and its way into service."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from pmilter.callbacks import check_callback, is_coroutine_callback, resolve_callbacks
from pmilter.errors import ConfigError, LocalProtocolError
from pmilter.limits import Limits, check_whole
from pmilter.plan import (
    KEEPABLE,
    NEVER_QUIET,
    Callback,
    Plan,
    format_symlist,
    macros_stage,
    make_fallback,
)
from pmilter.protocol.constants import ACTIONS, Action, Status, Step
from pmilter.protocol.rules import STAGES

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from pmilter.address import Address
    from pmilter.context import Context
    from pmilter.dispatchers.admission import Peers
    from pmilter.dispatchers.listening import ListeningSocket
    from pmilter.dispatchers.registry import Dispatcher
    from pmilter.dispatchers.serving import Serving
    from pmilter.facts import ClientAddress
    from pmilter.plan import Fallback
    from pmilter.protocol.messages import Options
    from pmilter.reply import Reply

    Result = Status | Reply | None
    AnyResult = Result | Awaitable[Result]
    _Negotiate = TypeVar(
        "_Negotiate",
        bound=Callable[
            [Context, Options, Options],
            Options | Status | Awaitable[Options | Status | None] | None,
        ],
    )
    _Connect = TypeVar("_Connect", bound=Callable[[Context, str, ClientAddress], AnyResult])
    _Text = TypeVar("_Text", bound=Callable[[Context, str], AnyResult])
    _Envelope = TypeVar("_Envelope", bound=Callable[..., AnyResult])
    _Plain = TypeVar("_Plain", bound=Callable[[Context], AnyResult])
    _Header = TypeVar("_Header", bound=Callable[[Context, str, str], AnyResult])
    _Body = TypeVar("_Body", bound=Callable[[Context, bytes], AnyResult])
    _Unanswered = TypeVar("_Unanswered", bound=Callable[[Context], object])

logger: Final = logging.getLogger("pmilter")

DEFAULT_TIMEOUT: Final = 7210.0
"""Seconds of silence after which a connection is closed: longer than any SMTP client may be silent."""

DEFAULT_BACKLOG: Final = 128

_DEFAULT_CF: Final = "/etc/mail/sendmail.cf"


class Milter:
    """A mail filter: its callbacks, what it may do, where it listens and how it is served.

    Define it with `on` or `register`, give it a socket with `setconn`, serve it with `main`. Everything but `stop` and
    `address` is for the thread that will call `main`, before it does.

    Args:
        name: Name for the log.
        actions: Changes that the filter may make. What the MTA does not offer is left out, and said in the log.
        steps: Extra abilities wanted where offered: `Step.HDR_LEADSPC`, `Step.RCPT_REJ`.
        keep: Stages of connect, helo, envfrom and envrcpt whose facts `Context` shall know even without a callback. No reply
            is asked for where the MTA can do without. All other stages without a callback are negotiated away.
        fallback: Answer where a callback fails: TEMPFAIL, REJECT, ACCEPT, CONTINUE, or ``"shutdown"`` for the reply
            ``421 4.7.0``, which ends the SMTP session too; for all stages or by stage.
        limits: Bounds on what a peer can make the filter hold or wait for.

    Raises:
        ConfigError: An unknown stage, bit or fallback.
        TypeError: An argument of another type.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        actions: Action | int = Action(0),
        steps: Step | int = Step(0),
        keep: Iterable[str] = KEEPABLE,
        fallback: Fallback | Mapping[str, Fallback] = Status.TEMPFAIL,
        limits: Limits | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a text, not {name!r}")
        self.name = name or "milter"
        self._actions = _check_actions(actions)
        self._steps = _check_steps(steps)
        self._keep = _check_keep(keep)
        self.set_fallback(fallback)
        self.set_limits(limits if limits is not None else Limits())
        self._peers: Peers | None = None
        self._timeout: float | None = DEFAULT_TIMEOUT
        self._callbacks: dict[str, Callback] = {}
        self._backlog = DEFAULT_BACKLOG
        self._socket: ListeningSocket | None = None
        self._sendmail_cf = _DEFAULT_CF
        self._dispatcher: Dispatcher | None = None
        self._serving: Serving | None = None
        self._stop_asked = False
        self._max_children = 0
        self._max_requests = 0

    # --- callbacks

    def register(
        self,
        name: str | None,
        callbacks: Mapping[str, Callable[..., Any] | str] | None = None,
        flags: Action | int = Action(0),
    ) -> None:
        """Define the filter in one call, as Sendmail::PMilter does. Replaces all callbacks and the actions.

        Args:
            name: Name for the log; None keeps the one that it has.
            callbacks: Stage -> callable, or name of a function in the caller's module. A stage that is not in it is looked up
                there as ``<stage>_callback``.
            flags: Changes that the filter may make.

        Raises:
            ConfigError: An unknown stage, a name that does not resolve, a callable that cannot take the stage's arguments.
        """
        namespace = sys._getframe(1).f_globals  # noqa: SLF001  # the caller's module is part of the interface
        functions = resolve_callbacks(callbacks or {}, namespace)
        self._actions = _check_actions(flags)
        self._callbacks = {stage: Callback(function) for stage, function in functions.items()}
        self.name = name or self.name

    @overload
    def on(
        self,
        stage: Literal["negotiate"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Negotiate], _Negotiate]: ...
    @overload
    def on(
        self,
        stage: Literal["connect"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Connect], _Connect]: ...
    @overload
    def on(
        self,
        stage: Literal["helo", "unknown"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Text], _Text]: ...
    @overload
    def on(
        self,
        stage: Literal["envfrom", "envrcpt"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Envelope], _Envelope]: ...
    @overload
    def on(
        self,
        stage: Literal["data", "eoh", "eom"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Plain], _Plain]: ...
    @overload
    def on(
        self,
        stage: Literal["header"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Header], _Header]: ...
    @overload
    def on(
        self,
        stage: Literal["body"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Body], _Body]: ...
    @overload
    def on(
        self,
        stage: Literal["abort", "close"],
        *,
        noreply: bool = False,
        macros: str | Iterable[str] | None = None,
    ) -> Callable[[_Unanswered], _Unanswered]: ...
    def on(
        self, stage: str, *, noreply: bool = False, macros: str | Iterable[str] | None = None
    ) -> Callable[[Any], Any]:
        """Return a decorator that makes a function the callback of a stage, and returns it unchanged.

        Args:
            stage: negotiate, connect, helo, envfrom, envrcpt, data, unknown, header, eoh, body, eom, abort or close.
            noreply: The MTA need not wait for an answer. A verdict all the same is kept for the next command of the message
                that has one. Not for negotiate, eom, abort and close.
            macros: Names of macros to ask for with this stage, instead of those that the MTA sends by itself.

        Raises:
            ConfigError: An unknown stage, an option that it cannot have, or, from the decorator, a function that cannot take
                the stage's arguments.
        """
        if stage not in STAGES:
            raise ConfigError(
                f"unknown stage {stage!r}; the stages are {', '.join(STAGES)}", source=stage
            )
        if noreply and stage in NEVER_QUIET:
            raise ConfigError(
                f"stage {stage} cannot be without a reply: leave noreply out", source=stage
            )
        symlist: bytes | None = None
        if macros is not None:
            macros_stage(stage)
            symlist = format_symlist(macros)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            check_callback(stage, function)
            self._callbacks[stage] = Callback(function, noreply, symlist)
            return function

        return decorate

    def plan(self) -> Plan:
        """Return the filter as it is defined now, as one immutable value."""
        return Plan(
            self.name,
            dict(self._callbacks),
            self._actions,
            self._steps,
            self._keep,
            self._fallback,
            self._limits,
            self._timeout,
        )

    # --- what it may cost, and what becomes of failures

    def set_fallback(self, fallback: Fallback | Mapping[str, Fallback]) -> None:
        """Set the answer where a callback fails, as the constructor's `fallback`.

        Raises:
            ConfigError: An unknown stage, or what cannot be a fallback.
            TypeError: Neither a `Status`, a text nor a mapping.
        """
        self._fallback = make_fallback(fallback)

    def set_limits(self, limits: Limits) -> None:
        """Set the bounds on connections, as the constructor's `limits`.

        Raises:
            TypeError: Not a `Limits`.
        """
        if not isinstance(limits, Limits):
            raise TypeError(f"limits must be a Limits, not {limits!r}")
        self._limits = limits

    # --- the socket

    def setconn(
        self, desc: str, perms: int | str | None = None, group: int | str | None = None
    ) -> None:
        """Bind and listen now, so that privileges can be dropped before `main`.

        Args:
            desc: Address, see `pmilter.address`.
            perms: Mode of a UNIX socket, as ``0o660`` or ``"660"``; by default what the umask leaves, and nothing for others.
            group: Group of a UNIX socket, name or number. Both are in force before anyone can connect.

        Raises:
            ConfigError: A bad address, mode or group.
            LocalProtocolError: There is a socket already.
            OSError: What the system says: address in use, no permission, no such directory.
            TypeError: An argument of another type.
        """
        from pmilter.dispatchers.listening import (
            listen_on,  # sockets cost import time, filters' tests need none
        )

        self._check_unbound()
        self._socket = listen_on(desc, perms, group, self._backlog)
        logger.info("%s: listening on %s", self.name, self._socket.address)

    def set_socket(self, sock: socket.socket) -> None:
        """Take a socket that listens already; `main` closes it at its end.

        Raises:
            LocalProtocolError: There is a socket already.
            ConfigError: It does not listen.
            TypeError: It is no socket.
        """
        from pmilter.dispatchers.listening import adopt  # as above

        self._check_unbound()
        self._socket = adopt(sock)

    def set_listen(self, backlog: int) -> None:
        """Set how many connections may wait to be accepted (default 128); before `setconn`.

        Raises:
            LocalProtocolError: There is a socket already.
            ConfigError: Not above 0.
            TypeError: Not a whole number.
        """
        self._check_unbound()
        check_whole("backlog", backlog, 1)
        self._backlog = backlog

    def allow_peers(self, *peers: str) -> None:
        """Serve these peers only: all others are closed at once. May be called again to allow more.

        Args:
            *peers: For inet sockets networks or addresses, such as ``"192.0.2.0/24"`` or ``"::1"``. For UNIX sockets
                ``"user:NAME"`` or ``"group:NAME"``, by name or number: who the connecting process runs as.

        Raises:
            ConfigError: Nothing of the kind, or there is no such user or group on this machine.
            TypeError: Not a text.
        """
        from pmilter.dispatchers.admission import Peers  # few filters need it

        self._peers = (self._peers or Peers()).allowing(*peers)

    @property
    def peers(self) -> Peers | None:
        """The peers that alone are served, or None where all are."""
        return self._peers

    def _check_unbound(self) -> None:
        self._stop_asked = False
        if self._socket is not None:
            raise LocalProtocolError(f"there is a socket already, on {self._socket.address}")

    @property
    def address(self) -> Address | None:
        """The address that is bound, with the real port where 0 was asked for; None before `setconn`."""
        return self._socket.address if self._socket is not None else None

    # --- sendmail.cf

    def auto_getconn(self, name: str, config: str | None = None) -> str | None:
        """Return the address that sendmail.cf gives a filter of this name, or None where it has none.

        Args:
            name: Name in the ``X`` line.
            config: The file; by default `get_sendmail_cf`.

        Raises:
            ConfigError: The name is empty, or the file cannot be read.
        """
        if not name:
            raise ConfigError("auto_getconn needs the name of a filter")
        from pmilter.sendmailcf import find_connection  # few filters look there

        return find_connection(name, config or self._sendmail_cf)

    def auto_setconn(self, name: str, config: str | None = None) -> None:
        """Listen where sendmail.cf says that the filter of this name is.

        Raises:
            ConfigError: As `auto_getconn`, or there is no such filter.
            OSError: As `setconn`.
        """
        address = self.auto_getconn(name, config)
        if address is None:
            path = config or self._sendmail_cf
            raise ConfigError(f"{path} has no X line with an S= for filter {name!r}", source=path)
        self.setconn(address)

    def get_sendmail_cf(self) -> str:
        """Return the path of the sendmail.cf that is looked into."""
        return self._sendmail_cf

    def set_sendmail_cf(self, path: str | None = None) -> None:
        """Set the path of the sendmail.cf to look into; None or nothing for /etc/mail/sendmail.cf."""
        self._sendmail_cf = os.fspath(path) if path else _DEFAULT_CF

    def get_sendmail_class(self, name: str, config: str | None = None) -> list[str]:
        """Return the members of a class (``C`` and ``F`` lines), in file order without duplicates.

        Raises:
            ConfigError: The file, or one that it names, cannot be read, or a class comes from a program or map.
        """
        from pmilter.sendmailcf import class_members  # few filters look there

        return class_members(name, config or self._sendmail_cf)

    def get_sendmail_option(self, name: str, config: str | None = None) -> str | None:
        """Return the value of an option (``O`` line), or None where it is not set.

        Raises:
            ConfigError: The file cannot be read.
        """
        from pmilter.sendmailcf import find_option  # few filters look there

        return find_option(name, config or self._sendmail_cf)

    # --- service

    def set_dispatcher(self, dispatcher: Dispatcher) -> None:
        """Set how connections are served; see `pmilter.dispatchers`.

        Raises:
            TypeError: It is not callable.
        """
        if not callable(dispatcher):
            raise TypeError(
                f"a dispatcher is a callable such as ithread_dispatcher(), not {dispatcher!r}"
            )
        self._dispatcher = dispatcher

    def get_max_interpreters(self) -> int:
        """Return the `max_children` that `main` was given."""
        return self._max_children

    def get_max_requests(self) -> int:
        """Return the `max_requests` that `main` was given."""
        return self._max_requests

    def settimeout(self, seconds: float | None) -> None:
        """Set the silence from the MTA after which a connection is closed (default 7210 seconds); None for never.

        Raises:
            ConfigError: Not above 0.
            TypeError: No number.
        """
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, (int, float))
        ):
            raise TypeError(f"timeout must be a number of seconds, or None, not {seconds!r}")
        if seconds is not None and not seconds > 0:
            raise ConfigError(
                f"timeout must be a number of seconds above 0, or None, not {seconds!r}"
            )
        self._timeout = seconds

    def main(self, max_children: int = 0, max_requests: int = 0) -> None:
        """Serve until `stop` or a signal; return after a clean stop, with the socket closed and its path removed.

        Args:
            max_children: Most connections at a time (with prefork: processes); 0 for the dispatcher's own.
            max_requests: With prefork: connections that a process serves before it is replaced; 0 for 100.

        Raises:
            ConfigError: No socket, no callbacks, a dispatcher that cannot run them, peers that cannot use the socket, or a number
                below 0.
            TypeError: No whole number.
        """
        from pmilter.dispatchers.serving import serve  # as above

        if self._socket is None:
            raise ConfigError(f"{self.name} has no socket: call setconn before main")
        for argument, value in (("max_children", max_children), ("max_requests", max_requests)):
            check_whole(argument, value, 0)
        self._max_children, self._max_requests = max_children, max_requests
        try:
            serve(self, self._socket)
        finally:
            self._socket = None

    @property
    def dispatcher(self) -> Dispatcher | None:
        """The dispatcher that was set, or None."""
        return self._dispatcher

    def attach(self, serving: Serving | None) -> None:
        """Take the service that `stop` is to end; `main` calls this. A stop that came too early ends it at once."""
        self._serving = serving
        if serving is not None and self._stop_asked:
            serving.stop()
        if serving is None:
            self._stop_asked = False

    def coroutine_stages(self) -> list[str]:
        """Return the stages whose callback is a coroutine function."""
        return [
            stage
            for stage, callback in self._callbacks.items()
            if is_coroutine_callback(callback.function)
        ]

    def stop(self) -> None:
        """End `main` gracefully: no new connections, open messages are finished. From a callback, a signal handler or any thread."""
        self._stop_asked = True  # first: whoever attaches a service from now on sees it
        serving = self._serving
        if serving is not None:
            serving.stop()


def _check_actions(actions: Action | int) -> Action:
    check_whole("actions", actions, 0)
    if unknown := int(actions) & ~int(
        ACTIONS[6]
    ):  # an IntFlag's complement knows only bits that have names
        raise ConfigError(f"unknown action bits {unknown:#x}")
    return Action(actions)


def _check_steps(steps: Step | int) -> Step:
    allowed = Step.HDR_LEADSPC | Step.RCPT_REJ | Step.SKIP
    check_whole("steps", steps, 0)
    if refused := int(steps) & ~int(allowed):
        raise ConfigError(
            f"steps may hold HDR_LEADSPC and RCPT_REJ; {Step(refused)!r} follows from callbacks, noreply and keep"
        )
    return Step(steps)


def _check_keep(keep: Iterable[str]) -> frozenset[str]:
    stages = frozenset((keep,)) if isinstance(keep, str) else frozenset(keep)
    if unknown := stages - set(KEEPABLE):
        raise ConfigError(
            f"keep: unknown stage {', '.join(sorted(unknown))}; it may hold {', '.join(KEEPABLE)}"
        )
    return stages
