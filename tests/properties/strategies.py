"""What the laws are tried on: messages, streams, pieces of streams, offers and wishes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

from pmilter.protocol.constants import Action, Family, MacroStage, Step
from pmilter.protocol.messages import (
    Abort,
    Accept,
    AddHeader,
    AddRcpt,
    AddRcptPar,
    Body,
    ChgFrom,
    ChgHeader,
    Connect,
    ConnFail,
    Continue,
    Data,
    DelRcpt,
    Discard,
    Eoh,
    Eom,
    Header,
    Helo,
    InsHeader,
    Macros,
    Mail,
    Message,
    Options,
    Progress,
    Quarantine,
    Quit,
    QuitNc,
    Rcpt,
    Reject,
    ReplBody,
    ReplyCode,
    Shutdown,
    Skip,
    Tempfail,
    Unknown,
)
from pmilter.protocol.negotiation import Wish

U32 = st.integers(0, 0xFFFFFFFF)
TEXT = st.binary(max_size=20).map(lambda data: data.replace(b"\0", b"\xff"))
"""Any bytes that a string on the wire can hold."""

TEXTS = st.lists(TEXT, max_size=4)
SYMLISTS = st.dictionaries(st.sampled_from(range(7)), TEXT, max_size=3)
OPTIONS = st.builds(Options, U32, U32, U32, SYMLISTS)
WITH_ADDRESS = st.sampled_from([Family.INET, Family.INET6, Family.UNIX])

REPLY_WORDS = st.text("abc %.;-", max_size=20).map(lambda text: text.replace("%", "%%").encode())


@st.composite
def reply_codes(draw: st.DrawFn) -> ReplyCode:
    """Return a reply of one or several lines."""
    code = b"%d" % draw(st.integers(400, 599))
    lines = draw(st.lists(REPLY_WORDS, min_size=1, max_size=3))
    joined = [code + b"-" + line for line in lines[:-1]] + [code + b" " + lines[-1]]
    return ReplyCode(b"\r\n".join(joined))


COMMANDS: st.SearchStrategy[Message] = st.one_of(
    OPTIONS,
    st.builds(Macros, st.integers(0, 255), st.lists(st.tuples(TEXT, TEXT), max_size=4)),
    st.builds(Connect, TEXT, WITH_ADDRESS, st.integers(0, 65535), TEXT),
    st.builds(Connect, TEXT, st.just(Family.UNKNOWN)),
    st.builds(Helo, TEXT),
    st.builds(Unknown, TEXT),
    st.builds(Mail, TEXT, TEXTS),
    st.builds(Rcpt, TEXT, TEXTS),
    st.builds(Header, TEXT, TEXT),
    st.builds(Body, st.binary(max_size=50)),
    st.builds(Eom, st.binary(max_size=50)),
    *(st.builds(kind) for kind in (Data, Eoh, Abort, Quit, QuitNc)),
)
"""Every command."""

CHANGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(AddHeader, TEXT, TEXT),
    st.builds(InsHeader, U32, TEXT, TEXT),
    st.builds(ChgHeader, U32, TEXT, TEXT),
    st.builds(ReplBody, st.binary(max_size=50)),
    st.builds(ChgFrom, TEXT, st.none() | TEXT),
    st.builds(AddRcptPar, TEXT, st.none() | TEXT),
    st.builds(AddRcpt, TEXT),
    st.builds(DelRcpt, TEXT),
    st.builds(Quarantine, TEXT),
)
"""Every change."""

ANSWERS: st.SearchStrategy[Message] = st.one_of(
    OPTIONS,
    CHANGES,
    reply_codes(),
    *(
        st.builds(kind)
        for kind in (
            Continue, Accept, Reject, Tempfail, Discard, Skip, Progress, Shutdown, ConnFail,
        )
    ),
)  # fmt: skip
"""Every answer."""

STAGE_NAMES = (
    "connect", "helo", "envfrom", "envrcpt", "data", "unknown", "header", "eoh", "body", "eom",
)  # fmt: skip

WISHES = st.builds(
    Wish,
    stages=st.frozensets(st.sampled_from(STAGE_NAMES)),
    quiet=st.frozensets(st.sampled_from(STAGE_NAMES)),
    actions=st.integers(0, 0x1FF).map(Action),
    abilities=st.sampled_from([0, 0x400, 0x800, 0x100000, 0x100C00]).map(Step),
    symlists=st.dictionaries(st.sampled_from(MacroStage), TEXT, max_size=2).map(
        lambda lists: tuple(lists.items())
    ),
)
"""What a filter may want."""


@st.composite
def cuts(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """Return the pieces of a stream that is cut anywhere."""
    places = draw(st.lists(st.integers(0, len(stream)), max_size=12))
    ends = [0, *sorted(places), len(stream)]
    return [stream[start:end] for start, end in pairwise(ends)]
