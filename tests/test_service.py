from __future__ import annotations

from pmilter.service import Service


def test_service_neither_stops_nor_refuses_by_itself() -> None:
    service = Service()
    assert (service.stopping, service.refusing) == (False, False)


def test_service_that_counts_nothing_may_be_told_of_probes_and_failures() -> None:
    Service().note_probe()
    Service().note_failure(ValueError())
