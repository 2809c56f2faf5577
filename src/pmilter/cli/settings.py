"""The settings of ``pmilter run``: the one table of them."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any, Final

from pmilter.address import Address, parse_address
from pmilter.cli.options import option
from pmilter.cli.values import (
    NEVER,
    Account,
    Deadlines,
    Fallback,
    Never,
    parse_account,
    parse_count,
    parse_deadlines,
    parse_fallback,
    parse_group,
    parse_limit,
    parse_memory,
    parse_mode,
    parse_peer,
    parse_seconds,
)
from pmilter.dispatchers.generations import DRAIN_TIME, LINGER, LOAD_TIME
from pmilter.dispatchers.registry import MODULES
from pmilter.limits import Limits
from pmilter.milter import DEFAULT_BACKLOG, DEFAULT_TIMEOUT

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

_WHOLE: Final = (int, str)
_NUMBER: Final = (int, float, str)

_socket = partial(option, heading="Socket", restart=True)
_service = partial(option, heading="Service")
_process = partial(option, heading="Process", restart=True)
_answers = partial(option, heading="Answers")
_log = partial(option, heading="Log", restart=True)
_limit = partial(option, heading="Limits")


def _seconds(text: str) -> float | Never:
    return NEVER if text.lower() == str(NEVER) else parse_seconds(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The settings of ``pmilter run`` but for the limits, which `SETTINGS` has too. None: as the program has it."""

    listen: Address | None = field(
        default=None,
        metadata=_socket(
            "-l",
            "--listen",
            metavar="ADDRESS",
            parse=parse_address,
            help="Where to listen: inet:PORT@HOST, inet6:PORT@HOST, unix:/path, or fd:NAME for a socket handed in by systemd. "
            "May be left out where the program itself calls setconn; it then cannot be reloaded.",
        ),
    )
    mode: str | None = field(
        default=None,
        metadata=_socket(
            "--mode",
            metavar="OCTAL",
            parse=parse_mode,
            help="Mode of the UNIX socket, such as 660. By default what the umask leaves, and nothing for others.",
        ),
    )
    group: str | None = field(
        default=None,
        metadata=_socket(
            "--group",
            metavar="NAME",
            parse=parse_group,
            help="Group of the UNIX socket, such as the one of the MTA.",
        ),
    )
    backlog: int = field(
        default=DEFAULT_BACKLOG,
        metadata=_socket(
            "--backlog",
            metavar="N",
            parse=parse_limit,
            kinds=_WHOLE,
            help="How many connections may wait to be accepted.",
        ),
    )
    allow: tuple[str, ...] = field(
        default=(),
        metadata=_service(
            "--allow",
            metavar="PEER",
            parse=parse_peer,
            kinds=(str,),
            repeated=True,
            help="Serve this peer, and nobody else but others given so or by the program: a network or address for inet sockets, "
            "user:NAME or group:NAME for UNIX sockets. Can be given several times.",
        ),
    )
    dispatcher: str | None = field(
        default=None,
        metadata=_service(
            "-d",
            "--dispatcher",
            choices=tuple(MODULES),
            help="How connections are served, whatever the program has set. By default the program's choice, then "
            "asyncio where a callback is async, else postfork.",
        ),
    )
    workers: int | None = field(
        default=None,
        metadata=_service(
            "-w",
            "--workers",
            metavar="N",
            parse=parse_count,
            kinds=_WHOLE,
            help="Serve in N processes, each with the dispatcher, so that all processors are used: --dispatcher selector with "
            "as many workers as there are cores where callbacks are quick, ithread where they wait. 0 for no such processes.",
        ),
    )
    uvloop: bool | None = field(
        default=None,
        metadata=_service(
            "--uvloop",
            switch=True,
            help="Have the dispatcher asyncio use uvloop, which must be installed.",
        ),
    )
    max_children: int | None = field(
        default=None,
        metadata=_service(
            "--max-children",
            metavar="N",
            parse=parse_count,
            kinds=_WHOLE,
            restart=True,
            help="Most connections at a time; with the dispatcher prefork, how many processes. Not with --workers. "
            "0 for the dispatcher's own number.",
        ),
    )
    max_requests: int | None = field(
        default=None,
        metadata=_service(
            "--max-requests",
            metavar="N",
            parse=parse_count,
            kinds=_WHOLE,
            restart=True,
            help="Connections after which a process of prefork or --workers is replaced. 0, the default, for 100 with prefork, "
            "and for never with --workers.",
        ),
    )
    max_memory: int | None = field(
        default=None,
        metadata=_service(
            "--max-memory",
            metavar="BYTES",
            parse=parse_memory,
            kinds=_WHOLE,
            restart=True,
            help="Resident memory, such as 512M or 2G, at least 16M, over which a process that serves finishes what it has and is replaced.",
        ),
    )
    drain_time: float = field(
        default=DRAIN_TIME,
        metadata=_service(
            "--drain-time",
            metavar="SECONDS",
            parse=parse_seconds,
            kinds=_NUMBER,
            restart=True,
            help="How long the connections of a process that is replaced may go on before they are told to come again.",
        ),
    )
    linger: float = field(
        default=LINGER,
        metadata=_service(
            "--linger",
            metavar="SECONDS",
            parse=parse_seconds,
            kinds=_NUMBER,
            restart=True,
            help="How long open connections may go on after a first TERM where the socket was handed in (fd:NAME), before they are "
            "told to come again.",
        ),
    )
    load_time: float = field(
        default=LOAD_TIME,
        metadata=_service(
            "--load-time",
            metavar="SECONDS",
            parse=parse_seconds,
            kinds=_NUMBER,
            restart=True,
            help="How long the program may take to load and to pass its trial session.",
        ),
    )
    deadlines: Deadlines | None = field(
        default=None,
        metadata=_answers(
            "--deadlines",
            metavar="[postfix|sendmail|COMMAND[,EOM]]",
            parse=parse_deadlines,
            kinds=_NUMBER,
            help="Seconds after which a callback is answered for, and the same at end of message: postfix is 25,270, sendmail "
            "is 8,280. Sets --command-time and --eom-time, which win where they are given too.",
        ),
    )
    fallback: tuple[Fallback, ...] = field(
        default=(),
        metadata=_answers(
            "--fallback",
            metavar="[STAGE=]ANSWER",
            parse=parse_fallback,
            kinds=(str,),
            repeated=True,
            help="Answer for a callback that fails or is late: tempfail, reject, accept, continue, or shutdown, which is the "
            "reply 421 and ends the client's session; for all stages or for one. Can be given several times.",
        ),
    )
    timeout: float | Never | None = field(
        default=None,
        metadata=_answers(
            "--timeout",
            metavar="SECONDS",
            parse=_seconds,
            kinds=_NUMBER,
            otherwise=f"{DEFAULT_TIMEOUT:g}",
            help="Silence of the MTA after which a connection is closed; none for never.",
        ),
    )
    user: Account | None = field(
        default=None,
        metadata=_process(
            "--user",
            metavar="USER[:GROUP]",
            parse=parse_account,
            help="Whom to become when the socket is open and before the program is loaded, for a start as root. All of root's "
            "rights are given up for good.",
        ),
    )
    pid_file: str | None = field(
        default=None,
        metadata=_process(
            "--pid-file",
            metavar="PATH",
            help="Where to write the number of the main process; removed at the end. None by default: systemd needs none.",
        ),
    )
    log_level: str = field(
        default="info",
        metadata=_log(
            "--log-level",
            choices=LEVELS,
            help="Least important lines to log; the log goes to stderr.",
        ),
    )
    log_format: str = field(
        default="text",
        metadata=_log(
            "--log-format",
            choices=FORMATS,
            help="Lines for people, or a JSON object a line for collectors.",
        ),
    )

    def limits(self) -> dict[str, Any]:
        """Return the limits that were given, by their names in `Limits`."""
        given: dict[str, Any] = {} if self.deadlines is None else self.deadlines.limits()
        for name in Limits.__slots__:
            value = getattr(self, name)
            if value is not None:
                given[name] = None if value is NEVER else value
        return given


