"""Who is measured: the ceilings, other people's libraries, and every dispatcher of ours."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmarks.cases import Case, Family

Group = Literal["ceiling", "peer", "ours"]

ALL_FILTERS = ("noop", "tagger", "small", "noreply")
# Children of the prefork dispatchers: more than the usual number of connections.
PROCESSES = 20


@dataclass(frozen=True)
class Contestant:
    """A server to measure.

    Attributes:
        name: How it is called in tables and on the command line.
        group: Whose it is.
        need: What `benchmarks.build` must have made or found; its path becomes ``{program}``.
        command: With ``{program}``, ``{here}`` (the folder of the suite), ``{address}``,
            ``{filter}`` and ``{processes}`` to be filled in.
        filters: The filters that can be written with it.
        families: The sockets that it can listen on, the best one first.
        lacks: Commands with their answers that it cannot be asked, as `benchmarks.answers` writes
            them; one that is missing and not named here is an error.
        besides: Those that it cannot do without, also where the workload's filter wants none.
        most_idle: The number of idle connections beyond which reading its memory takes too long.
    """

    name: str
    group: Group
    need: str
    command: str
    filters: tuple[str, ...] = ALL_FILTERS
    families: tuple[Family, ...] = ("unix", "tcp")
    lacks: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()
    most_idle: int = 1000

    def family(self, case: Case) -> Family:
        """What it is measured over: TCP also for a UNIX case if it can do nothing else."""
        return case.family if case.family in self.families else self.families[0]


def _ceiling(model: str) -> Contestant:
    command = f"{{program}} {model} {{address}} {{filter}}"
    return Contestant(f"ceiling-{model}", "ceiling", "ceiling", command)


def _perl(dispatcher: str, most_idle: int) -> Contestant:
    return Contestant(
        f"perl-{dispatcher}",
        "peer",
        "perl",
        f"{{program}} {{here}}/peers/pmilter.pl {dispatcher} {{address}} {{filter}} {{processes}}",
        filters=("noop", "tagger", "small"),
        lacks=("T=c",),  # it speaks version 2, which has no DATA
        besides=("C=c", "M=c"),
        most_idle=most_idle,
    )


def _python_libmilter(model: str) -> Contestant:
    return Contestant(
        f"python-libmilter-{model}",
        "peer",
        "venv",
        f"{{program}} {{here}}/peers/python_libmilter_filter.py {model} {{address}} {{filter}}",
    )


def _ours(dispatcher: str, need: str = "pmilter", suffix: str = "") -> Contestant:
    return Contestant(
        f"pmilter-{dispatcher}{suffix}",
        "ours",
        need,
        f"{{program}} {{here}}/servers/pmilter_server.py {dispatcher} {{address}} {{filter}} "
        "{processes}",
    )


CONTESTANTS = (
    _ceiling("epoll"),
    _ceiling("thread"),
    Contestant("libmilter", "peer", "libmilter", "{program} {address} {filter}"),
    Contestant(
        "pymilter",
        "peer",
        "pymilter",
        "{program} {here}/peers/pymilter_filter.py {address} {filter}",
    ),
    _perl("postfork", 1000),
    _perl("prefork", 16),
    _perl("ithread", 16),
    Contestant(
        "purepythonmilter",
        "peer",
        "venv",
        "{program} {here}/peers/purepythonmilter_filter.py {address} {filter}",
        families=("tcp",),
    ),
    _python_libmilter("threads"),
    _python_libmilter("async"),
    Contestant(
        "go-milter",
        "peer",
        "gomilter",
        "{program} {address} {filter}",
        filters=("noop", "tagger", "small"),
        lacks=("T=c",),  # version 2, too
    ),
    _ours("selector"),
    _ours("asyncio"),
    _ours("asyncio-async"),
    _ours("uvloop-async", need="pmilter with uvloop"),
    _ours("ithread"),
    _ours("postfork"),
    _ours("prefork"),
    _ours("prefork-selector"),
    _ours("sequential"),
    _ours("selector", need="pmilter compiled", suffix="-compiled"),
)


def choose_contestants(patterns: list[str]) -> tuple[Contestant, ...]:
    """Pick by shell patterns of the name or group; raises ValueError for one that fits none."""
    chosen: dict[Contestant, None] = {}
    for pattern in patterns:
        found = [
            contestant
            for contestant in CONTESTANTS
            if fnmatch.fnmatchcase(contestant.name, pattern) or contestant.group == pattern
        ]
        if not found:
            names = " ".join(contestant.name for contestant in CONTESTANTS)
            raise ValueError(f"no contestant fits {pattern!r}; there are: {names}")
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)
