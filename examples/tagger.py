"""The shortest useful filter: refuses one recipient, and adds a header field to all other mail.

Run it with ``python examples/tagger.py inet:8891@127.0.0.1``, or with ``pmilter run examples/tagger.py --listen ADDRESS``.
"""

from __future__ import annotations

import sys

from pmilter import Action, Context, Milter, Reply, Status

milter = Milter("tagger", actions=Action.ADDHDRS)


@milter.on("envrcpt")
def check(_ctx: Context, rcpt: str, *_args: str) -> Reply | None:
    return Reply(550, "5.1.1", "no such user") if rcpt == "<nobody@example.com>" else None


@milter.on("eom")
def tag(ctx: Context) -> Status:
    ctx.addheader("X-Tagged", "yes")
    return Status.ACCEPT


if __name__ == "__main__":
    milter.setconn(sys.argv[1] if len(sys.argv) > 1 else "inet:8891@127.0.0.1")
    milter.main()
