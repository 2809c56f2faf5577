"""That growth is told from noise."""

from __future__ import annotations

import random

from proofs.findings import Finding
from proofs.memory import Sample, check_flat

MEBIBYTE = 1 << 20
NOISE = 512 << 10


def verdict(bytes_a_message: float) -> bool:
    """Return whether 200,000 messages that leave so much count as flat, after a warm-up, and with the noise of arenas."""
    dice = random.Random(1)
    samples = [
        Sample(
            count,
            int(30 * MEBIBYTE + count * bytes_a_message) + dice.choice([0, NOISE]),
            dice.choice([0, NOISE]),
        )
        for count in range(20_000, 200_001, 1000)
    ]
    samples.insert(0, Sample(1000, 10 * MEBIBYTE, 0))
    finding = Finding("test", "test")
    check_flat(finding, samples, 1)
    return finding.passed


def test_noise_and_warming_up_are_no_growth() -> None:
    assert verdict(0.0)


def test_a_small_object_for_each_message_is_growth() -> None:
    assert not verdict(48.0)
