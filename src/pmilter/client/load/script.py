"""What to say on a connection, worked out beforehand: for each answer that a filter may give, the bytes that come next.

Nothing of this is invented here. A `Dialogue`, which knows how an MTA behaves, is played in memory to a filter that answers
what has been answered so far and then CONTINUE to all; what it sends is kept, cut where it waits. So a load follows the
session as the MTA would after any verdict, and pays for the thinking once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from pmilter.client.dialogue import Dialogue
from pmilter.client.load.plan import CLIENT
from pmilter.client.transaction import Transaction
from pmilter.effects import Receive, Send
from pmilter.protocol.constants import Answer, Command, Status
from pmilter.protocol.frames import HEADER_SIZE, encode_frame
from pmilter.protocol.rules import NAMED
from pmilter.protocol.terms import terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pmilter.client.content import Content
    from pmilter.client.effects import Steps
    from pmilter.client.load.plan import Plan
    from pmilter.protocol.messages import Options

_T = TypeVar("_T")

CONTINUE: Final = encode_frame(Answer.CONTINUE)
"""The answer that most commands get."""

MAX_KEPT: Final = 100_000
"""Turns that a scene keeps; a filter that answers at random makes more, which are worked out each time."""


class Ending(NamedTuple):
    """How a scene ends."""

    status: Status
    """The verdict: on the message; before the first message CONTINUE, or what holds for the whole connection."""
    stage: str
    """Where it was given."""
    data: bytes
    """What is still to be sent."""
    parting: bytes
    """What is sent after it where no message follows."""
    over: bool
    """Whether the MTA says no more on this connection."""
    size: int
    """Bytes sent in the whole scene."""
    commands: int
    """Commands sent in it; macros are none."""


class Turn:
    """Something to send, and one answer to wait for.

    Attributes:
        data: What to send.
        stage: The stage that is to be answered.
        replies: Codes that may answer it.
        next: The turn after CONTINUE; None where that ends the scene.
    """

    __slots__ = ("_before", "_following", "_scene", "data", "next", "replies", "stage")

    def __init__(
        self,
        scene: Scene,
        data: bytes,
        stage: str,
        replies: frozenset[Answer],
        before: tuple[Turn, bytes] | None,
    ) -> None:
        self._scene = scene
        self._before = before
        self._following: dict[bytes, Turn | Ending] = {}
        self.data = data
        self.stage = stage
        self.replies = replies
        self.next: Turn | None = None

    def after(self, code: int, payload: bytes) -> Turn | Ending:
        """Return what follows a legal reply.

        Raises:
            RemoteProtocolError: It is no legal reply after all.
        """
        kind = answer_kind(code, payload)
        following = self._following.get(kind)
        return following or self._scene.grow(self, kind, encode_frame(code, payload))

    def lead(self, kind: bytes, to: Turn | Ending) -> None:
        """Remember what follows a kind of reply."""
        self._following[kind] = to
        if kind == CONTINUE[4:] and isinstance(to, Turn):
            self.next = to

    def path(self) -> list[bytes]:
        """Return the answers that led here."""
        answers = []
        turn = self
        while turn._before is not None:
            turn, answer = turn._before
            answers.append(answer)
        return answers[::-1]


def answer_kind(code: int, payload: bytes) -> bytes:
    """Return what of a reply decides how an MTA goes on: the code and, of a reply in the filter's own words, the class."""
    if code != Answer.REPLYCODE:
        return bytes((code,))
    return b"y421" if payload.startswith(b"421") else b"y" + payload[:1]


class Scene:
    """A part of a session that is played again and again.

    Args:
        play: Plays it with given answers, and returns what was sent before each, with the stage, and how it ended.
        agreement: What was agreed.

    Attributes:
        first: What it begins with; an `Ending` where nothing has to be waited for.
    """

    def __init__(self, play: Callable[[list[bytes]], _Played], agreement: Options) -> None:
        self._play = play
        self._entries = terms(agreement.version, int(agreement.steps)).entries
        self._blobs: dict[bytes, bytes] = {}
        self._kept = 0
        self.first = self._grow([], None)

    def grow(self, turn: Turn, kind: bytes, answer: bytes) -> Turn | Ending:
        """Work out what follows a turn after a reply that it has not had yet."""
        following = self._grow([*turn.path(), answer], (turn, answer))
        if self._kept < MAX_KEPT:
            turn.lead(kind, following)
        return following

    def _grow(self, path: list[bytes], before: tuple[Turn, bytes] | None) -> Turn | Ending:
        played, ending = self._play(path)
        first: Turn | Ending | None = None
        latest: Turn | None = None
        for data, stage in played[len(path) :]:
            turn = self._turn(data, stage, before)
            if latest is not None:
                latest.lead(CONTINUE[4:], turn)
            first = first or turn
            latest, before = turn, (turn, CONTINUE)
        if latest is not None:
            latest.lead(CONTINUE[4:], ending)
        return first or ending

    def _turn(self, data: bytes, stage: str, before: tuple[Turn, bytes] | None) -> Turn:
        self._kept += 1
        replies = self._entries[NAMED[stage].command].replies
        shared = self._blobs.setdefault(data, data) if self._kept < MAX_KEPT else data
        return Turn(self, shared, stage, replies, before)


