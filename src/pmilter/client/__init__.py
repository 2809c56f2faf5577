"""The MTA's side: what an MTA does with one filter, without I/O.

`Dialogue` is one SMTP session, `Transaction` one message on it; their methods are generators that yield effects for whoever has
the connection. `POSTFIX` and `SENDMAIL` are how the two MTAs differ.
"""

from __future__ import annotations

from pmilter.client.content import Content, Field, Refusal, read_message
from pmilter.client.dialect import DIALECTS, POSTFIX, SENDMAIL, Dialect, find_dialect
from pmilter.client.dialogue import Dialogue
from pmilter.client.effects import Close, Effect, Steps
from pmilter.client.exchange import Verdict
from pmilter.client.macros import GivenMacros, MacroSource, MacroValues
from pmilter.client.peer import Peer, parse_peer
from pmilter.client.transaction import Envelope, Recipient, Transaction

__all__ = [
    "DIALECTS",
    "POSTFIX",
    "SENDMAIL",
    "Close",
    "Content",
    "Dialect",
    "Dialogue",
    "Effect",
    "Envelope",
    "Field",
    "GivenMacros",
    "MacroSource",
    "MacroValues",
    "Peer",
    "Recipient",
    "Refusal",
    "Steps",
    "Transaction",
    "Verdict",
    "find_dialect",
    "parse_peer",
    "read_message",
]
