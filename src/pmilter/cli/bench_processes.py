"""Loads in processes of their own: their figures are not disturbed by what is drawn meanwhile, and they have a core each."""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import traceback
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pmilter.cli.exits import Exit
from pmilter.client.load import Figures, Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmilter.client.load import Plan

_PAUSE: Final = 0.1
"""Seconds between two calls of who watches, at least as often."""

_PIECE: Final = 65536
_SPARE_FILES: Final = 64
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Standing(NamedTuple):
    """How far a load is."""

    messages: int = 0
    failures: int = 0


class Outcome(NamedTuple):
    """What came of it."""

    figures: Figures
    interrupted: bool


def run_loads(plans: Iterable[Plan], watch: Callable[[Standing], None]) -> Outcome:
    """Run loads at the same time, each in a process of its own, and return what they have measured together.

    An interrupt from the keyboard ends them early; a second one ends everything.

    Args:
        plans: The loads.
        watch: Called about ten times a second with what all have done so far.

    Raises:
        RuntimeError: One of the processes ended without a result.
    """
    workers: list[_Worker] = []
    interrupted = False
    try:
        with selectors.DefaultSelector() as selector:
            for plan in plans:
                workers.append(_Worker(plan))
                selector.register(workers[-1].pipe, selectors.EVENT_READ, workers[-1])
            while selector.get_map():
                try:
                    _listen(selector)
                    watch(_together(workers))
                except KeyboardInterrupt:
                    if interrupted:
                        raise
                    interrupted = True
                    for worker in workers:
                        worker.stop()
    finally:
        for worker in workers:
            worker.end()
    figures = Figures()
    for worker in workers:
        figures.add(worker.result())
    return Outcome(figures, interrupted)


def _listen(selector: selectors.BaseSelector) -> None:
    for key, _ in selector.select(_PAUSE):
        if not key.data.read():
            selector.unregister(key.fileobj)


def _together(workers: Iterable[_Worker]) -> Standing:
    pairs = [worker.standing for worker in workers]
    return Standing(sum(one.messages for one in pairs), sum(one.failures for one in pairs))


class _Worker:
    """A process that runs a load, seen from its parent.

    Attributes:
        pipe: Where it tells of itself: a line of JSON each time.
        standing: How far it is.
    """

    def __init__(self, plan: Plan) -> None:
        self.pipe, writer = os.pipe()
        self.standing = Standing()
        self._figures: Figures | None = None
        self._line = b""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._pid = os.fork()
            if not self._pid:
                os.close(self.pipe)
                _be_worker(plan, writer)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(writer)
        self._running = True

    def read(self) -> bool:
        """Take what it tells, and return whether it may tell more."""
        data = os.read(self.pipe, _PIECE)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._heed(json.loads(line))
        return bool(data)

    def _heed(self, told: dict[str, Any]) -> None:
        if "figures" in told:
            self._figures = Figures.unpack(told["figures"])
            self.standing = _standing(self._figures)
        else:
            self.standing = Standing(**told)

    def stop(self) -> None:
        """Have it end early, with what it has."""
        if self._running:
            os.kill(self._pid, signal.SIGTERM)

    def end(self) -> None:
        """See to it that it has ended."""
        if self._running:
            if self._figures is None:
                os.kill(self._pid, signal.SIGKILL)
            self._running = False
            os.waitpid(self._pid, 0)
            os.close(self.pipe)

    def result(self) -> Figures:
        """Return what it has measured."""
        if self._figures is None:
            raise RuntimeError("a load process ended without a result")
        return self._figures


def _be_worker(plan: Plan, pipe: int) -> None:
    """Run a load in this new process, and end the process."""
    status = Exit.INTERNAL
    try:
        _raise_file_limit(plan.connections + _SPARE_FILES)
        load = Load(plan, lambda figures: _tell_standing(pipe, figures))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: load.stop())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        figures = load.run()
        with open(pipe, "wb") as writer:
            writer.write(_line({"figures": figures.pack()}))
        status = Exit.DONE
    except BrokenPipeError:
        status = Exit.CLOSED  # the parent is gone
    except BaseException:  # noqa: BLE001  # this process must never return into what its parent was doing
        traceback.print_exc()
    finally:
        os._exit(status)


def _tell_standing(pipe: int, figures: Figures) -> None:
    os.write(pipe, _line(_standing(figures)._asdict()))


def _standing(figures: Figures) -> Standing:
    return Standing(figures.messages, figures.failures.total())


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _raise_file_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