# --- the limits, which are what `Limits` says that they are


def _limit_fields() -> list[tuple[str, Any, Any]]:
    texts = _argument_texts(inspect.getdoc(Limits) or "")
    parameters = inspect.signature(Limits).parameters.values()
    return [_limit_field(one, texts.get(one.name, "")) for one in parameters]


def _limit_field(parameter: inspect.Parameter, text: str) -> tuple[str, Any, Any]:
    name, annotation = parameter.name, str(parameter.annotation)
    whole = annotation.startswith("int")
    metadata = _limit(
        f"--{name.replace('_', '-')}",
        metavar="N" if whole else "SECONDS",
        parse=partial(_parse_limit, name, whole=whole, may_be_none="None" in annotation),
        kinds=_WHOLE if whole else _NUMBER,
        otherwise=_shown(parameter.default),
        help=text,
    )
    return name, "float | Never | None", field(default=None, metadata=metadata)


def _parse_limit(name: str, text: str, *, whole: bool, may_be_none: bool) -> float | Never:
    if may_be_none and text.lower() == str(NEVER):
        return NEVER
    value = parse_limit(text) if whole else parse_seconds(text)
    Limits().replace(**{name: value})  # raises where it does not take it
    return value


def _shown(value: float | None) -> str:
    return str(NEVER) if value is None else f"{value:.15g}"


def _argument_texts(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each argument; nothing where Python was told to leave docstrings out."""
    _, _, rest = docstring.partition("Args:\n")
    section = re.split(r"\n\n", rest)[0]
    found = re.findall(r"^    (\w+): (.+(?:\n        .+)*)", section, re.MULTILINE)
    plain = {name: text.replace("`", "").replace("None", str(NEVER)) for name, text in found}
    return {name: re.sub(r"\s+", " ", text) for name, text in plain.items()}


SETTINGS: Final = make_dataclass(
    "RunSettings",
    _limit_fields(),
    bases=(RunSettings,),
    frozen=True,
    slots=True,
    kw_only=True,
)
"""All settings of ``pmilter run``, with a field for each of `Limits` after those of `RunSettings`."""
