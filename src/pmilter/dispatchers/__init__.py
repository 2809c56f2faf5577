"""Dispatchers: how connections are given to processes, threads or a loop. They perform effects and hold no milter rule."""

from __future__ import annotations

from pmilter.dispatchers.ithread import ithread_dispatcher
from pmilter.dispatchers.postfork import postfork_dispatcher
from pmilter.dispatchers.selector import selector_dispatcher
from pmilter.dispatchers.sequential import sequential_dispatcher
from pmilter.dispatchers.serving import Handler, Listener, Stopped

__all__ = [
    "Handler",
    "Listener",
    "Stopped",
    "ithread_dispatcher",
    "postfork_dispatcher",
    "selector_dispatcher",
    "sequential_dispatcher",
]
