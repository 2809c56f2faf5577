"""The policy of one connection, as a generator without I/O: order, limits, what an exception turns into, abort, close.

It yields what it wants done, a `Receive`, `Send` or `Call`, and is resumed with the outcome; what cannot be done is thrown
into it. A dispatcher performs these effects and holds no milter rule. Rules: docs/protocol.md, "The filter's side".
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from pmilter.context import Context
from pmilter.effects import Call, Effect, Receive, Send, call_at_once
from pmilter.errors import ConnectionClosed, MilterError, MilterTimeout, RemoteProtocolError
from pmilter.facts import Facts
from pmilter.intake import Intake
from pmilter.outcomes import CallFailed, CallTimedOut
from pmilter.protocol.constants import (
    ACTIONS,
    MAX_DATA_SIZE,
    Action,
    Answer,
    Command,
    Status,
    Step,
)
from pmilter.protocol.filter_session import FilterSession
from pmilter.protocol.messages import COMMANDS, Message, Options
from pmilter.protocol.negotiation import clip
from pmilter.protocol.rules import OPEN, Move
from pmilter.reply import Reply
from pmilter.requests import SHUTDOWN, Requests
from pmilter.service import Service
from pmilter.spot import spot
from pmilter.verdicts import NO_ROOM, STOPPING, Verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pmilter.effects import Talk
    from pmilter.program import Program, Stage

__all__ = ["Call", "Conversation", "Effect", "Receive", "Send", "Service"]

logger: Final = logging.getLogger("pmilter")

_STATUS_CONTINUE: Final = Status.CONTINUE
_NEXT: Final = Move.NEXT
_OPEN_MESSAGE: Final = Move.OPEN
_RCPT: Final = int(Command.RCPT)
_RCPT_REJ: Final = int(Step.RCPT_REJ)
_BODYEOB: Final = int(Command.BODYEOB)
_OPTNEG: Final = int(Command.OPTNEG)
_ABORT: Final = int(Command.ABORT)
_QUIT: Final = int(Command.QUIT)
_DELIVERS: Final = frozenset({Answer.CONTINUE, Answer.ACCEPT})
_FACTS: Final = frozenset({Command.CONNECT, Command.HELO, Command.MAIL, Command.RCPT})
"""Commands that are understood whether the filter sees them or not, for what they tell."""

_REFUSES: Final = frozenset({Status.REJECT, Status.TEMPFAIL})
_GOES_ON: Final = frozenset({Status.CONTINUE, Status.SKIP, Status.NOREPLY})
_FLUSH_SIZE: Final = 16_384
"""Bytes after which some are sent: a large new body is not held twice, and what many commands in one piece have for answers is not
copied again and again."""


class Conversation:
    """One connection's policy. Call `run` once, and drive the generator that it returns.

    Args:
        program: The filter.
        peer: The MTA's end of the connection, for the log.
        write: Sends bytes to the MTA at once, from any thread; without it `Context.progress` raises.
        service: Tells when the service is stopping.
        perform: Calls callbacks and returns what they return, as `effects.call_at_once`, for a dispatcher that lets them take as
            long as they will: then no `Call` is yielded, which saves leaving the generator.
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
        "_frame_number",
        "_intake",
        "_negotiated",
        "_peer",
        "_perform",
        "_probing",
        "_program",
        "_requests",
        "_sees_refused",
        "_service",
        "_session",
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
        perform: Callable[[Call], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._program = program
        self._peer = peer
        self._write = write
        self._service = service or Service()
        self._perform = perform
        self._clock = clock
        limits = program.plan.limits
        self._session = FilterSession(frame_limit=limits.frame, macro_limit=limits.macros)
        self._call = Call()
        self._frame_number = 0
        self._frame_deadline = 0.0
        self._finished = False
        self._probing = True
        self._sees_refused = False
        self._begin_connection()

    def _begin_connection(self) -> None:
        """Start an SMTP session: nothing of an earlier one on the same socket is left."""
        self._called = self._negotiated = False
        self._facts = Facts()
        self._requests = Requests(self._call, self._write)
        self._context = Context(self._session, self._facts, self._requests)
        self._intake = Intake(self._facts, self._program.plan.limits, self._context)
        self._verdicts = Verdicts(self._session, self._facts)

    # --- for the log, see `spot.Spot`

    @property
    def connection_id(self) -> str:
        """The connection's name in the log."""
        return self._context.connection_id

    @property
    def queue_id(self) -> str | None:
        """The message's name in the log, where the MTA has told it."""
        return self._context.queue_id

    # --- the loop

    def run(self) -> Talk:  # noqa: C901  # one piece on purpose, see below
        """Serve the connection to its end: receive, answer all commands at hand, send.

        The generator ends by returning, whatever is thrown into it. The usual case stands here in one piece, since it runs for
        every header of every mail.
        """
        session, stages, service = self._session, self._program.stages, self._service
        reader = session.reader
        perform, call, here = self._perform, self._call, spot()
        at_once = perform is call_at_once  # then that is done here, which saves a call
        timeout = self._program.plan.timeout
        receive = Receive(self._program.plan.limits.negotiation)
        try:
            while data := (yield receive):
                here.conversation = self
                for code, payload in reader.split(data):
                    move = session.step(code, payload)
                    if move is not _NEXT:
                        if not move:
                            continue  # macros
                        COMMANDS[code].decode(
                            payload
                        )  # raises: what is malformed begins no message
                        if move is _OPEN_MESSAGE:
                            self._begin_message()
                        else:
                            yield from self._boundary(move)
                    stage = stages[code]
                    if stage is not None:
                        take = stage.take  # in a variable: it is no method of the stage's
                        try:
                            arguments = take(self._intake, payload)
                        except RemoteProtocolError:
                            if not self._ignores(stage):
                                raise
                            arguments = ()
                        if (self._verdicts.special or service.stopping) and not self._shows(stage):
                            pass  # it has been answered
                        elif arguments is None:
                            self._answer_over_limit(stage)
                        else:
                            outcome: object = None
                            function = stage.function
                            if function is not None:
                                self._called = True
                                try:
                                    if at_once:
                                        outcome = function(*arguments)
                                    else:
                                        call.stage = stage.name
                                        call.function = function
                                        call.arguments = arguments
                                        call.timeout = stage.timeout
                                        outcome = (yield call) if perform is None else perform(call)
                                except BaseException as error:  # noqa: BLE001  # whatever a filter raises, the MTA gets its answer
                                    outcome = self._failed(stage, error, at_once=at_once)
                            if (
                                outcome is _STATUS_CONTINUE or outcome is None
                            ) and self._requests.reply is None:
                                session.go_on()
                                if code == _RCPT:
                                    self._note_recipient(payload)
                            else:
                                verdict = self._verdict(stage, outcome)
                                given = self._verdicts.settle(stage, verdict, self._context)
                                if code == _RCPT and given.code in _DELIVERS:
                                    self._note_recipient(payload)
                    elif code == _BODYEOB:
                        yield from self._end_of_message(payload)
                    else:
                        yield from self._control(code)
                    if self._finished:
                        break
                    if len(session.out) > _FLUSH_SIZE:
                        yield from self._flush()
                if self._finished:
                    yield from self._flush()
                    break
                receive.timeout = self._frame_patience() if reader.partial else timeout
                receive.answer, session.out = session.out, b""
                here.conversation = None  # what is logged from here on may be another's
            else:
                self._check_end_of_file()
        except (MilterError, OSError) as error:
            yield from self._send_last()
            self._log_end(error)
        except Exception:
            self._probing = False
            logger.exception(
                "%s: closing in state %s: error in pmilter itself", self._peer, session.state.name
            )
        here.conversation = self
        if self._is_probe():
            service.note_probe()
            logger.debug("%s: a probe: nothing came but the negotiation, if that", self._peer)
        yield from self._end_session()
        call.arguments = ()  # else the context, which knows of the call, waits for the garbage collector
        here.conversation = None

    def _ignores(self, stage: Stage) -> bool:
        """Return whether nobody looks at what a command carries, so that it may be malformed."""
        if stage.command in _FACTS:
            return False
        hidden = self._verdicts.special and not self._verdicts.shows(
            stage.command, self._session.move
        )
        return hidden or stage.function is None or self._must_stop()

    def _must_stop(self) -> bool:
        """Return whether the service is stopping, and no message is open that may be finished."""
        session = self._session
        return self._service.stopping and (session.move is not _NEXT or session.state not in OPEN)

    def _shows(self, stage: Stage) -> bool:
        """Return whether the filter is to see a command; where it is not, answer it."""
        verdicts, move = self._verdicts, self._session.move
        if self._must_stop():
            verdicts.stop(NO_ROOM if self._service.refusing else STOPPING)
        if not verdicts.special or verdicts.shows(stage.command, move):
            return True
        verdicts.answer_unasked(stage, move, self._context)
        self._finished = verdicts.final
        return False

    def _answer_over_limit(self, stage: Stage) -> None:
        """Answer a command that passes a limit with the fallback: closing would let a sender switch the filter off."""
        if self._intake.first_excess():  # a sender must not fill the log either
            message = "a limit is passed at %s, answering %s"
            self._context.log.warning(message, stage.name, stage.fallback.name)
        self._verdicts.settle(stage, stage.fallback.message, self._context)

    def _check_end_of_file(self) -> None:
        if self._session.mid_frame:
            raise ConnectionClosed("closed by the MTA in the middle of a frame", clean=False)

    def _frame_patience(self) -> float:
        """Return how long to wait for more of a frame that has begun: it has a time for its whole rest. Raise where there is none."""
        reader = self._session.reader
        if reader.fault is not None:
            raise reader.fault
        number, limit = reader.partial, self._program.plan.limits.frame_time
        now = self._clock()
        if self._frame_number != number:
            self._frame_number = number
            self._frame_deadline = now + limit
        left = self._frame_deadline - now
        if left <= 0:
            raise MilterTimeout("the rest of a frame did not arrive in time", seconds=limit)
        return left

    def _send_last(self) -> Talk:
        """Send what was answered before the trouble came."""
        try:
            yield from self._flush()
        except (MilterError, OSError):
            pass  # the peer is gone; the reason for the end is logged already

    def _flush(self) -> Talk:
        """Send what there is. Meanwhile another conversation of this thread may run, and note that it does."""
        if out := self._session.take():
            yield Send(out)
            spot().conversation = self

    # --- callbacks and answers

    def _ask(self, stage: Stage, arguments: tuple[Any, ...]) -> Generator[Effect, Any, object]:
        """Have a callback called, and return what it returned, or the fallback where it raised."""
        self._called = True
        call = self._call
        call.function = stage.function  # type: ignore[assignment]  # asked only where there is one
        call.arguments = arguments
        call.stage = stage.name
        call.timeout = stage.timeout
        try:
            outcome: object = (yield call) if self._perform is None else self._perform(call)
        except BaseException as error:  # noqa: BLE001  # whatever a filter raises, the MTA gets its answer
            return self._failed(stage, error)
        return outcome

    def _failed(
        self, stage: Stage, error: BaseException, *, at_once: bool = False
    ) -> Status | Reply:
        """Log what a callback raised, and return the fallback."""
        if at_once:
            error = CallFailed(error)
        if isinstance(error, GeneratorExit):
            raise error
        if isinstance(error, CallTimedOut):
            self._detach(error, f"answering {stage.fallback.name}")
        else:
            self._requests.take_reply()
            self._requests.drop_changes()
            self._tell(
                _raised(error), f"the {stage.name} callback failed, answering {stage.fallback.name}"
            )
        return stage.fallback.outcome

    def _tell(self, error: BaseException, what: str) -> None:
        """Log what a callback raised, and have the service take note."""
        self._service.note_failure(error)
        try:
            self._context.log.error("%s", what, exc_info=error)
        except Exception:  # noqa: BLE001, S110  # a filter of the log's may raise too; the MTA gets its answer all the same
            pass

    def _detach(self, error: CallTimedOut, consequence: str) -> None:
        """Go on without a callback that is late: nothing that it still does counts, and no other runs beside it."""
        self._service.note_failure(error)
        told = {"stack": error.stack}
        self._context.log.error("%s, %s; it is at\n%s", error, consequence, error.stack, extra=told)
        self._requests.end_eom()
        self._requests = Requests(self._call, self._write)
        self._context = self._intake.context = self._context.detach(self._requests)
        self._verdicts.wait_for(error.late)

    def _verdict(self, stage: Stage, outcome: object) -> Message:
        """Return the reply for what a callback returned."""
        reply = self._requests.take_reply()
        if reply is SHUTDOWN:
            return SHUTDOWN.encode()
        if isinstance(outcome, Reply):
            return outcome.encode()
        if outcome is None:
            outcome = _STATUS_CONTINUE
        verdict = stage.legal.get(outcome) if isinstance(outcome, Status) else None
        if verdict is None:
            return self._refuse_outcome(stage, outcome)
        if reply is not None and outcome in _REFUSES:
            return reply.encode()
        return verdict

    def _refuse_outcome(self, stage: Stage, outcome: object) -> Message:
        """Log that a callback has returned what it may not, and return the fallback."""
        legal = ", ".join(sorted(status.name for status in stage.legal))
        error = TypeError(
            f"the {stage.name} callback returned {outcome!r}; it may return None, a Reply, or Status.{legal}"
        )
        self._context.log.error("%s; answering %s", error, stage.fallback.name)
        self._service.note_failure(error)
        self._requests.drop_changes()
        return stage.fallback.message

    def _note_recipient(self, payload: bytes) -> None:
        """Count a recipient to the message, unless the MTA itself has refused it."""
        recipients = self._facts.recipients
        if recipients is not None and not (
            self._sees_refused and self._session.macros.get("rcpt_mailer") == "error"
        ):
            recipients.append(payload.partition(b"\0")[0])

    # --- the other commands

    def _boundary(self, move: Move) -> Talk:
        """Do what the breaking or the repeating of a message asks for."""
        if move is Move.REPEAT:
            return
        yield from self._ask_unanswered("abort", self._program.abort)
        self._facts.end_message()
        if move is Move.BREAK:
            self._verdicts.begin_message()
        else:
            self._begin_message()

    def _begin_message(self) -> None:
        self._facts.begin_message()
        self._intake.begin_message()
        self._verdicts.begin_message()

    def _control(self, code: int) -> Talk:
        """Do what a command asks for that has no verdict."""
        if code == _OPTNEG and self._session.offer is not None:
            yield from self._negotiate(self._session.offer)
        elif self._session.payload:
            COMMANDS[code].decode(self._session.payload)  # raises: none belongs there
        elif code == _ABORT:
            self._session.end_message()
            self._verdicts.begin_message()
        elif code == _QUIT:
            self._finished = True
        else:
            self._probing = False
            yield from self._end_session()
            self._session.end_session()
            late = self._verdicts.late
            self._begin_connection()
            if late is not None:
                self._verdicts.wait_for(late)

    def _negotiate(self, offer: Options) -> Talk:
        answer = self._program.choose(offer)
        if self._program.negotiate is not None:
            answer = yield from self._ask_negotiate(self._program.negotiate, offer, answer)
        self._session.negotiate(answer)
        self._sees_refused = bool(int(answer.steps) & _RCPT_REJ)

    def _ask_negotiate(
        self, function: Callable[..., Any], offer: Options, choice: Options
    ) -> Generator[Effect, Any, Options]:
        """Return the filter's own answer to an offer; where it fails, the library's, and a verdict kept for what follows."""
        self._requests.negotiating = True
        self._prepare_call("negotiate", function, offer.replace(), choice.replace())
        self._called, self._negotiated = False, True
        fallback = self._program.negotiate_fallback
        try:
            outcome = (yield self._call) if self._perform is None else self._perform(self._call)
            return self._own_answer(outcome, offer, choice)
        except GeneratorExit:
            raise
        except CallTimedOut as error:
            self._detach(error, f"the first command will be answered with {fallback.name}")
        except BaseException as error:  # noqa: BLE001  # whatever a filter raises, the MTA gets its answer
            consequence = f"the first command will be answered with {fallback.name}"
            self._tell(_raised(error), f"the negotiate callback failed, {consequence}")
        finally:
            self._requests.negotiating = False
            self._requests.take_reply()
        self._verdicts.hold_first(fallback.message)
        return choice

    def _own_answer(self, outcome: object, offer: Options, choice: Options) -> Options:
        """Return the answer that a negotiate callback wants, within the offer; raise where it cannot be sent."""
        answer = _own_options(outcome, offer, choice)
        symlists = self._requests.take_symlists()
        if symlists:
            answer = answer.replace(
                actions=answer.actions | Action.SETSYMLIST, symlists=answer.symlists | symlists
            )
        clipped = clip(answer, offer)
        if clipped != answer:
            message = "%s: not offered by the MTA, so left out: %r became %r"
            logger.warning(message, self._peer, answer, clipped)
        if len(clipped.payload()) > MAX_DATA_SIZE:
            raise ValueError(f"the macro lists are larger than a packet of {MAX_DATA_SIZE} bytes")
        return clipped

    def _end_of_message(self, chunk: bytes) -> Talk:
        stage = self._program.eom
        if (self._verdicts.special or self._service.stopping) and not self._shows(stage):
            return
        outcome: object = _STATUS_CONTINUE
        if chunk:
            outcome = yield from self._ask_last_chunk(chunk)
        if (
            outcome is _STATUS_CONTINUE
            and stage.function is not None
            and self._verdicts.late is None
        ):
            if self._session.out:
                yield from self._flush()  # lest a progress frame overtakes it
            self._requests.begin_eom()
            outcome = yield from self._ask(stage, (self._context,))
            self._requests.end_eom()
        verdict = self._verdict(stage, outcome)
        if self._requests.changing:
            if verdict.code in _DELIVERS:
                yield from self._send_changes()
            self._requests.drop_changes()
        self._verdicts.settle(stage, verdict, self._context)

    def _ask_last_chunk(self, chunk: bytes) -> Generator[Effect, Any, object]:
        """Show the body in an end of message, which no MTA of today sends; skip and no reply mean to go on."""
        body = self._program.stages[Command.BODY]
        if body is None or body.function is None or not self._verdicts.shows(Command.BODY, _NEXT):
            return Status.CONTINUE
        outcome = yield from self._ask(body, (self._context, chunk))
        if outcome is not None and not (isinstance(outcome, Status) and outcome in _GOES_ON):
            return outcome
        reply = self._requests.take_reply()
        return reply if reply is SHUTDOWN else Status.CONTINUE

    def _send_changes(self) -> Talk:
        for change in self._requests.take_changes():
            self._session.change(change)
            if len(self._session.out) > _FLUSH_SIZE:
                yield from self._flush()

    # --- the end

    def _end_session(self) -> Talk:
        """Abort the message that is open, and close."""
        if self._facts.recipients is not None:
            yield from self._ask_unanswered("abort", self._program.abort)
        self._facts.end_message()
        if self._called or self._negotiated:
            yield from self._ask_unanswered("close", self._program.close)

    def _is_probe(self) -> bool:
        """Return whether nothing has come for the filter, as on the connections of health probes."""
        facts = self._facts
        known = (facts.connect, facts.helo, facts.sender, facts.recipients)
        return self._probing and not self._called and known == (None, None, None, None)

    def _prepare_call(self, stage: str, function: Callable[..., Any], *arguments: object) -> None:
        self._called = True
        call = self._call
        call.stage = stage
        call.function = function
        call.arguments = (self._context, *arguments)
        call.timeout = self._program.plan.limits.command_time

    def _ask_unanswered(self, stage: str, function: Callable[..., Any] | None) -> Talk:
        """Have abort or close called: nothing that they do is answered."""
        late = self._verdicts.late
        if function is None or (late is not None and stage == "abort"):
            return
        if late is not None and late.then(function, (self._context,)):
            return
        self._prepare_call(stage, function)
        try:
            (yield self._call) if self._perform is None else self._perform(self._call)
        except GeneratorExit:
            raise
        except CallTimedOut as error:
            self._detach(error, "going on without it")
        except BaseException as error:  # noqa: BLE001  # there is no answer to give; the connection goes on
            self._tell(_raised(error), f"the {stage} callback failed")
        self._requests.take_reply()

    def _log_end(self, error: Exception) -> None:
        """Say in one line who was cut off, where, and why."""
        state = self._session.state.name
        expected = isinstance(error, OSError) and not isinstance(error, MilterTimeout)
        if expected and not self._session.mid_frame and self._is_probe():
            return
        self._probing = False
        level = (
            logging.INFO
            if expected or isinstance(error, (ConnectionClosed, MilterTimeout))
            else logging.WARNING
        )
        logger.log(level, "%s: closing in state %s: %s", self._peer, state, error)


def _raised(error: BaseException) -> BaseException:
    """Return what a callback raised, of what was thrown for it."""
    return error.error if isinstance(error, CallFailed) else error


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
