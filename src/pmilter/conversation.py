"""The policy of one connection, as a generator without I/O: order, limits, what an exception turns into, abort, close.

It yields what it wants done, a `Receive`, `Send` or `Call`, and is resumed with the outcome; what cannot be done is thrown
into it. A dispatcher performs these effects and holds no milter rule. Rules: docs/protocol.md, "The filter's side".
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.context import Context
from pmilter.effects import Call, Effect, Receive, Send, Service
from pmilter.errors import ConnectionClosed, MilterError, MilterTimeout
from pmilter.facts import Facts
from pmilter.program import VERDICTS, Program, Stage
from pmilter.protocol.constants import ACTIONS, Action, Answer, Command, Status
from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.messages import Eom, Message, Options
from pmilter.protocol.negotiation import clip
from pmilter.protocol.rules import OPEN, Move, State
from pmilter.reply import Reply
from pmilter.requests import SHUTDOWN, Requests
from pmilter.tally import Tally
from pmilter.verdicts import CONTINUE, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pmilter.effects import Talk

__all__ = ["Call", "Conversation", "Effect", "Receive", "Send", "Service"]

logger: Final = logging.getLogger("pmilter")

_STATUS_CONTINUE: Final = Status.CONTINUE
_NEXT: Final = Move.NEXT
_DELIVERS: Final = frozenset({Answer.CONTINUE, Answer.ACCEPT})
_FLUSH_SIZE: Final = 262_144
"""Bytes of changes after which some are sent, so that a large new body is not held twice."""


class Conversation:
    """One connection's policy. Call `run` once, and drive the generator that it returns.

    Args:
        program: The filter.
        peer: The MTA's end of the connection, for the log.
        write: Sends bytes to the MTA at once, from any thread; without it `Context.progress` raises.
        service: Tells when the service is stopping.
        clock: Seconds, as `time.monotonic`.
    """

    __slots__ = (
        "_call",
        "_called",
        "_clock",
        "_context",
        "_facts",
        "_finished",
        "_frame_deadline",
        "_peer",
        "_program",
        "_requests",
        "_service",
        "_session",
        "_tally",
        "_verdicts",
        "_write",
    )

    def __init__(
        self,
        program: Program,
        peer: str = "an MTA",
        *,
        write: Callable[[bytes], object] | None = None,
        service: Service | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._program = program
        self._peer = peer
        self._write = write
        self._service = service or Service()
        self._clock = clock
        limits = program.plan.limits
        self._session = FilterSession(frame_limit=limits.frame, macro_limit=limits.macros)
        self._call = Call()
        self._frame_deadline: float | None = None
        self._finished = False
        self._begin_connection()

    def _begin_connection(self) -> None:
        """Start an SMTP session: nothing of an earlier one on the same socket is left."""
        self._called = False
        self._facts = Facts()
        self._requests = Requests(self._write)
        self._context = Context(self._session, self._facts, self._requests)
        self._tally = Tally(self._facts, self._program.plan.limits)
        self._verdicts = Verdicts(self._session, self._facts)

    # --- the loop

    def run(self) -> Talk:
        """Serve the connection to its end. The generator ends by returning, whatever is thrown into it."""
        try:
            yield from self._serve()
        except (MilterError, OSError) as error:
            self._log_end(error)
        except Exception:
            logger.exception(
                "%s: closing in state %s: error in pmilter itself",
                self._peer,
                self._session.state.name,
            )
        yield from self._end_session()

    def _serve(self) -> Talk:
        session = self._session
        receive = Receive(self._program.plan.limits.negotiation)
        send = Send()
        while not self._finished:
            data = yield receive
            if not data:
                if session.mid_frame:
                    raise ConnectionClosed(
                        "closed by the MTA in the middle of a frame", clean=False
                    )
                return
            session.receive(data)
            trouble: MilterError | None = None
            try:
                yield from self._commands()
            except MilterError as error:
                trouble = error  # what was answered before it still goes out
            if session.unsent:
                send.data = session.take()
                yield send
            if trouble is not None:
                raise trouble
            receive.timeout = self._patience()

    def _commands(self) -> Talk:
        """Answer all commands at hand. The common case stands here in one piece: it runs for every header of every mail."""
        session = self._session
        stages = self._program.stages
        while (command := session.next_command()) is not None:
            if session.move is not _NEXT:
                yield from self._boundary(session.move)
            stage = stages.get(command.code)
            if stage is None:
                yield from self._control(command)
            elif self._is_shown(stage, command):
                outcome: object = _STATUS_CONTINUE
                if stage.function is not None:
                    outcome = yield from self._ask(stage, stage.arguments(self._context, command))
                self._answer(stage, outcome)
                if stage.command is Command.RCPT:
                    self._note_recipient(command)
            if self._finished:
                return

    def _is_shown(self, stage: Stage, command: Message) -> bool:
        """Note a command; where the filter is not to see it, answer it and return False."""
        verdicts = self._verdicts
        if self._service.stopping and (
            self._session.move is not _NEXT or self._session.state not in OPEN
        ):
            verdicts.stop()
        if stage.note is not None and not stage.note(self._tally, command) and not verdicts.special:
            self._context.log.warning(
                "a limit is passed at %s, answering %s", stage.name, stage.fallback.name
            )
            verdicts.settle(stage, VERDICTS[stage.fallback], self._context)
            return False
        if verdicts.special and not verdicts.shows(stage.command, self._session.move):
            verdicts.answer_unasked(stage.command, self._session.move)
            self._finished = verdicts.final
            return False
        return True

    def _patience(self) -> float | None:
        """Return how long to wait for the next bytes."""
        plan = self._program.plan
        if not self._session.mid_frame:
            self._frame_deadline = None
            return plan.limits.negotiation if self._session.state is State.START else plan.timeout
        now = self._clock()
        if self._frame_deadline is None:
            self._frame_deadline = now + plan.limits.frame_time
        left = self._frame_deadline - now
        if left <= 0:
            raise MilterTimeout(
                "the rest of a frame did not arrive in time", seconds=plan.limits.frame_time
            )
        return left

    # --- callbacks and answers

    def _ask(self, stage: Stage, arguments: tuple[Any, ...]) -> Generator[Effect, Any, object]:
        """Have a callback called, and return what it returned, or the fallback where it raised."""
        self._called = True
        call = self._call
        call.function = stage.function  # type: ignore[assignment]  # asked only where there is one
        call.arguments = arguments
        call.stage = stage.name
        try:
            outcome: object = yield call
        except GeneratorExit:
            raise
        except BaseException as error:  # whatever a filter raises, the MTA gets its answer
            self._requests.take_reply()
            self._context.log.error(
                "the %s callback failed, answering %s",
                stage.name,
                stage.fallback.name,
                exc_info=error,
            )
            return stage.fallback
        return outcome

    def _answer(self, stage: Stage, outcome: object) -> None:
        """Answer a command with what its callback returned."""
        if (outcome is _STATUS_CONTINUE or outcome is None) and self._requests.reply is None:
            if self._session.due:
                self._session.reply(CONTINUE)
        else:
            self._verdicts.settle(stage, self._verdict(stage, outcome), self._context)

    def _verdict(self, stage: Stage, outcome: object) -> Message:
        """Return the reply for what a callback returned."""
        reply = self._requests.take_reply()
        if reply is SHUTDOWN:
            return SHUTDOWN.encode()
        if isinstance(outcome, Reply):
            return outcome.encode()
        if outcome is None:
            outcome = Status.CONTINUE
        if not isinstance(outcome, Status) or outcome not in stage.legal:
            legal = ", ".join(sorted(status.name for status in stage.legal))
            message = "the %s callback returned %r, answering %s; it may return None, a Reply, or Status.%s"
            self._context.log.error(message, stage.name, outcome, stage.fallback.name, legal)
            return VERDICTS[stage.fallback]
        if reply is not None and outcome in {Status.REJECT, Status.TEMPFAIL}:
            return reply.encode()
        return VERDICTS[outcome]

    def _note_recipient(self, command: Any) -> None:
        """Count a recipient to the message, unless this filter or the MTA itself has refused it."""
        recipients = self._facts.recipients
        if recipients is None or self._session.answered not in _DELIVERS:
            return
        if self._session.macros.get("rcpt_mailer") != "error":
            recipients.append(command.address)

    # --- the other commands

    def _boundary(self, move: Move) -> Talk:
        """Do what the begin, the breaking or the repeating of a message asks for."""
        if move is Move.REPEAT:
            return
        if move is not Move.OPEN:
            yield from self._ask_unanswered("abort", self._program.abort)
            self._facts.end_message()
        if move is not Move.BREAK:
            self._facts.begin_message()
            self._tally.begin_message()
        self._verdicts.begin_message()

    def _control(self, command: Message) -> Talk:
        """Do what a command asks for that has no verdict, and end of message."""
        if isinstance(command, Eom):
            yield from self._end_of_message(command)
        elif isinstance(command, Options):
            yield from self._negotiate(command)
        elif command.code == Command.ABORT:
            self._session.end_message()
            self._verdicts.begin_message()
        elif command.code == Command.QUIT:
            self._finished = True
        else:
            yield from self._end_session()
            self._session.macros.clear()
            self._begin_connection()

    def _negotiate(self, offer: Options) -> Talk:
        choice = self._program.choose(offer)
        answer = choice
        if self._program.negotiate is not None:
            answer = yield from self._ask_negotiate(self._program.negotiate, offer, choice)
        symlists = self._requests.take_symlists()
        if symlists:
            answer = answer.replace(
                actions=answer.actions | Action.SETSYMLIST, symlists=answer.symlists | symlists
            )
        clipped = clip(answer, offer)
        if clipped != answer:
            logger.warning(
                "%s: not offered by the MTA, so left out: %r became %r", self._peer, answer, clipped
            )
        self._session.negotiate(clipped)

    def _ask_negotiate(
        self, function: Callable[..., Any], offer: Options, choice: Options
    ) -> Generator[Effect, Any, Options]:
        """Return the filter's own answer to an offer; where it fails, the library's, and a verdict kept for what follows."""
        self._called = True
        self._requests.negotiating = True
        call = self._call
        call.function, call.arguments, call.stage = (
            function,
            (self._context, offer, choice),
            "negotiate",
        )
        fallback = self._program.plan.fallback["negotiate"]
        try:
            return _own_options((yield call), offer, choice)
        except GeneratorExit:
            raise
        except BaseException as error:  # whatever a filter raises, the MTA gets its answer
            message = "the negotiate callback failed, the first command will be answered with %s"
            self._context.log.error(message, fallback.name, exc_info=error)
            self._verdicts.hold_first(VERDICTS[fallback])
            return choice
        finally:
            self._requests.negotiating = False
            self._requests.take_reply()

    def _end_of_message(self, command: Eom) -> Talk:
        stage = self._program.eom
        if not self._is_shown(stage, command):
            return
        outcome: object = Status.CONTINUE
        if command.chunk:
            outcome = yield from self._ask_last_chunk(command.chunk)
        if outcome is Status.CONTINUE and stage.function is not None:
            if self._session.unsent:
                yield Send(self._session.take())  # lest a progress frame overtakes it
            self._requests.begin_eom()
            outcome = yield from self._ask(stage, (self._context,))
            self._requests.end_eom()
        verdict = self._verdict(stage, outcome)
        if verdict.code in _DELIVERS:
            yield from self._send_changes()
        self._requests.drop_changes()
        self._verdicts.settle(stage, verdict, self._context)

    def _ask_last_chunk(self, chunk: bytes) -> Generator[Effect, Any, object]:
        """Show the body in an end of message, which no MTA of today sends; skip and no reply mean to go on."""
        body = self._program.stages[Command.BODY]
        if body.function is None or not self._verdicts.shows(Command.BODY, _NEXT):
            return Status.CONTINUE
        outcome = yield from self._ask(body, (self._context, chunk))
        positive = outcome is None or outcome in {Status.CONTINUE, Status.SKIP, Status.NOREPLY}
        return Status.CONTINUE if positive else outcome

    def _send_changes(self) -> Talk:
        session = self._session
        for change in self._requests.take_changes():
            session.change(change)
            if session.unsent > _FLUSH_SIZE:
                yield Send(session.take())

    # --- the end

    def _end_session(self) -> Talk:
        """Abort the message that is open, and close."""
        if self._session.state in OPEN:
            yield from self._ask_unanswered("abort", self._program.abort)
        self._facts.end_message()
        if self._called:
            yield from self._ask_unanswered("close", self._program.close)

    def _ask_unanswered(self, stage: str, function: Callable[..., Any] | None) -> Talk:
        """Have abort or close called: nothing that they do is answered."""
        if function is None:
            return
        self._called = True
        call = self._call
        call.function, call.arguments, call.stage = function, (self._context,), stage
        try:
            yield call
        except GeneratorExit:
            raise
        except BaseException as error:  # there is no answer to give; the connection goes on
            self._context.log.error("the %s callback failed", stage, exc_info=error)
        self._requests.take_reply()

    def _log_end(self, error: Exception) -> None:
        """Say in one line who was cut off, where, and why."""
        state = self._session.state.name
        expected = isinstance(error, OSError) and not isinstance(error, MilterTimeout)
        level = (
            logging.INFO
            if expected or isinstance(error, (ConnectionClosed, MilterTimeout))
            else logging.WARNING
        )
        logger.log(level, "%s: closing in state %s: %s", self._peer, state, error)


def _own_options(outcome: object, offer: Options, choice: Options) -> Options:
    """Return what a negotiate callback's result means."""
    if outcome is None or outcome is Status.CONTINUE:
        return choice
    if outcome is Status.ALL_OPTS:
        return choice.replace(actions=choice.actions | (offer.actions & ACTIONS[6]))
    if isinstance(outcome, Options):
        return outcome
    raise TypeError(
        f"it returned {outcome!r}, not Options, None, Status.CONTINUE or Status.ALL_OPTS"
    )
