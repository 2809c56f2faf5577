"""``pmilter run --check``: finds out whether a filter could serve, and tells how it would."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pmilter.address import parse_address
from pmilter.cli.app import load_app, nothing_to_listen_on, refuse_setconn
from pmilter.cli.applying import apply, dispatcher_name
from pmilter.dispatchers.registry import choose_dispatcher
from pmilter.limits import Limits
from pmilter.protocol.constants import Status
from pmilter.protocol.rules import NAMED, STAGES
from pmilter.testing.trial import try_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pmilter.cli.settings import RunSettings
    from pmilter.dispatchers.admission import Peers
    from pmilter.plan import Plan
    from pmilter.protocol.messages import Options

Findings = dict[str, Any]
"""What was found, as JSON has it."""


def check(app: str, settings: RunSettings) -> Findings:
    """Load a program, put the settings into force, run a synthetic session; return how it would be served. Opens no socket.

    Raises:
        ConfigError: It could not be served.
    """
    own: list[str] = []
    milter = load_app(app, own.append if settings.listen is None else partial(refuse_setconn, app))
    if settings.listen is None and not own:
        raise nothing_to_listen_on(app)
    address = settings.listen or parse_address(own[0])
    name = dispatcher_name(settings, milter)
    apply(settings, milter)
    choose_dispatcher(milter)
    if milter.peers is not None:
        milter.peers.check(address)
    agreement = try_out(milter)
    assert agreement is not None
    return {
        "app": app,
        "name": milter.name,
        "listen": str(address),
        "dispatcher": name or "the program's own",
        "workers": settings.workers or 0,
        "reload": settings.listen is not None,
        "peers": None if milter.peers is None else _peers(milter.peers),
        **_negotiated(agreement),
        **_promises(milter.plan()),
    }


def _negotiated(agreement: Options) -> Findings:
    """Return what was agreed on with an MTA that offers everything."""
    rules = [NAMED[stage] for stage in STAGES if NAMED[stage].replies and stage != "negotiate"]
    shown = [rule for rule in rules if not rule.off & agreement.steps]
    return {
        "version": agreement.version,
        "stages": [rule.name for rule in shown],
        "without_reply": [rule.name for rule in shown if rule.noreply & agreement.steps],
        "actions": [action.name for action in agreement.actions],
    }


def _peers(peers: Peers) -> list[str]:
    """Return who is served, as people would give it."""
    users = (f"user:{number}" for number in sorted(peers.uids))
    groups = (f"group:{number}" for number in sorted(peers.gids))
    return [*sorted(map(str, peers.networks)), *users, *groups]


def _promises(plan: Plan) -> Findings:
    """Return what becomes of failures and excess."""
    return {
        "fallback": {stage: _answer(plan.fallback[stage]) for stage in STAGES},
        "timeout": plan.timeout,
        "limits": {name: getattr(plan.limits, name) for name in sorted(Limits.__slots__)},
    }


def _answer(fallback: Status | str) -> str:
    return (fallback.name if isinstance(fallback, Status) else fallback).lower()


# --- for people


def rows(findings: Findings) -> Iterator[tuple[str, str]]:
    """Yield findings as rows of a table: what, and how it is."""
    yield "filter", f"{findings['name']} ({findings['app']})"
    yield (
        "address",
        findings["listen"]
        + ("" if findings["reload"] else ", opened by the program itself: it cannot be reloaded"),
    )
    yield "peers", "all" if findings["peers"] is None else ", ".join(findings["peers"])
    yield "dispatcher", _dispatcher(findings)
    yield "stages", ", ".join(_stages(findings))
    yield "actions", ", ".join(findings["actions"]) or "none"
    yield "fallback", _fallback(findings["fallback"])
    yield (
        "limits",
        ", ".join(f"{name} {_number(value)}" for name, value in findings["limits"].items()),
    )
    yield "trial", "passed"


def _dispatcher(findings: Findings) -> str:
    workers = findings["workers"]
    return (
        f"{findings['dispatcher']}, in {workers} processes" if workers else findings["dispatcher"]
    )


def _stages(findings: Findings) -> Iterator[str]:
    for stage in findings["stages"]:
        yield f"{stage} (no reply)" if stage in findings["without_reply"] else stage


def _fallback(fallback: Mapping[str, str]) -> str:
    """Return fallbacks as people would give them: the usual one, then those that differ."""
    usual = fallback["eom"]
    others = (f"{stage}={answer}" for stage, answer in fallback.items() if answer != usual)
    return ", ".join((usual, *others))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.15g}"
