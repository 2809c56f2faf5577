"""Prints all macros that are known at each stage, and lets all mail pass: what to ask `getsymval` for, and when.

Run it with ``python examples/symbol_dump.py inet:8891@127.0.0.1``, or with
``pmilter run examples/symbol_dump.py --listen ADDRESS``. Macros that an MTA sends only on request are asked for too.
"""

from __future__ import annotations

import sys

from pmilter import Context, Milter, Status, printable

CLIENT = (
    "j _ v daemon_name daemon_addr if_name if_addr client_addr client_name client_port client_ptr"
)
TLS = "tls_version cipher cipher_bits cert_subject cert_issuer"
SENDER = "i mail_addr mail_host mail_mailer auth_type auth_authen auth_author auth_ssf"
RECIPIENT = "i rcpt_addr rcpt_host rcpt_mailer"

milter = Milter("symbol-dump")


def dump(ctx: Context, stage: str) -> Status:
    lines = [f"  {{{name}}} = {value}" for name, value in sorted(ctx.macros.items())]
    # One write, so that connections do not mix their lines.
    print("\n".join(map(printable, (f"[{ctx.connection_id}] {stage}", *lines))), flush=True)
    return Status.CONTINUE


@milter.on("connect", macros=CLIENT)
def connect(ctx: Context, _hostname: str, _address: object) -> Status:
    return dump(ctx, "connect")


@milter.on("helo", macros=TLS)
def helo(ctx: Context, _name: str) -> Status:
    return dump(ctx, "helo")


@milter.on("envfrom", macros=SENDER)
def envfrom(ctx: Context, _sender: str, *_args: str) -> Status:
    return dump(ctx, "envfrom")


@milter.on("envrcpt", macros=RECIPIENT)
def envrcpt(ctx: Context, _recipient: str, *_args: str) -> Status:
    return dump(ctx, "envrcpt")


@milter.on("data", macros="i")
def data(ctx: Context) -> Status:
    return dump(ctx, "data")


@milter.on("eom", macros="i msg_id")
def eom(ctx: Context) -> Status:
    return dump(ctx, "eom")


if __name__ == "__main__":
    milter.setconn(sys.argv[1] if len(sys.argv) > 1 else "inet:8891@127.0.0.1")
    milter.main()
