"""The report's figures, by name. matplotlib is imported only when something is drawn."""

from __future__ import annotations

from pathlib import Path

from thirdshift.flows.report.bars import bill, estimates, spend
from thirdshift.flows.report.curves import frontier, timeline
from thirdshift.flows.report.data import RunFacts, night_of
from thirdshift.flows.report.drawing import Plot

FIGURES = (bill, frontier, spend, timeline, estimates)


def plots_of(warehouse: Path, run_id: str) -> dict[str, Plot]:
    """The figures that a run has something to show in: bill, frontier, spend, timeline, estimates.

    `Plot.png()` is a picture for elsewhere, `Plot.told` what it shows in words. Raises UnknownRun, StoreError.
    """
    return plots(night_of(warehouse, run_id))


def plots(night: RunFacts) -> dict[str, Plot]:
    found = (make(night) for make in FIGURES)
    return {plot.name: plot for plot in found if plot is not None}
