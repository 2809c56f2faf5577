"""The filter behind ``pmilter demo``: what a small company might want of its mail server.

Mail to people who have left is refused with a hint, programs as attachments are refused, and mail from outside the office
network is marked as such. ``pmilter demo --show`` prints this file; copy it and make it yours.
"""

from __future__ import annotations

from email import message_from_bytes
from ipaddress import ip_address, ip_network

from pmilter import Action, Context, Milter, Reply, Status

OFFICE = ip_network("192.0.2.0/24")
FORMER = {"<carol@example.org>": "Carol has left us, please write to info@example.org"}
PROGRAMS = (".exe", ".js", ".scr")

milter = Milter("sample", actions=Action.ADDHDRS | Action.CHGHDRS)


@milter.on("envfrom")
def begin_message(ctx: Context, _sender: str, *_args: str) -> None:
    """Make room for the message; ctx.state is empty again for each one."""
    ctx.state.pieces = []
    ctx.state.subject = ""


@milter.on("envrcpt")
def check_recipient(_ctx: Context, recipient: str, *_args: str) -> Reply | None:
    """Refuse mail to people who have left; the other recipients still get theirs."""
    hint = FORMER.get(recipient.lower())
    return Reply(550, "5.1.6", hint) if hint else None


@milter.on("header", noreply=True)
def gather_field(ctx: Context, name: str, value: str) -> None:
    """Keep a header field. With noreply the mail server need not wait for an answer."""
    ctx.state.pieces.append(f"{name}: {value}\n".encode("utf-8", "surrogateescape"))
    if name.lower() == "subject":
        ctx.state.subject = value


@milter.on("eoh", noreply=True)
def end_header(ctx: Context) -> None:
    """Keep the blank line."""
    ctx.state.pieces.append(b"\n")


@milter.on("body", noreply=True)
def gather_body(ctx: Context, chunk: bytes) -> None:
    """Keep a piece of the body."""
    ctx.state.pieces.append(chunk)


@milter.on("eom")
def judge(ctx: Context) -> Status | Reply:
    """Refuse programs, and mark what comes from outside."""
    message = message_from_bytes(b"".join(ctx.state.pieces))
    for part in message.walk():
        if (part.get_filename() or "").lower().endswith(PROGRAMS):
            return Reply(550, "5.7.1", "Programs are not accepted here,", "please send a link")
    if not is_from_office(ctx):
        ctx.chgheader("Subject", 1, f"[external] {ctx.state.subject}")
        ctx.addheader("X-Received-From", str(ctx.hostname))
    return Status.ACCEPT


def is_from_office(ctx: Context) -> bool:
    """Tell whether the client is in the office network."""
    return isinstance(ctx.address, tuple) and ip_address(ctx.address[0]) in OFFICE


if __name__ == "__main__":
    milter.setconn("inet:8891@127.0.0.1")
    milter.main()
