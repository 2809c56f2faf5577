"""What a filter is, apart from how it is served: its callbacks and wishes, as one immutable value.

`Milter` builds it when it starts to serve; all connections share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pmilter.errors import ConfigError
from pmilter.protocol.constants import Action, MacroStage, Status, Step
from pmilter.protocol.macros import bare_name
from pmilter.protocol.negotiation import Wish
from pmilter.protocol.rules import NAMED, STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pmilter.limits import Limits

KEEPABLE: Final = ("connect", "helo", "envfrom", "envrcpt")
"""Stages whose facts are gathered on request, even without a callback."""

NEVER_QUIET: Final = frozenset({"negotiate", "eom", "abort", "close"})
"""Stages that cannot be registered with ``noreply``: they always, or never, have an answer."""

FALLBACKS: Final = frozenset({Status.TEMPFAIL, Status.REJECT, Status.ACCEPT, Status.CONTINUE})
"""What a fallback may be, apart from ``"shutdown"``."""

Fallback = Status | Literal["shutdown"]
"""The answer where the filter has none; ``"shutdown"`` is the reply ``421 4.7.0``, after which the MTA ends the SMTP session."""

MAX_SYMBOLS: Final = 50
"""Most macro names for one stage: Sendmail reads no more."""


class Callback(NamedTuple):
    """One callback of a filter."""

    function: Callable[..., Any]
    noreply: bool = False
    macros: bytes | None = None
    """Macro names wanted with this stage, as on the wire, or None for what the MTA sends by itself."""


class Plan(NamedTuple):
    """A filter: callbacks by stage, and all that it wants of the MTA."""

    name: str
    callbacks: Mapping[str, Callback]
    actions: Action
    steps: Step
    keep: frozenset[str]
    fallback: Mapping[str, Fallback]
    limits: Limits
    timeout: float | None
    """Seconds of silence after which a connection is closed, or None."""

    def wish(self) -> Wish:
        """Return what to ask for in the negotiation."""
        quiet = {stage for stage, callback in self.callbacks.items() if callback.noreply}
        kept = self.keep - self.callbacks.keys()
        symlists: dict[MacroStage, bytes] = {}
        for stage, callback in self.callbacks.items():
            if callback.macros is not None:
                number = macros_stage(stage)
                symlists[number] = _joined(symlists.get(number, b""), callback.macros)
        skip = Step.SKIP if "body" in self.callbacks else Step(0)
        return Wish(
            frozenset(self.callbacks) | kept,
            frozenset(quiet) | kept,
            self.actions,
            self.steps | skip,
            tuple(sorted(complete_symlists(symlists).items())),
        )


def _joined(one: bytes, other: bytes) -> bytes:
    """Return macro lists of two callbacks that share a stage as one, each name once."""
    return b" ".join(dict.fromkeys(one.split() + other.split()))


def macros_stage(stage: str) -> MacroStage:
    """Return the stage under which a callback's macros are asked for.

    Raises:
        ConfigError: No macros can be asked for with it.
    """
    rule = NAMED.get(stage)
    if rule is None or rule.macros is None:
        raise ConfigError(f"no macros can be asked for with stage {stage!r}", source=stage)
    return rule.macros


def format_symlist(names: str | Iterable[str]) -> bytes:
    """Return macro names as the wire has them: braces around all but single letters, separated by blanks.

    Args:
        names: Names with or without braces, as one text separated by blanks or commas, or as an iterable.

    Raises:
        ConfigError: Too many names, or one with characters that cannot be in a name.
    """
    listed = names.replace(",", " ").split() if isinstance(names, str) else list(names)
    if len(listed) > MAX_SYMBOLS:
        raise ConfigError(
            f"{len(listed)} macro names for one stage, Sendmail takes {MAX_SYMBOLS} at most"
        )
    bare = [bare_name(name.strip()) for name in listed]
    for name in bare:
        if not name.isascii() or not name.isprintable() or not name or set(name) & set(" ,{}"):
            raise ConfigError(f"{name!r} cannot be the name of a macro", source=name)
    return " ".join(name if len(name) == 1 else f"{{{name}}}" for name in bare).encode("ascii")


def complete_symlists(symlists: Mapping[MacroStage, bytes]) -> dict[MacroStage, bytes]:
    """Return macro lists with EOM and EOH both set where one is: Sendmail ignores or empties the one that stands alone."""
    complete = dict(symlists)
    for one, other in ((MacroStage.EOM, MacroStage.EOH), (MacroStage.EOH, MacroStage.EOM)):
        if one in symlists:
            complete.setdefault(other, symlists[one])
    return complete


def make_fallback(fallback: Fallback | Mapping[str, Fallback]) -> dict[str, Fallback]:
    """Return the fallback of every stage; a stage that a mapping leaves out has TEMPFAIL.

    Raises:
        ConfigError: An unknown stage, or what cannot be a fallback.
        TypeError: Neither a `Status`, a text nor a mapping.
    """
    if isinstance(fallback, (Status, str)):
        _check_fallback(fallback)
        return dict.fromkeys(STAGES, fallback)
    if not isinstance(fallback, Mapping):
        raise TypeError(f"fallback must be a Status, 'shutdown' or a mapping, not {fallback!r}")
    for stage, choice in fallback.items():
        if stage not in STAGES:
            raise ConfigError(
                f"fallback for unknown stage {stage!r}; the stages are {', '.join(STAGES)}",
                source=str(stage),
            )
        _check_fallback(choice, f" for stage {stage!r}")
    return {**dict.fromkeys(STAGES, Status.TEMPFAIL), **fallback}


def _check_fallback(choice: object, where: str = "") -> None:
    if not isinstance(choice, (Status, str)):
        raise TypeError(f"fallback{where} must be a Status or 'shutdown', not {choice!r}")
    if choice != "shutdown" and choice not in FALLBACKS:
        allowed = ", ".join(sorted(status.name for status in FALLBACKS))
        raise ConfigError(f"fallback {choice!r}{where}: must be one of {allowed} or 'shutdown'")
