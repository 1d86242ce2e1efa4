"""The report's figures, by name. matplotlib is imported only when something is drawn."""

from __future__ import annotations

from thirdshift.flows.report.bars import bill, estimates, spend
from thirdshift.flows.report.curves import frontier, timeline
from thirdshift.flows.report.data import RunFacts
from thirdshift.flows.report.drawing import Plot

FIGURES = (bill, frontier, spend, timeline, estimates)


def plots(facts: RunFacts) -> dict[str, Plot]:
    """Return the figures that a run has something to show in, by name: bill, frontier, spend, timeline, estimates.

    `Plot.png()` is a picture for elsewhere, `Plot.description` what it shows in words.
    """
    figures = (make(facts) for make in FIGURES)
    return {plot.name: plot for plot in figures if plot is not None}
