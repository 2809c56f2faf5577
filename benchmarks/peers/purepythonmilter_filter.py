"""The benchmark's filters on purepythonmilter, which listens on TCP only.

``purepythonmilter_filter.py inet:PORT@HOST noop|tagger|small|noreply``

The library reads from a hook's return annotation whether the server must wait for an answer.
"""

# Callbacks take what they do not use.
# ruff: noqa: ARG001

import logging
import sys

from purepythonmilter import (
    Accept,
    AppendHeader,
    ChangeHeader,
    Continue,
    EndOfMessage,
    PurePythonMilter,
    VerdictOrContinue,
)

STAGES = (
    "connect", "helo", "mail_from", "rcpt_to", "data", "unknown", "header", "end_of_headers",
    "body_chunk",
)  # fmt: skip


async def answer(command: object) -> VerdictOrContinue:
    return Continue()


async def stay_silent(command: object) -> None:
    return None


async def accept(command: EndOfMessage) -> VerdictOrContinue:
    return Accept()


async def tag(command: EndOfMessage) -> VerdictOrContinue:
    changes = [
        AppendHeader(headername="X-Tagged", headertext="yes"),
        ChangeHeader(headername="Subject", headertext="[tagged] minutes", nth_occurrence=1),
    ]
    return Accept(manipulations=changes)


def hooks(kind: str) -> dict[str, object]:
    if kind == "small":
        return {"hook_on_rcpt_to": answer}
    hook = stay_silent if kind == "noreply" else answer
    return {f"hook_on_{stage}": hook for stage in STAGES}


def main() -> None:
    address, kind = sys.argv[1:]
    logging.disable(logging.WARNING)  # it warns once a message of a list of changes that is empty
    port, host = address.removeprefix("inet:").split("@")
    milter = PurePythonMilter(
        name="benchmark",
        hook_on_end_of_message=tag if kind == "tagger" else accept,
        can_add_headers=kind == "tagger",
        can_change_headers=kind == "tagger",
        restrict_symbols=None,
        **hooks(kind),
    )
    milter.run_server(host=host, port=int(port))


main()
