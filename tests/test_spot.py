"""Which conversation a thread runs: noted once a thread or context, and found from whatever logs."""

from __future__ import annotations

import threading

from pmilter.spot import Spot, separate_context, spot


def test_a_thread_has_one_spot_of_its_own() -> None:
    here = spot()
    there: list[Spot] = []
    thread = threading.Thread(target=lambda: there.extend((spot(), spot())))
    thread.start()
    thread.join()
    assert spot() is here
    assert there[0] is there[1] is not here


def test_nothing_is_noted_at_first() -> None:
    assert separate_context().run(spot).conversation is None


def test_a_separate_context_has_another_spot_in_the_same_thread() -> None:
    here = spot()
    context = separate_context()
    there = context.run(spot)
    assert there is not here
    assert context.run(spot) is there
    assert spot() is here
