"""Load: many connections that play the MTA at once, and what they measure.

`Load` does what a `Plan` says, and gives `Figures`.
"""

from __future__ import annotations

from pmilter.client.load.figures import FAILURES, STAGES, Figures
from pmilter.client.load.histogram import Histogram
from pmilter.client.load.loop import Load
from pmilter.client.load.plan import Plan, sample_message

__all__ = ["FAILURES", "STAGES", "Figures", "Histogram", "Load", "Plan", "sample_message"]
