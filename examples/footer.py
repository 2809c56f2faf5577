"""Adds a footer to plain text: gathers a message, lets the email package read it, and replaces its body.

Run it with ``python examples/footer.py inet:8891@127.0.0.1``, or with ``pmilter run examples/footer.py --listen ADDRESS``.

Only messages of one text/plain part are touched, and none with a signature that a new body would break.
"""

from __future__ import annotations

import sys
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP

from pmilter import Action, Context, Milter, Status

FOOTER = "\n-- \nExample Ltd, registered in Exampleton\n"
SIGNATURES = ("DKIM-Signature", "ARC-Seal")
CONTENT_FIELDS = ("MIME-Version", "Content-Type", "Content-Transfer-Encoding")

milter = Milter("footer", actions=Action.CHGBODY | Action.CHGHDRS)


@milter.on("envfrom")
def begin(ctx: Context, _sender: str, *_args: str) -> None:
    ctx.state.pieces = []


@milter.on("header", noreply=True)
def gather_field(ctx: Context, name: str, value: str) -> None:
    # Whatever bytes the message has, this restores them.
    ctx.state.pieces.append(f"{name}: {value}\n".encode("utf-8", "surrogateescape"))


@milter.on("eoh", noreply=True)
def end_header(ctx: Context) -> None:
    ctx.state.pieces.append(b"\n")


@milter.on("body", noreply=True)
def gather_body(ctx: Context, chunk: bytes) -> None:
    ctx.state.pieces.append(chunk)


@milter.on("eom")
def add_footer(ctx: Context) -> Status:
    message = message_from_bytes(b"".join(ctx.state.pieces), _class=EmailMessage, policy=SMTP)
    text = plain_text(message)
    if text is not None:
        message.set_content(text + FOOTER, cte="quoted-printable")
        for name in CONTENT_FIELDS:
            ctx.chgheader(name, 1, str(message[name]))
        body = str(message.get_payload())  # quoted-printable, so that it is ASCII
        ctx.replacebody(body.encode("ascii").replace(b"\n", b"\r\n"))
    return Status.ACCEPT


def plain_text(message: EmailMessage) -> str | None:
    """Return the text of a message that may be changed, or None."""
    if message.get_content_type() != "text/plain" or message.is_attachment():
        return None
    if any(name in message for name in SIGNATURES):
        return None
    try:
        return str(message.get_content())
    except LookupError:  # a charset that nobody knows
        return None


if __name__ == "__main__":
    milter.setconn(sys.argv[1] if len(sys.argv) > 1 else "inet:8891@127.0.0.1")
    milter.main()
