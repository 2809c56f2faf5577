"""The filter's end of a load's connection, as bytes: cut into frames, and each held against the rules of the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pmilter.errors import LimitExceeded, RemoteProtocolError
from pmilter.protocol.constants import Answer
from pmilter.protocol.frames import HEADER_SIZE, FrameReader
from pmilter.protocol.messages import ANSWERS, CHANGES, decode_answer
from pmilter.protocol.mta_session import MAX_CHANGE_BYTES, MAX_CHANGES
from pmilter.protocol.rules import GRANTS

if TYPE_CHECKING:
    from collections.abc import Set

    from pmilter.client.load.figures import Figures
    from pmilter.protocol.messages import Options


class AnswerReader:
    """What a filter sends on one connection.

    Args:
        figures: Where changes and progress are counted.
        strict: Whether progress before end of message is a fault, as on Sendmail.

    Attributes:
        agreement: What was agreed; None before.
    """

    __slots__ = ("_bytes", "_changes", "_figures", "_reader", "_strict", "agreement")

    def __init__(self, figures: Figures, *, strict: bool) -> None:
        self._reader = FrameReader()
        self._figures = figures
        self._strict = strict
        self._changes = self._bytes = 0
        self.agreement: Options | None = None

    def take(self, data: bytes, stage: str, replies: Set[int]) -> tuple[int, bytes] | None:
        """Take bytes as they came, and return code and payload of the reply that ends the answer, or None before that.

        Args:
            data: The bytes.
            stage: The stage that is to be answered.
            replies: Codes that may answer it.

        Raises:
            RemoteProtocolError: They are no frames, or not what may come now; more than one reply, too.
            LimitExceeded: Too many changes of one message, or too large ones.
        """
        self._reader.feed(data)
        while (frame := self._reader.next_frame()) is not None:
            if self._ends(*frame, stage, replies):
                self._changes = self._bytes = 0
                if self._reader.pending:
                    raise RemoteProtocolError(
                        f"the filter has sent more than its answer at {stage}"
                    )
                return frame
        return None

    def _ends(self, code: int, payload: bytes, stage: str, replies: Set[int]) -> bool:
        decode_answer(code, payload)
        if code in CHANGES:
            self._take_change(code, len(payload), stage)
        elif code == Answer.PROGRESS:
            if self.agreement is None or (self._strict and stage != "eom"):
                raise _illegal(code, stage, "it may come before end of message on Postfix only")
            self._figures.progress += 1
        elif code in replies:
            return True
        else:
            raise _illegal(code, stage, "it is no legal answer there")
        return False

    def _take_change(self, code: int, size: int, stage: str) -> None:
        if stage != "eom":
            raise _illegal(code, stage, "changes are for end of message")
        needs = GRANTS[code].needs
        if self.agreement is None or not self.agreement.actions & needs:
            raise _illegal(code, stage, f"it needs {needs!r}, which was not agreed")
        self._changes += code != Answer.REPLBODY
        self._bytes += size + HEADER_SIZE
        if self._changes > MAX_CHANGES or self._bytes > MAX_CHANGE_BYTES:
            raise LimitExceeded(
                f"more than {MAX_CHANGES} changes or {MAX_CHANGE_BYTES} bytes of them for one message"
            )
        self._figures.changes[code] += 1


def _illegal(code: int, stage: str, why: str) -> RemoteProtocolError:
    name = ANSWERS[code].__name__
    return RemoteProtocolError(f"the filter sent {name} at {stage}: {why}", command=name)
