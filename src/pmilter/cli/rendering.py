"""How an account looks on a terminal, and as plain text: arrows, stages, the change as a diff, the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from rich.rule import Rule
from rich.text import Text

from pmilter.protocol.constants import Answer, Command
from pmilter.protocol.messages import CHANGES, Message, Options
from pmilter.protocol.rules import GRANTS, RULES
from pmilter.protocol.trace import elide, format_message, message_name
from pmilter.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from rich.console import Console

    from pmilter.cli.account import Account, Exchange

WIDTHS: Final = range(60, 101)
"""Columns used: longer lines are hard to read, shorter ones hold too little."""

_INDENT: Final = 2
_LABEL: Final = 11
"""Columns of what stands at the left, such as the name of a stage."""

_DIFF: Final = {"+": "green", "-": "red", " ": "dim"}
"""Sign of a line in a diff -> style."""

_ENDS: Final = frozenset({Command.ABORT, Command.QUIT})
"""Commands after which nothing is left to say."""

_CHANGE: Final = "yellow"
_STYLES: Final[dict[int, str]] = {
    **dict.fromkeys(CHANGES, _CHANGE),
    Answer.CONTINUE: "green",
    Answer.ACCEPT: "green",
    Answer.REJECT: "red",
    Answer.TEMPFAIL: "red",
    Answer.REPLYCODE: "red",
    Answer.DISCARD: "red",
}
"""Code of an answer -> style."""


_VERDICTS: Final = {
    "accept": "accepted",
    "reject": "rejected",
    "tempfail": "refused for now",
    "discard": "discarded",
}
"""Verdict -> what was done."""


class Symbols(NamedTuple):
    """Signs that not every terminal has."""

    asks: str
    answers: str
    good: str
    bad: str


_UNICODE: Final = Symbols("→", "←", "✔", "✘")
_ASCII: Final = Symbols(">", "<", "+", "x")


class Page:
    """Writes accounts to a console, one below the other.

    Args:
        console: Where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = max(WIDTHS.start, min(console.width, WIDTHS.stop - 1))
        self._symbols = _ASCII if console.options.ascii_only else _UNICODE
        self._known: dict[str, str] = {}
        self._stage = ""
        self._agreed = False

    def head(self, title: str, lines: Iterable[str]) -> None:
        """Write what stands above all accounts."""
        self._line(Text(title, "bold"))
        for line in lines:
            self._paragraph(line, "dim")
        signs = self._symbols
        legend = Text.assemble(
            (f"{signs.asks} the MTA says   ", "cyan"),
            (f"{signs.answers} the filter answers   ", "green"),
            ("(where none is shown, none is needed)", "dim"),
        )
        self._line(legend)

    def account(self, number: int, account: Account) -> None:
        """Write one account; the agreement is explained with the first only, since it is always the same."""
        self._known = {}
        self._stage = ""
        for exchange in account.exchanges:
            if exchange.command.code == Command.OPTNEG and not self._agreed:
                self._agreed = True
                self._agreement(exchange)
        self._title(f"{number}. {account.scene.title}")
        self._paragraph(account.scene.story)
        self._line()
        for exchange in account.exchanges:
            if exchange.command.code != Command.OPTNEG:
                self._exchange(exchange)
        self._line()
        self._diff(account)
        self._outcome(account)

    # --- parts

    def _agreement(self, exchange: Exchange) -> None:
        self._title("Before all mail: what MTA and filter agree on")
        self._exchange(exchange)
        self._line()
        for answer in exchange.answers:
            if isinstance(answer, Options):
                for sentence in explain(answer):
                    self._paragraph(sentence)

    def _exchange(self, exchange: Exchange) -> None:
        stage = "" if exchange.stage == self._stage else exchange.stage
        self._stage = exchange.stage
        style = "dim" if exchange.command.code in _ENDS else "cyan"
        self._message(stage, self._symbols.asks, exchange.command, style, lines=1)
        self._macros(exchange.macros)
        for answer in exchange.answers:
            style = _STYLES.get(answer.code, "green")
            self._message("", self._symbols.answers, answer, style, lines=3)

    def _message(self, stage: str, arrow: str, message: Message, style: str, lines: int) -> None:
        head = Text(f"{arrow} ", style)
        text = Text(format_message(message, lines * self._room(head)))
        text.stylize(f"bold {style}", 0, len(message_name(message)))
        self._row(stage, head, text)

    def _macros(self, macros: Mapping[str, str]) -> None:
        """Show the macros that are new: Postfix repeats the queue id with every header field."""
        new = {name: value for name, value in macros.items() if self._known.get(name) != value}
        self._known |= new
        if new:
            head = Text("  macros ", "dim")
            text = " ".join(f"{name}={value}" for name, value in new.items())
            self._row("", head, Text(elide(text, self._room(head)), "dim"))

    def _diff(self, account: Account) -> None:
        if account.outcome.message is None:
            return
        lines = account.diff()
        if not lines:
            self._row("message", Text(), Text("delivered as it was sent"))
        for number, line in enumerate(lines):
            sign = Text(line[0], _DIFF[line[0]])
            text = Text(elide(line[1:], self._room(sign)), _DIFF[line[0]])
            self._row("" if number else "message", sign, text)
        self._line()

    def _outcome(self, account: Account) -> None:
        outcome, signs = account.outcome, self._symbols
        label = "outcome"
        for address, reply in outcome.rejected.items():
            self._verdict(label, signs.bad, f"{address} is refused", reply, "red")
            label = ""
        if outcome.message is not None:
            what = f"delivered to {', '.join(outcome.recipients)}"
            self._verdict(label, signs.good, what, outcome.reply, "green")
        elif not (outcome.rejected and outcome.stage == "envrcpt"):
            what = f"{_VERDICTS[outcome.verdict]} at {outcome.stage}: nobody gets the message"
            self._verdict(label, signs.bad, what, outcome.reply, "red")

    def _verdict(self, label: str, sign: str, what: str, reply: str | None, style: str) -> None:
        self._row(label, Text(f"{sign} ", f"bold {style}"), Text(printable(what), style))
        for line in (reply or "").splitlines():
            self._row("", Text("  the client reads ", "dim"), Text(printable(line)))

    # --- lines

    def _title(self, text: str) -> None:
        self._line()
        self._console.print(Rule(Text(text, "bold"), align="left", style="dim"), width=self._width)

    def _room(self, head: Text) -> int:
        """Return the columns beside a label and a head."""
        return self._width - _INDENT - _LABEL - len(head)

    def _row(self, label: str, head: Text, text: Text) -> None:
        """Write a label, a head, and beside them a text of as many lines as it takes."""
        for line in text.wrap(self._console, self._room(head)):
            self._line(Text.assemble((f"{label:{_LABEL}}", "bold"), head, line))
            label, head = "", Text(" " * len(head))

    def _paragraph(self, text: str, style: str = "italic") -> None:
        for line in Text(text, style).wrap(self._console, self._width - _INDENT):
            self._line(line)

    def _line(self, text: Text | None = None) -> None:
        line = Text.assemble(" " * _INDENT, text or "")
        line.rstrip()
        self._console.print(line, soft_wrap=True)


def explain(agreement: Options) -> Iterator[str]:
    """Tell what an agreement means, in sentences."""
    changes = [grant.name for grant in GRANTS.values() if agreement.actions & grant.needs]
    yield (
        f"The filter may call {', '.join(changes)}."
        if changes
        else "The filter may change nothing."
    )
    off = _stages(rule.name for rule in RULES.values() if agreement.steps & rule.off)
    if off:
        yield f"It does not want to be asked at {off}."
    quiet = _stages(rule.name for rule in RULES.values() if agreement.steps & rule.noreply)
    if quiet:
        yield f"It never has an answer at {quiet}, so that the MTA need not wait there."


def _stages(names: Iterable[str]) -> str:
    *first, last = [*names] or [""]
    return f"{', '.join(first)} and {last}" if first else last
