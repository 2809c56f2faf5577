"""How the filter of a proof is served; travels to its process in the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import pmilter
from pmilter import Limits

if TYPE_CHECKING:
    from pmilter.dispatchers.registry import Dispatcher

VARIABLE: Final = "PMILTER_PROOF"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One arrangement.

    Attributes:
        dispatcher: Its name; ``prefork-NAME`` is prefork with workers of that name.
        processes: Children of prefork.
        requests: Connections after which a child of prefork is replaced.
        connections: Most connections that a process serves at a time.
        max_memory: Bytes over which a process is replaced, or None.
        command_time, eom_time, progress_time, grace: As in `Limits`.
        coroutines: Whether callbacks are ``async def``.
        pause: Most seconds that the filter takes at end of message; each time a part of them at random.
    """

    dispatcher: str
    processes: int = 4
    requests: int = 100
    connections: int = 10_000
    max_memory: int | None = None
    command_time: float = 25.0
    eom_time: float = 270.0
    progress_time: float = 5.0
    grace: float = 10.0
    coroutines: bool = False
    pause: float = 0.0

    @classmethod
    def from_environment(cls) -> Settings:
        """Return those that this process was started with."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        """Return the variable for a process that is to serve so."""
        return {VARIABLE: json.dumps(asdict(self))}

    @property
    def limits(self) -> Limits:
        """The filter's limits."""
        return Limits(
            connections=self.connections,
            command_time=self.command_time,
            eom_time=self.eom_time,
            progress_time=self.progress_time,
            grace=self.grace,
        )

    def make_dispatcher(self) -> Dispatcher:
        """Return the filter's dispatcher."""
        name, _, worker = self.dispatcher.partition("-")
        if name == "prefork":
            return pmilter.prefork_dispatcher(
                max_children=self.processes,
                max_requests_per_child=self.requests,
                max_memory=self.max_memory,
                worker=_plain(worker) if worker else None,
            )
        if name == "postfork":
            return pmilter.postfork_dispatcher(max_memory=self.max_memory)
        return _plain(name)


def _plain(name: str) -> Dispatcher:
    made: Dispatcher = getattr(pmilter, f"{name}_dispatcher")()
    return made
