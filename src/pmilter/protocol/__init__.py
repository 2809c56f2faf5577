"""The milter protocol without I/O: frames, typed messages, the rules as tables, and both roles.

No module here opens a socket, reads a clock, starts a thread or sets up logging. `FilterSession` is the filter's end of a
connection, `MtaSession` the MTA's.
"""

from __future__ import annotations

from pmilter.protocol.constants import Action, Answer, Command, Family, MacroStage, Status, Step
from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.frames import FrameReader, encode_frame
from pmilter.protocol.messages import Message, Options, decode_answer, decode_command
from pmilter.protocol.mta_session import MtaSession
from pmilter.protocol.negotiation import Wish, check_answer, choose, offer
from pmilter.protocol.rules import GRANTS, RULES, Move, State

__all__ = [
    "GRANTS",
    "RULES",
    "Action",
    "Answer",
    "Command",
    "Family",
    "FilterSession",
    "FrameReader",
    "MacroStage",
    "Message",
    "Move",
    "MtaSession",
    "Options",
    "State",
    "Status",
    "Step",
    "Wish",
    "check_answer",
    "choose",
    "decode_answer",
    "decode_command",
    "encode_frame",
    "offer",
]