_Played = tuple[list[tuple[bytes, str]], Ending]


class Script:
    """All that there is to say to a filter that has answered the offer in one way.

    Args:
        plan: The load.
        content: The plan's message.
        answer: The frame with which the filter has answered the offer.

    Attributes:
        agreement: What was agreed.
        greeting: What comes before the first message.
        message: One message.

    Raises:
        RemoteProtocolError: The answer is malformed.
        NegotiationError: It breaks the offer.
    """

    def __init__(self, plan: Plan, content: Content, answer: bytes) -> None:
        self._plan = plan
        self._content = content
        self._answer = answer
        agreement = self._negotiated().dialogue.session.agreement
        assert agreement is not None  # that is what the dialogue has waited for
        self.agreement = agreement
        self.greeting = Scene(self._play_greeting, agreement)
        self.message = Scene(self._play_message, agreement)

    @property
    def agreed(self) -> tuple[int, int, int]:
        """Version, actions and steps that were agreed."""
        agreement = self.agreement
        return agreement.version, int(agreement.actions), int(agreement.steps)

    def _negotiated(self) -> _Tape:
        plan = self._plan
        dialogue = Dialogue(plan.spoken, plan.spoken.offer(plan.version))
        dialogue.macros.know(CLIENT.macros(dialogue.dialect))
        tape = _Tape(dialogue)
        tape.play(dialogue.open(), [self._answer])
        return tape

    def _play_greeting(self, path: list[bytes]) -> _Played:
        tape = self._negotiated()
        tape.clear()
        tape.play(_greet(tape.dialogue), path)
        standing = tape.dialogue.standing
        status, stage = (standing.status, standing.stage) if standing else (Status.CONTINUE, "helo")
        return tape.end(status, stage)

    def _play_message(self, path: list[bytes]) -> _Played:
        tape = self._negotiated()
        tape.play(_greet(tape.dialogue), [])
        tape.clear()
        message = Transaction(tape.dialogue, self._plan.envelope, self._content)
        verdict = tape.play(message.run(), path)
        return tape.end(verdict.status, verdict.stage)


def opening(plan: Plan) -> bytes:
    """Return what is sent first on every connection: the offer."""
    return plan.spoken.offer(plan.version).encode()


def _greet(dialogue: Dialogue) -> Steps[None]:
    yield from dialogue.connect(CLIENT.connect(dialogue.dialect))
    if dialogue.standing is None:
        yield from dialogue.helo((CLIENT.name or "").encode())


class _Tape:
    """What a dialogue sends, cut where it waits.

    Args:
        dialogue: The dialogue.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.clear()

    def clear(self) -> None:
        """Forget what was sent so far."""
        self._turns: list[tuple[bytes, str]] = []
        self._unanswered = bytearray()

    def play(self, steps: Steps[_T], path: Iterable[bytes]) -> _T:
        """Perform steps with given answers, then with CONTINUE, and return their value."""
        answers: Iterator[bytes] = iter(path)
        outcome: Any = None
        while True:
            try:
                effect = steps.send(outcome)
            except StopIteration as stop:
                value: _T = stop.value
                return value
            outcome = None
            if isinstance(effect, Send):
                self._unanswered += effect.data
            elif isinstance(effect, Receive):
                self._turns.append((self._cut(), self.dialogue.stage))
                outcome = next(answers, CONTINUE)

    def _cut(self) -> bytes:
        data = bytes(self._unanswered)
        self._unanswered.clear()
        return data

    def end(self, status: Status, stage: str) -> _Played:
        """Return all that was sent, and how it ends."""
        data = self._cut()
        over = self.dialogue.closed or self.dialogue.standing is not None
        sent = [*(piece for piece, _ in self._turns), data]
        self.play(self.dialogue.quit(), [])
        ending = Ending(
            status=status,
            stage=stage,
            data=data,
            parting=self._cut(),
            over=over,
            size=sum(map(len, sent)),
            commands=sum(map(_count_commands, sent)),
        )
        return self._turns, ending


def _count_commands(frames: bytes) -> int:
    count = start = 0
    while start < len(frames):
        count += frames[start + HEADER_SIZE - 1] != Command.MACRO
        start += HEADER_SIZE - 1 + int.from_bytes(frames[start : start + 4], "big")
    return count
