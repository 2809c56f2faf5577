"""Law: the macros that are seen are the macros in scope.

The model here is written from the rules alone and does the plainest thing: it remembers all packets in order and decides for
each, when asked, whether something that came later has ended it.
"""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.messages import Abort, Continue, Macros, Options, QuitNc, Reject
from pmilter.protocol.rules import State

EARLIER_FIRST = "CHMRTLNBEU"
MESSAGE = "MRTLNBEU"


class Packet(NamedTuple):
    """One macro packet."""

    stage: str
    items: tuple[tuple[str, str], ...]


class Model:
    """What is in scope: an ordered history of packets and of what ends them."""

    def __init__(self) -> None:
        self.history: list[Packet | str] = []
        """Packets; letters of commands; ``"end"`` where a message ended; ``"close"`` where the SMTP session did."""

    def packet_in_scope(self, stage: str) -> Packet | None:
        found = None
        for event in self.history:
            if isinstance(event, Packet):
                found = event if event.stage == stage else found
            elif event == "close" or (event == "end" and stage in MESSAGE):
                found = None
            elif event in EARLIER_FIRST:
                later = EARLIER_FIRST.index(stage) > EARLIER_FIRST.index(event)
                found = None if later else found
        return found

    def seen(self) -> dict[str, str]:
        merged: dict[str, str] = {}
        for stage in EARLIER_FIRST:
            packet = self.packet_in_scope(stage)
            for name, value in packet.items if packet else ():
                merged[name.strip("{}")] = value
        return merged


FRAMES = {
    "C": b"\0\0\0\x0cClocalhost\0U",
    "H": b"\0\0\0\x04Hmx\0",
    "M": b"\0\0\0\x07M<a@b>\0",
    "R": b"\0\0\0\x07R<c@d>\0",
    "T": b"\0\0\0\x01T",
    "U": b"\0\0\0\x06UFROB\0",
    "L": b"\0\0\0\x05LX\0v\0",
    "N": b"\0\0\0\x01N",
    "B": b"\0\0\0\x04Bx\r\n",
    "E": b"\0\0\0\x01E",
    "A": b"\0\0\0\x01A",
    "K": b"\0\0\0\x01K",
}

FOLLOWERS = {
    "O": "CU", "C": "HMUAK", "H": "HMUAK", "M": "RUAHMK", "R": "RTUAHMK", "T": "LNAHM", "L": "LNAHM", "N": "BEAHM",
    "B": "BEAHM", "E": "MHUAK", "A": "MHUAK", "K": "CU",
}  # fmt: skip
"""What may follow a command, simplified: U is left out of the chain, it leads nowhere."""

NAMES = st.sampled_from(["i", "j", "{i}", "{mail_addr}", "mail_addr", "{x}"])
ITEMS = st.lists(st.tuples(NAMES, st.sampled_from(["", "1", "2"])), max_size=3).map(tuple)


class Peer:
    """A filter session beside the model of its macros."""

    def __init__(self) -> None:
        self.model = Model()
        self.session = FilterSession()
        self.session.receive(Options(6, 0x1FF, 0x1FFFFF).encode())
        self.session.next_command()
        self.session.negotiate(Options(6, 0, 0))
        self.refused = False
        """Whether the open message has had its verdict."""

    def give(self, packet: Packet) -> None:
        items = [(name.encode(), value.encode()) for name, value in packet.items]
        self.session.receive(Macros(ord(packet.stage), items).encode())
        assert self.session.next_command() is None
        if packet.stage in EARLIER_FIRST:
            self.model.history.append(packet)

    def command(self, letter: str, reject: bool) -> None:
        self.session.receive(FRAMES[letter])
        command = self.session.next_command()
        self.model.history.append(letter)
        self.compare()  # in the callback
        if self.session.due:
            self.session.reply(Reject() if reject else Continue())
            if letter == "E" or (reject and letter in "MTLNB"):
                self.model.history.append("end")
        elif isinstance(command, Abort):
            self.session.end_message()
            self.model.history.append("end")
        elif isinstance(command, QuitNc):
            self.session.macros.clear()
            self.model.history.append("close")
        self.compare()

    def compare(self) -> None:
        expected = self.model.seen()
        assert self.session.macros.as_dict() == expected
        for name in ("i", "{i}", "j", "mail_addr", "{mail_addr}", "x"):
            assert self.session.macros.get(name) == expected.get(name.strip("{}"))


@given(st.data())
def test_macros_seen_are_the_macros_in_scope(data: st.DataObject) -> None:
    peer = Peer()
    last = "O"
    for _ in range(data.draw(st.integers(1, 12))):
        for stage in data.draw(st.lists(st.sampled_from(EARLIER_FIRST + "XA"), max_size=2)):
            peer.give(Packet(stage, data.draw(ITEMS)))
            peer.compare()
        letter = data.draw(st.sampled_from(FOLLOWERS[last]))
        reject = letter in "CHMRTLNBEU" and data.draw(st.integers(0, 5)) == 0
        peer.command(letter, reject)
        if peer.session.state is State.DECIDED:
            last = "A"
        elif letter != "U":
            last = letter


@given(st.lists(st.tuples(st.sampled_from("CHMRTNEL"), ITEMS), min_size=1, max_size=8))
def test_last_packet_of_each_stage_is_the_one_in_scope(
    packets: list[tuple[str, tuple[tuple[str, str], ...]]],
) -> None:
    peer = Peer()
    for stage, items in packets:
        peer.give(Packet(stage, items))
    peer.compare()
