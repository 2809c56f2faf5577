"""The benchmark's filters on pmilter, one server for every dispatcher of ours.

``pmilter_server.py DISPATCHER ADDRESS noop|tagger|small|noreply [PROCESSES]``
"""

# Callbacks take what they do not use.
# ruff: noqa: ARG001

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pmilter
from pmilter import Action, Context, Milter, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    Callbacks = dict[str, Callable[..., Any]]

CONNECTIONS = 4096  # more than are ever opened here, so that no dispatcher turns one away


def no_argument(ctx: Context) -> Status:
    return Status.CONTINUE


def one_argument(ctx: Context, argument: object) -> Status:
    return Status.CONTINUE


def two_arguments(ctx: Context, first: object, second: object) -> Status:
    return Status.CONTINUE


def an_address(ctx: Context, address: str, *parameters: str) -> Status:
    return Status.CONTINUE


def accept(ctx: Context) -> Status:
    return Status.ACCEPT


def tag(ctx: Context) -> Status:
    ctx.addheader("X-Tagged", "yes")
    ctx.chgheader("Subject", 1, "[tagged] minutes")
    return Status.ACCEPT


async def no_argument_async(ctx: Context) -> Status:
    return Status.CONTINUE


async def one_argument_async(ctx: Context, argument: object) -> Status:
    return Status.CONTINUE


async def two_arguments_async(ctx: Context, first: object, second: object) -> Status:
    return Status.CONTINUE


async def an_address_async(ctx: Context, address: str, *parameters: str) -> Status:
    return Status.CONTINUE


async def accept_async(ctx: Context) -> Status:
    return Status.ACCEPT


async def tag_async(ctx: Context) -> Status:
    return tag(ctx)


def every_stage(
    none: Callable[..., Any], one: Callable[..., Any], two: Callable[..., Any], address: Any
) -> Callbacks:
    """All stages of a message but the last, with callbacks of the right number of arguments."""
    return {
        "connect": two,
        "helo": one,
        "envfrom": address,
        "envrcpt": address,
        "data": none,
        "unknown": one,
        "header": two,
        "eoh": none,
        "body": one,
    }


PLAIN = {
    **every_stage(no_argument, one_argument, two_arguments, an_address),
    "abort": no_argument,
    "close": no_argument,
}
COROUTINES = {
    **every_stage(no_argument_async, one_argument_async, two_arguments_async, an_address_async),
    "abort": no_argument_async,
    "close": no_argument_async,
}


def callbacks_of(kind: str, *, coroutines: bool) -> Callbacks:
    """Choose the callbacks of a kind of filter."""
    every = COROUTINES if coroutines else PLAIN
    last = (tag_async if coroutines else tag) if kind == "tagger" else None
    last = last or (accept_async if coroutines else accept)
    if kind == "small":
        return {"envrcpt": every["envrcpt"], "eom": last}
    return {**every, "eom": last}


def build(kind: str, *, coroutines: bool) -> Milter:
    """Make the filter; `small` wants no facts of other stages either."""
    actions = Action.ADDHDRS | Action.CHGHDRS if kind == "tagger" else Action(0)
    milter = Milter("benchmark", actions=actions, keep=())
    for stage, callback in callbacks_of(kind, coroutines=coroutines).items():
        silent = kind == "noreply" and stage not in ("eom", "abort", "close")
        milter.on(stage, noreply=silent)(callback)  # type: ignore[call-overload] # any stage
    return milter


def dispatcher_of(name: str, processes: int) -> Any:
    """Make the dispatcher; only those of the chosen name need exist."""
    if name == "prefork":
        return pmilter.prefork_dispatcher(max_children=processes)
    if name == "prefork-selector":
        # One loop serves any number of connections, so there are no more workers than cores.
        workers = len(os.sched_getaffinity(0))
        return pmilter.prefork_dispatcher(
            max_children=workers, worker=pmilter.selector_dispatcher()
        )
    if name == "uvloop-async":
        return pmilter.asyncio_dispatcher(uvloop=True)
    if name == "asyncio-async":
        return pmilter.asyncio_dispatcher()
    return getattr(pmilter, f"{name}_dispatcher")()


def main() -> None:
    name, address, kind = sys.argv[1:4]
    processes = int(sys.argv[4]) if len(sys.argv) > 4 else 20
    coroutines = name in ("asyncio-async", "uvloop-async")
    milter = build(kind, coroutines=coroutines)
    milter.set_listen(1024)
    milter.setconn(address)
    milter.set_dispatcher(dispatcher_of(name, processes))
    # In prefork the number means processes, and the dispatcher has been told.
    milter.main(0 if name.startswith("prefork") else CONNECTIONS)


main()
