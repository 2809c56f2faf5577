"""Read by the type checker alone: uses of the interface that are right, and what they are inferred to be."""

from __future__ import annotations

from typing import assert_type

from pmilter import (
    Action,
    Address,
    Context,
    Limits,
    Milter,
    Options,
    Reply,
    Status,
    Step,
    ithread_dispatcher,
    postfork_dispatcher,
    sequential_dispatcher,
)

milter = Milter(
    "typed",
    actions=Action.ADDHDRS | Action.CHGHDRS,
    steps=Step.HDR_LEADSPC,
    keep=("connect",),
    fallback={"eom": Status.ACCEPT},
    limits=Limits(recipients=5),
)
milter.set_fallback("shutdown")
milter.set_fallback({"envrcpt": "shutdown", "eom": Status.TEMPFAIL})
milter.set_limits(Limits().replace(connections_per_peer=5))
milter.allow_peers("192.0.2.0/24", "user:postfix")


@milter.on("negotiate")
def negotiate(ctx: Context, offer: Options, choice: Options) -> Options | Status | None:
    assert_type(choice.actions, Action)
    return choice


@milter.on("connect", macros="j client_addr")
def connect(
    ctx: Context, hostname: str, address: tuple[str, int] | tuple[str, int, int, int] | str | None
) -> Status:
    return Status.CONTINUE


@milter.on("helo", noreply=True)
def helo(ctx: Context, name: str) -> None:
    ctx.state.helo = name


@milter.on("envfrom")
@milter.on("envrcpt", macros=["rcpt_addr"])
def envelope(ctx: Context, address: str, *args: str) -> Status | Reply | None:
    return Reply(550, "5.1.1", "no such user") if address == "<nobody@example.com>" else None


@milter.on("data")
@milter.on("eoh")
async def plain(ctx: Context) -> Status:
    return Status.CONTINUE


@milter.on("unknown")
def unknown(ctx: Context, command: str) -> Reply:
    return Reply("502", None, command)


@milter.on("header")
def header(ctx: Context, name: str, value: str) -> Status | None:
    return None


@milter.on("body")
def body(ctx: Context, chunk: bytes) -> Status:
    return Status.SKIP


@milter.on("eom")
async def eom(ctx: Context) -> Status | Reply | None:
    ctx.addheader("X-Tagged", "yes")
    ctx.chgheader("Subject", 1, None)
    ctx.replacebody(b"")
    ctx.addrcpt("<c@example.net>", "NOTIFY=NEVER")
    assert_type(ctx.getsymval("i"), str | None)
    assert_type(ctx.recipients, list[str] | None)
    assert_type(ctx.actions, Action | None)
    return Status.ACCEPT


@milter.on("abort")
@milter.on("close")
def unanswered(ctx: Context) -> None: ...


class Filter:
    """Callbacks as methods."""

    def eom(self, ctx: Context) -> Status:
        return Status.ACCEPT


milter.on("eom")(Filter().eom)
milter.on("eom")(lambda ctx: Status.ACCEPT)
milter.register("typed", {"helo": helo, "eom": "eom"}, Action.ADDHDRS)
assert_type(milter.on("helo")(helo)(Context.__new__(Context), "x"), None)
assert_type(milter.address, Address | None)
for dispatcher in (
    sequential_dispatcher(),
    ithread_dispatcher(),
    postfork_dispatcher(overflow="wait"),
):
    milter.set_dispatcher(dispatcher)
