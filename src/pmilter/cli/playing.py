"""Plays the demo's scenes to the sample filter: in memory, or through a real Postfix."""

from __future__ import annotations

import queue
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pmilter.cli import sample
from pmilter.cli.account import Account, Outcome, Recorder
from pmilter.cli.recording import Connection, RecordedSession, recording_dispatcher
from pmilter.errors import ConfigError
from pmilter.testing.mta import Mta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pmilter.cli.scenes import Client, Scene
    from pmilter.testing.rig import Postfix, SmtpResult

_PATIENCE: Final = 10.0
"""Seconds for a real MTA to end its connection to the filter after the SMTP session."""


# --- in memory


def play_in_memory(scene: Scene, dialect: str) -> Account:
    """Play a scene to the sample filter, without sockets.

    Args:
        scene: The scene.
        dialect: ``"postfix"`` or ``"sendmail"``.
    """
    recorder = Recorder()
    name, address = scene.client
    with Mta(sample.milter, connect=(name, address), helo=name, dialect=dialect) as mta:
        dialogue = mta.dialogue
        dialogue.session = RecordedSession(
            recorder, dialogue.session.offer, strict=dialogue.dialect.strict
        )
        result = mta.send(scene.message, scene.sender, scene.recipients)
    outcome = Outcome(
        verdict=result.verdict,
        stage=result.stage,
        reply=result.reply,
        rejected=result.rejected,
        sender=result.sender,
        recipients=tuple(result.recipients) if result.message is not None else (),
        message=result.message,
    )
    return Account(scene, tuple(recorder.exchanges), outcome)


# --- through a real Postfix


def play_through_postfix(scenes: Iterable[Scene]) -> Iterator[Account]:
    """Play scenes to the sample filter through a private Postfix, which lives until the last account is taken.

    Raises:
        ConfigError: Postfix is not installed, or may not be started; the message tells what to do. At once.
        MilterError: It did not start, or did not do its part. With the account.
    """
    from pmilter.testing.rig import Postfix  # the demo in memory does without

    if missing := Postfix.unavailable():
        raise ConfigError(f"{missing}; pmilter demo without --postfix needs neither")
    return _play_all(scenes, Postfix)


def _play_all(scenes: Iterable[Scene], postfix: type[Postfix]) -> Iterator[Account]:
    connections: queue.Queue[Connection] = queue.Queue()
    with postfix(sample.milter, dispatcher=recording_dispatcher(connections.put)) as mta:
        for scene in scenes:
            yield _play_on(mta, scene, connections)


def _play_on(mta: Postfix, scene: Scene, connections: queue.Queue[Connection]) -> Account:
    with mta.client() as smtp:
        smtp.command(_xclient(scene.client))
        result = smtp.send(scene.message, scene.sender, scene.recipients, helo=scene.client.name)
    # Postfix has told the filter of the real client too, on a connection of its own that XCLIENT has ended.
    latest = connections.get(timeout=_PATIENCE)
    with suppress(queue.Empty):
        while True:
            latest = connections.get_nowait()
    latest.wait_closed(_PATIENCE)
    return Account(scene, tuple(latest.recorder.exchanges), _outcome(mta, scene, result))


def _xclient(client: Client) -> str:
    return f"XCLIENT NAME={client.name} ADDR={client.address}"


def _outcome(mta: Postfix, scene: Scene, result: SmtpResult) -> Outcome:
    accepted = result.stage is None
    verdict = "accept" if accepted else "tempfail" if result.code < 500 else "reject"
    delivered = mta.delivered()[0] if accepted else None
    return Outcome(
        verdict=verdict,
        stage=result.stage or "eom",
        reply=str(result.reply),
        rejected={address: str(reply) for address, reply in result.rejected.items()},
        sender=delivered.sender if delivered else scene.sender,
        recipients=delivered.recipients if delivered else (),
        message=delivered.message if delivered else None,
    )
