"""Law: after any legal dialogue both ends of a connection agree on where they are.

The dialogues come from a small MTA written here, which knows the order of commands, what was switched off, and what Sendmail and
Postfix do after a verdict. It asks neither session what is legal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pmilter.protocol.constants import Family, Step
from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.messages import (
    Abort,
    Accept,
    AddHeader,
    Body,
    Connect,
    Continue,
    Data,
    Discard,
    Eoh,
    Eom,
    Header,
    Helo,
    Macros,
    Mail,
    Message,
    Options,
    Quit,
    QuitNc,
    Rcpt,
    Reject,
    ReplBody,
    ReplyCode,
    Skip,
    Tempfail,
    Unknown,
)
from pmilter.protocol.mta_session import MtaSession
from pmilter.protocol.negotiation import Wish, choose, offer
from pmilter.protocol.rules import Move, State
from tests.properties.strategies import WISHES

if TYPE_CHECKING:
    from collections.abc import Callable

OFF = {
    "C": 0x1,
    "H": 0x2,
    "M": 0x4,
    "R": 0x8,
    "B": 0x10,
    "L": 0x20,
    "N": 0x40,
    "U": 0x100,
    "T": 0x200,
}
SINCE = {"U": 3, "T": 4, "K": 6}
MESSAGE = "MRTLNBE"

COMMANDS: dict[str, Callable[[], Message]] = {
    "C": lambda: Connect(b"localhost", Family.UNKNOWN),
    "H": lambda: Helo(b"mx"),
    "M": lambda: Mail(b"<a@b>"),
    "R": lambda: Rcpt(b"<c@d>"),
    "T": Data,
    "U": lambda: Unknown(b"FROB"),
    "L": lambda: Header(b"X", b"v"),
    "N": Eoh,
    "B": lambda: Body(b"x\r\n"),
    "E": Eom,
    "A": Abort,
    "Q": Quit,
    "K": QuitNc,
}

REFUSALS: list[Message] = [Reject(), Tempfail(), ReplyCode(b"550 no")]


class Pair:
    """An MTA and a filter, joined by bytes that arrive in pieces."""

    def __init__(self, data: st.DataObject, offered: Options, wish: Wish) -> None:
        self.data = data
        self.piece = data.draw(st.sampled_from([1, 2, 5, 1000]))
        self.mta = MtaSession(offered)
        self.filter = FilterSession()
        self.opened = 0
        """Messages that the filter took for new ones."""
        self.mta.open()
        answer = self.to_filter()
        assert isinstance(answer, Options)
        self.filter.negotiate(choose(answer, wish))
        self.to_mta()
        agreement = self.filter.agreement
        assert agreement is not None
        self.version, self.steps = agreement.version, int(agreement.steps)

    def pieces(self, stream: bytes) -> list[bytes]:
        return [stream[i : i + self.piece] for i in range(0, len(stream), self.piece)]

    def to_filter(self) -> Message | None:
        """Carry over what the MTA sent, and return the one command among it."""
        command = None
        for piece in self.pieces(self.mta.take()):
            self.filter.receive(piece)
            if not self.filter.due:
                command = self.filter.next_command() or command
        return command

    def to_mta(self) -> Message | None:
        """Carry over what the filter sent, and return the last answer among it."""
        answer = None
        for piece in self.pieces(self.filter.take()):
            self.mta.receive(piece)
            while (latest := self.mta.next_answer()) is not None:
                answer = latest
        return answer

    def shows(self, letter: str) -> bool:
        """Tell whether a command is sent at all under this agreement."""
        return not self.steps & OFF.get(letter, 0) and self.version >= SINCE.get(letter, 1)

    def say(self, letter: str, answer: Message | None = None) -> Message:
        """Send a command where it is wanted, answer it where an answer is due, and return the answer."""
        if not self.shows(letter):
            return Continue()
        if self.data.draw(st.booleans()):
            self.mta.send(Macros(ord(letter), [(b"i", b"1")]))
        self.mta.send(COMMANDS[letter]())
        command = self.to_filter()
        assert command == COMMANDS[letter]()
        self.opened += self.filter.move in {Move.OPEN, Move.REOPEN}
        assert self.mta.reply_due == bool(self.filter.due)
        if not self.filter.due:
            self.compare()
            return Continue()
        given = answer or Continue()
        if letter == "E" and self.filter.state is State.EOM:
            self.change()
        self.filter.reply(given)
        assert self.to_mta() == given
        self.compare()
        return given

    def change(self) -> None:
        agreement = self.filter.agreement
        assert agreement is not None
        for change, bit in ((AddHeader(b"X", b"v"), 0x1), (ReplBody(b"new"), 0x2)):
            if agreement.actions & bit:
                self.filter.change(change)

    def compare(self) -> None:
        assert self.filter.state is self.mta.state
        assert not self.filter.due
        assert not self.mta.reply_due


class Dialogue:
    """A client that an MTA serves, drawn at random."""

    def __init__(self, data: st.DataObject, pair: Pair) -> None:
        self.data = data
        self.pair = pair

    def chance(self) -> bool:
        return self.data.draw(st.booleans())

    def verdict(self, letter: str) -> Message:
        """Return what the filter answers: mostly `c`."""
        if self.data.draw(st.integers(0, 7)):
            return Continue()
        choices: list[Message] = [Accept(), *REFUSALS]
        if letter not in "CH":
            choices.append(Discard())
        if letter == "B" and self.pair.steps & Step.SKIP:
            choices.append(Skip())
        return self.data.draw(st.sampled_from(choices))

    def step(self, letter: str) -> Message:
        return self.pair.say(letter, self.verdict(letter))

    def hello(self) -> None:
        if self.chance():
            self.step("U")
        self.step("C")
        for _ in range(self.data.draw(st.integers(0, 2))):
            self.step("H")

    def message(self) -> None:
        """Send one message, whole or not, as far as the verdicts let it go."""
        ended = self.head() or self.content()
        if ended or self.pair.filter.state is State.DECIDED:
            if self.chance():
                self.pair.say("A")  # Postfix
        else:
            self.pair.say("A")

    def head(self) -> bool:
        """Send the envelope; return whether a verdict ended the message, or the client gave up."""
        if self.decides(self.step("M"), "M"):
            return True
        for _ in range(self.data.draw(st.integers(1, 3))):
            if self.decides(self.step("R"), "R"):
                return True
            if self.chance():
                self.step("U")
                if self.pair.filter.state is State.DECIDED:
                    return True
        if not self.data.draw(st.integers(0, 4)):
            self.pair.say("A")
            return True
        return self.decides(self.step("T"), "T")

    def content(self) -> bool:
        """Send header and body; return whether the message is over."""
        for letter in "L" * self.data.draw(st.integers(0, 2)) + "N":
            if self.decides(self.step(letter), letter):
                return True
        for _ in range(self.data.draw(st.integers(0, 2))):
            answer = self.step("B")
            if self.decides(answer, "B"):
                return True
            if isinstance(answer, Skip):
                break
        self.step("E")
        return True

    @staticmethod
    def decides(answer: Message, letter: str) -> bool:
        if isinstance(answer, Accept | Discard):
            return True
        return letter != "R" and not isinstance(answer, Continue | Skip)


@given(st.data(), st.sampled_from([2, 3, 4, 6]).map(offer), WISHES)
def test_both_ends_agree_after_any_dialogue(
    data: st.DataObject, offered: Options, wish: Wish
) -> None:
    pair = Pair(data, offered, wish)
    dialogue = Dialogue(data, pair)
    for again in (True, False):
        dialogue.hello()
        for _ in range(data.draw(st.integers(0, 3))):
            dialogue.message()
        if not (again and pair.shows("K") and data.draw(st.booleans())):
            break
        pair.say("K")
    pair.say("Q")
    assert pair.filter.state is State.CLOSED


@given(
    st.data(),
    st.lists(st.sampled_from(["MRTLNBE", "MRTNE", "MRRTLLNBBE"]), min_size=1, max_size=3),
    WISHES,
)
def test_every_message_is_opened_once(data: st.DataObject, messages: list[str], wish: Wish) -> None:
    pair = Pair(data, offer(), wish)
    for letter in "CH" + "".join(messages):
        pair.say(letter)
    assert pair.opened == len(messages)


@given(
    st.data(),
    st.sampled_from("MTLNB"),
    st.lists(st.sampled_from("RTLNB"), max_size=3),
    st.sampled_from([Continue(), Accept(), Tempfail(), Discard()]),
)
def test_both_ends_agree_where_a_client_goes_on_after_a_verdict(
    data: st.DataObject, decided: str, strays: list[str], last: Message
) -> None:
    pair = Pair(
        data,
        offer(),
        Wish(frozenset({"connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body"})),
    )
    for letter in "CH" + MESSAGE[: MESSAGE.index(decided)]:
        pair.say(letter)
    pair.say(decided, Reject())
    for letter in strays:
        pair.say(letter, Reject())
    pair.say("E", last)
    assert pair.filter.state is State.IDLE
