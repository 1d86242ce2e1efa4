"""The report's figures, by name. matplotlib is imported only when something is drawn."""

from __future__ import annotations

from pathlib import Path

from flows.report_bars import bill, estimates, spend
from flows.report_curves import frontier, timeline
from flows.report_drawing import Plot
from flows.report_night import Night, night_of

FIGURES = (bill, frontier, spend, timeline, estimates)


def plots_of(warehouse: Path, run_id: str) -> dict[str, Plot]:
    """The figures that a run has something to show in: bill, frontier, spend, timeline, estimates.

    `Plot.png()` is a picture for elsewhere, `Plot.told` what it shows in words. Raises UnknownRun, StoreError.
    """
    return plots(night_of(warehouse, run_id))


def plots(night: Night) -> dict[str, Plot]:
    found = (make(night) for make in FIGURES)
    return {plot.name: plot for plot in found if plot is not None}
