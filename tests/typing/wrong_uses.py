"""Read by the type checker alone: uses of the interface that it must refuse.

Each carries the error that it must be; where one were accepted, the comment would be unused, which is an error as well.
"""

from __future__ import annotations

from pmilter import Context, Milter, Options, Reply, Status, postfork_dispatcher

milter = Milter("typed")

Milter("typed", 1)  # type: ignore[call-arg]  # options are keyword-only
Milter(actions="ADDHDRS")  # type: ignore[arg-type]  # bits, not text
Milter(fallback={"eom": 5})  # type: ignore[dict-item]  # a status
milter.set_fallback("reject")  # type: ignore[arg-type]  # a Status, or the one text

milter.on("rcpt")  # type: ignore[call-overload]  # no such stage


@milter.on("connect")  # type: ignore[type-var]  # takes host name and address
def connect(ctx: Context) -> Status:
    return Status.CONTINUE


@milter.on("helo")  # type: ignore[type-var]  # text, not bytes
def helo(ctx: Context, name: bytes) -> None: ...


@milter.on("header")  # type: ignore[type-var]  # takes name and value
def header(ctx: Context, line: str) -> None: ...


@milter.on("body")  # type: ignore[type-var]  # bytes, not text
def body(ctx: Context, chunk: str) -> None: ...


@milter.on("eom")  # type: ignore[type-var]  # returns a status, not a number
def eom(ctx: Context) -> int:
    return 0


@milter.on("data")  # type: ignore[type-var]  # returns a status, not options
def data(ctx: Context) -> Options:
    return Options(6, 0, 0)


@milter.on("negotiate")  # type: ignore[type-var]  # returns options, not a reply
def negotiate(ctx: Context, offer: Options, choice: Options) -> Reply:
    return Reply(550)


@milter.on("envrcpt")  # type: ignore[type-var]  # returns a status, not a truth
def envrcpt(ctx: Context, address: str, *args: str) -> bool:
    return True


@milter.on("eoh")  # type: ignore[type-var]  # the awaited result counts
async def eoh(ctx: Context) -> str:
    return "CONTINUE"


def uses_of_a_context(ctx: Context) -> None:
    ctx.addheader("X-Count", 5)  # type: ignore[arg-type]  # text, not a number
    ctx.replacebody("text")  # type: ignore[arg-type]  # bytes, not text
    ctx.chgheader("Subject", "1", "new")  # type: ignore[arg-type]  # a number, not text
    ctx.setreply(550, 5.7)  # type: ignore[arg-type]  # text, not a number
    ctx.recipients.append("<x@example.com>")  # type: ignore[union-attr]  # there may be none
    ctx.hostname = "mx"  # type: ignore[misc]  # a fact
    ctx.macros["i"] = "x"  # type: ignore[index]  # read-only


milter.set_dispatcher("postfork")  # type: ignore[arg-type]  # a callable, not its name
postfork_dispatcher(overflow="drop")  # type: ignore[arg-type]  # refuse or wait
milter.settimeout("5")  # type: ignore[arg-type]  # a number
milter.main("10")  # type: ignore[arg-type]  # a number
