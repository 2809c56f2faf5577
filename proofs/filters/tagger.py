"""Tags each message with its own recipient and with the process that has loaded this file; has a callback at every stage."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

from pmilter import Action, Context, Milter
from proofs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MARK = "X-Proof"
LOADED_BY = os.getpid()

SETTINGS = Settings.from_environment()

milter = Milter("tagger", actions=Action.ADDHDRS, limits=SETTINGS.limits)
milter.set_dispatcher(SETTINGS.make_dispatcher())
milter.set_listen(1024)  # for those that have it open their socket


def go_on(_ctx: Context, *_arguments: object) -> None:
    pass


for stage in ("connect", "helo", "envfrom", "envrcpt", "data", "header", "eoh", "body", "abort"):
    on: Callable[[str], Callable[[Any], Any]] = milter.on  # type: ignore[assignment]  # one overload a stage; this is any
    on(stage)(go_on)


@milter.on("eom")
def eom(ctx: Context) -> None:
    time.sleep(random.uniform(0.0, SETTINGS.pause))
    ctx.addheader(MARK, f"{' '.join(ctx.recipients or ())} {LOADED_BY}")
