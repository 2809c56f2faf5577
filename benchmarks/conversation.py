"""CPU of protocol core and conversation alone, for one command: ``python -m benchmarks.conversation``.

No socket and no load: the frames of the suite's message (27 commands with macros, all callbacks) are handed to a conversation, and it
calls the callbacks by itself, in one process, as with the selector dispatcher. What a dispatcher and the kernel add is measured by the suite.
"""

from __future__ import annotations

import time
from typing import Any

from pmilter import Milter, Status
from pmilter.conversation import Conversation
from pmilter.effects import Receive, call_at_once
from pmilter.program import Program
from pmilter.protocol import Command, Family, messages, offer

ROUNDS = 9
MESSAGES = 400


def macros(command: Command, **values: bytes) -> bytes:
    return messages.Macros(
        command, [(name.encode(), value) for name, value in values.items()]
    ).encode()


OPENING = [
    offer().encode(),
    macros(Command.CONNECT, j=b"mx.example.net")
    + messages.Connect(b"client.example.org", Family.INET, 1234, b"192.0.2.1").encode(),
    macros(Command.HELO) + messages.Helo(b"client.example.org").encode(),
]
RCPT = (
    macros(Command.RCPT, rcpt_addr=b"bob@example.net")
    + messages.Rcpt(b"<bob@example.net>").encode()
)
MESSAGE = [
    macros(Command.MAIL, i=b"4C7F20")
    + messages.Mail(b"<alice@example.org>", [b"SIZE=9000"]).encode(),
    RCPT,
    RCPT,
    messages.Data().encode(),
    *(
        messages.Header(b"X-Header-%d" % n, b"the value of header number %d" % n).encode()
        for n in range(20)
    ),
    messages.Eoh().encode(),
    messages.Body(b"x" * 8192).encode(),
    macros(Command.BODYEOB, msg_id=b"<1@example.org>") + messages.Eom().encode(),
]


def filter_with_all_callbacks() -> Milter:
    milter = Milter("measured")
    for stage in ("connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body", "eom"):
        on: Any = milter.on
        on(stage)(lambda *_: Status.CONTINUE)
    return milter


def seconds_a_message(program: Program) -> float:
    talk = Conversation(program, perform=call_at_once).run()
    next(talk)

    def feed(data: bytes) -> None:
        effect = talk.send(data)
        while type(effect) is not Receive:
            effect = talk.send(None)

    for data in OPENING:
        feed(data)
    begin = time.process_time()
    for _ in range(MESSAGES):
        for data in MESSAGE:
            feed(data)
    return (time.process_time() - begin) / MESSAGES


def main() -> None:
    program = Program(filter_with_all_callbacks().plan())
    seconds_a_message(program)
    times = sorted(seconds_a_message(program) for _ in range(ROUNDS))
    for name, value in (("least", times[0]), ("median", times[ROUNDS // 2])):
        print(
            f"{name}: {value * 1e6:.1f} us a message, {value * 1e6 / len(MESSAGE):.2f} us a command"
        )


if __name__ == "__main__":
    main()
