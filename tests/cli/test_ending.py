"""Signals before a service, and after it; in children, since some of them end the process."""

from __future__ import annotations

import os
import signal

import pytest

from pmilter.cli.ending import late_signals_ignored
from pmilter.dispatchers.signals import SIGNALS
from tests.support.processes import in_child


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_does_nothing_when_all_is_over(number: signal.Signals) -> None:
    def work() -> None:
        with late_signals_ignored(lambda: True):
            signal.raise_signal(number)
        signal.raise_signal(number)

    in_child(work)


def test_interrupt_from_the_keyboard_is_one_before_that() -> None:
    def work() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), late_signals_ignored(lambda: False):
            signal.raise_signal(signal.SIGINT)

    in_child(work)


def test_signal_that_was_ignored_stays_ignored() -> None:
    def work() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with late_signals_ignored(lambda: False):
            signal.raise_signal(signal.SIGHUP)

    in_child(work)


def test_signal_that_ends_a_process_does_so_before_that() -> None:
    pid = os.fork()
    if not pid:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with late_signals_ignored(lambda: False):
                signal.raise_signal(signal.SIGTERM)
        finally:
            os._exit(0)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
