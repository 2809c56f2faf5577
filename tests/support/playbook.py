"""Plays a script with a filter in memory: drives the conversation as a dispatcher would, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pmilter import Milter
from pmilter.conversation import Conversation
from pmilter.effects import Call, Receive, Send
from pmilter.errors import MilterTimeout
from pmilter.outcomes import CallFailed
from pmilter.program import Program
from tests.support.notation import EOF, frame, mismatch, parse, show, split, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping

    from pmilter.service import Service

PLAIN = ">> O 6 1ff 77f\n<< O *\n"
"""Negotiation with an MTA that waits for the answer to every command."""

QUIET = ">> O 6 1ff 1fffff\n<< O *\n"
"""Negotiation with Postfix or Sendmail, which need not have an answer everywhere."""

CLIENT = (
    PLAIN
    + r"""
>> C client.example.com␀4\x30\x39192.0.2.1␀
<< c
>> H client.example.com␀
<< c
"""
)
"""Up to HELO, each command answered."""

ENVELOPE = r"""
>> M <a@example.com>␀
<< c
>> R <b@example.org>␀
<< c
"""

COMMANDS = {
    "connect": r"C client.example.com␀4\x30\x39192.0.2.1␀",
    "helo": "H client.example.com␀",
    "unknown": "U FROB␀",
    "envfrom": "M <a@example.com>␀",
    "envrcpt": "R <b@example.org>␀",
    "data": "T",
    "header": "L Subject␀hello␀",
    "eoh": "N",
    "body": r"B some text\r\n",
    "eom": "E",
}
"""The command of each stage that has an answer, in an order in which they may come."""


def filter_of(
    callbacks: Mapping[str, Callable[..., Any]], *, noreply: Collection[str] = (), **options: Any
) -> Milter:
    """Return a filter with some callbacks by stage."""
    milter = Milter("test", **options)
    on: Any = milter.on
    for stage, function in callbacks.items():
        on(stage, noreply=stage in noreply)(function)
    return milter


def returns(result: object) -> Callable[..., Any]:
    """Return a callback that returns something."""
    return lambda *_: result


def raises(error: BaseException) -> Callable[..., Any]:
    """Return a callback that raises something."""

    def callback(*_: object) -> None:
        raise error

    return callback


class Playbook:
    """One connection to a filter, in memory. Several connections to the same filter share a `Program`.

    Attributes:
        calls: The callbacks called so far: stage, then the arguments after the context.
        timeout: Seconds that the conversation is willing to wait for the next bytes.
        now: What the conversation takes for the time.
        sends: Sizes of what it sent in one go.
        ended: True once the conversation is over.
        broken: While true, sending fails.
    """

    def __init__(
        self,
        program: Milter | Program,
        *,
        service: Service | None = None,
        can_write: bool = True,
    ) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.timeout: float | None = None
        self.now = 0.0
        self.sends: list[int] = []
        self.ended = False
        self.broken = False
        self._transcript: list[str] = []
        self._frames: list[bytes] = []
        self._rest = b""
        self._talk: Generator[Any, Any, None] = Conversation(
            program if isinstance(program, Program) else Program(program.plan()),
            "192.0.2.25:4711",
            write=self._write if can_write else None,
            service=service,
            clock=lambda: self.now,
        ).run()
        self._run(lambda: next(self._talk))

    # --- what the MTA does

    def play(self, script: str) -> Playbook:
        """Do the ``>>`` steps, and check that each ``<<`` step, and nothing else, comes back."""
        for arrow, line in steps(script):
            if arrow == ">>":
                self._expect_nothing()
                self.receive(b"" if line == EOF else parse(line), line)
            else:
                self._expect(line)
        self._expect_nothing()
        return self

    def receive(self, data: bytes, line: str | None = None) -> Playbook:
        """Give the filter some bytes, which need be no whole frame; none are the end of file."""
        shown = line or (repr(data[:64]) if data else EOF)
        self._transcript.append(f">> {shown}")
        assert not self.ended, "\n".join([*self._transcript, "!! the filter has closed"])
        self._run(lambda: self._talk.send(data))
        return self

    def reach(self, milter: Milter, stage: str) -> list[str]:
        """Send all commands up to that of a stage that the filter wants, and return the answers to the last."""
        wanted = {*milter.plan().callbacks, *milter.plan().keep, "eom"}
        for name, line in COMMANDS.items():
            if name == stage:
                return self.receive(parse(line), line).answers()
            if name in wanted:
                self.receive(parse(line), line)
                assert self.answers() in (["c"], [])
        raise AssertionError(f"there is no stage {stage}")

    def send(self, code: str, payload: bytes = b"") -> Playbook:
        """Give the filter one frame."""
        return self.receive(frame(code, payload))

    def time_out(self) -> Playbook:
        """Let the time for the next bytes run out."""
        self._run(lambda: self._talk.throw(MilterTimeout("nothing came", seconds=self.timeout)))
        return self

    def answers(self) -> list[str]:
        """Return the frames that came back and were not expected by a script yet."""
        shown = [show(data) for data in self._frames]
        self._frames.clear()
        return shown

    def raw(self) -> list[bytes]:
        """Return the same as bytes."""
        frames = list(self._frames)
        self._frames.clear()
        return frames

    # --- what a dispatcher does

    def _run(self, resume: Callable[[], Any]) -> None:
        try:
            effect = resume()
            while not (isinstance(effect, Receive) and self._can_wait(effect)):
                effect = self._perform(effect)
            self.timeout = effect.timeout
        except StopIteration:
            self.ended = True

    def _can_wait(self, receive: Receive) -> bool:
        """Send what there is to send first, where the MTA is there."""
        if receive.answer and not self.broken:
            self._send(receive.answer)
        return not (receive.answer and self.broken)

    def _perform(self, effect: Receive | Send | Call) -> Any:
        try:
            outcome = self._do(effect)
        except BaseException as error:
            thrown = CallFailed(error) if isinstance(effect, Call) else error
            return self._talk.throw(thrown)
        return self._talk.send(outcome)

    def _do(self, effect: Receive | Send | Call) -> Any:
        if isinstance(effect, Call):
            self.calls.append((effect.stage, *effect.arguments[1:]))
            return effect.function(*effect.arguments)
        if self.broken:
            raise BrokenPipeError("the MTA is gone")
        assert isinstance(effect, Send)
        self._send(effect.data)
        return None

    def _send(self, data: bytes) -> None:
        self.sends.append(len(data))
        self._write(data)

    def _write(self, data: bytes) -> None:
        frames, self._rest = split(self._rest + data)
        self._frames += frames

    # --- the checks

    def _expect(self, line: str) -> None:
        if line == EOF:
            got = EOF if self.ended else "an open connection"
        else:
            got = show(self._frames[0]) if self._frames else "nothing"
        wanted = got if line == "O *" and got.startswith("O ") else line
        assert got == wanted, mismatch(self._transcript, line, got)
        self._transcript.append(f"<< {got}")
        if line != EOF:
            self._frames.pop(0)

    def _expect_nothing(self) -> None:
        if self._frames:
            raise AssertionError(mismatch(self._transcript, "nothing", show(self._frames[0])))
        assert not self._rest, mismatch(self._transcript, "whole frames", repr(self._rest))
