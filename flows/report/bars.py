"""Draw amounts: the bill, the spend, estimates against what was paid. A bar has its name above, its figure at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from thirdshift.flows.console import money
from thirdshift.flows.report.data import Row, RunFacts
from thirdshift.flows.report.drawing import Inks, Plot, bare, is_wide, literal, shortened, tall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 40
"""Pixels from one labelled bar to the next."""
MOST_BARS, MOST_TASKS, MOST_ENDPOINTS, MOST_ESTIMATES = 14, 8, 6, 10


# --- the bill against single endpoints ----------------------------------------------------------------------------------


def bill(facts: RunFacts) -> Plot | None:
    """Plot this run's cost beside every endpoint's alone, in USD; None where nothing was spent or compared."""
    alone = [row for row in facts.bill if row["alone_usd"] is not None][:MOST_BARS]
    if not alone or not facts.spent_usd:
        return None
    bars = [(row["endpoint"], float(row["alone_usd"]), _scored(row), False) for row in alone]
    bars.append((f"this run{facts.by_settled}", facts.spent_usd, mean_score(facts), True))
    bars.sort(key=lambda bar: bar[1])

    def draw(figure: Figure, inks: Inks) -> None:
        axes = figure.subplots()
        tall(figure, ROW * len(bars) + 4, right=96)
        for n, (name, usd, score, ours) in enumerate(bars):
            colour = inks.chosen if ours else inks.quiet
            label = shortened(name, 34) + (f"  scored {score:.3f}" if score is not None else "")
            _bar(axes, n, usd, literal(money(usd)), label, colour, inks, bold=ours)
        _bars_done(axes, len(bars), max(usd for _, usd, _, _ in bars))

    costs = "; ".join(f"{name} {money(usd)}" for name, usd, _, _ in bars)
    return Plot("bill", "This run against every endpoint alone", f"Cost of the whole batch: {costs}.", draw)


def _scored(row: Row) -> float | None:
    return None if row["score"] is None else float(row["score"])


def mean_score(facts: RunFacts) -> float | None:
    """Return the mean score of the results, 0 to 1; None where none has a score."""
    mean = facts.counts["mean_score"]
    return None if mean is None else float(mean)


def _bar(
    axes: Axes, n: int, value: float, shown: str, label: str, colour: str, inks: Inks, *, bold: bool = False
) -> None:
    """Draw a bar on line `n` from below, its name above it, its figure at its end."""
    weight = "bold" if bold else "normal"
    axes.barh(n, value, height=0.3, color=colour)
    axes.annotate(shown, (value, n), (6, 0), textcoords="offset points", va="center", color=inks.ink,
                  fontweight=weight, annotation_clip=False)  # fmt: skip
    axes.annotate(label, (0, n), (0, ROW * 0.2), textcoords="offset points", va="bottom", color=inks.ink,
                  fontweight=weight, annotation_clip=False)  # fmt: skip


def _bars_done(axes: Axes, count: int, most: float) -> None:
    bare(axes)
    axes.set_xlim(0, most or 1.0)
    axes.set_ylim(-0.4, count - 0.4 + 0.2)


# --- spend by endpoint and task -----------------------------------------------------------------------------------------


def spend(facts: RunFacts) -> Plot | None:
    """Plot what was spent by endpoint and task, in USD; None where nothing was."""
    by_endpoint: dict[str, dict[str, float]] = {}
    by_task: dict[str, float] = {}
    for row in facts.spend_by_task:
        usd, task = float(row["settled_usd"]), row["task"] or "no request (overhead)"
        by_endpoint.setdefault(row["endpoint"], {})[task] = usd
        by_task[task] = by_task.get(task, 0.0) + usd
    if not by_endpoint:
        return None
    tasks = sorted(by_task, key=lambda task: (-by_task[task], task))[:MOST_TASKS]
    names = sorted(by_endpoint, key=lambda name: (-sum(by_endpoint[name].values()), name))[:MOST_ENDPOINTS]
    most = max(usd for name in names for usd in by_endpoint[name].values())

    def draw(figure: Figure, inks: Inks) -> None:
        across = min(len(names), 3) if is_wide(figure) else 1
        down = math.ceil(len(names) / across)
        facet_height = ROW * len(tasks) + 46
        all_axes = figure.subplots(down, across, squeeze=False)
        tall(figure, facet_height * down)
        figure.subplots_adjust(
            wspace=0.35 if across > 1 else 0, hspace=0.0, right=0.91 if across > 1 else 0.8
        )
        for k, axes in enumerate(all_axes.flat):
            bare(axes)
            if k < len(names):
                _facet(axes, names[k], by_endpoint[names[k]], tasks, most, inks.of(k), inks)

    costs = "; ".join(f"{name} {money(sum(by_endpoint[name].values()))}" for name in names)
    rest = (
        f" The {MOST_TASKS} dearest of {len(by_task)} tasks are shown." if len(by_task) > MOST_TASKS else ""
    )
    description = f"By endpoint{facts.by_settled}: {costs}.{rest}"
    return Plot("spend", f"Spend by endpoint and task{facts.by_settled}", description, draw)


def _facet(
    axes: Axes, name: str, usd: dict[str, float], tasks: Sequence[str], most: float, colour: str, inks: Inks
) -> None:
    for n, task in enumerate(reversed(tasks)):
        amount = usd.get(task, 0.0)
        _bar(axes, n, amount, literal(money(amount)), shortened(task, 32), colour, inks)
    _bars_done(axes, len(tasks), most)
    axes.set_ylim(-0.4, len(tasks) + 0.75)
    axes.set_xlim(0, (most or 1.0) * 1.25)
    head = f"{shortened(name, 22)}  {literal(money(sum(usd.values())))}"
    axes.annotate(
        head, (0, len(tasks) + 0.02), va="bottom", color=colour, fontweight="bold", annotation_clip=False
    )


# --- estimate against actual --------------------------------------------------------------------------------------------


def estimates(facts: RunFacts) -> Plot | None:
    """Plot expected and paid cost by task and endpoint, in USD; None where nothing can be compared."""
    rows = [row for row in facts.estimates if row["predicted_usd"] and row["cost_usd"]][:MOST_ESTIMATES]
    if not rows:
        return None
    most = max(float(max(row["predicted_usd"], row["cost_usd"])) for row in rows)

    def draw(figure: Figure, inks: Inks) -> None:
        axes = figure.subplots()
        tall(figure, ROW * len(rows) + 4, left=8, right=10)
        for n, row in enumerate(reversed(rows)):
            thought, came = float(row["predicted_usd"]), float(row["cost_usd"])
            axes.plot([thought, came], [n, n], color=inks.quiet, linewidth=2)
            axes.plot(
                thought, n, "o", markersize=8, markerfacecolor="none", markeredgewidth=1.5, color=inks.quiet
            )
            axes.plot(came, n, "o", markersize=8, color=inks.chosen)
            label = f"{shortened(row['task'] or '', 18)}, {shortened(row['endpoint'], 20)}"
            error = f"{came / thought - 1:+.0%}"
            if is_wide(figure):
                error = literal(f"expected {money(thought)}, paid {money(came)}, {error}")
            axes.annotate(f"{label}  {error}", (0, n), (-6, ROW * 0.2), textcoords="offset points", va="bottom",
                          color=inks.ink, annotation_clip=False)  # fmt: skip
        _bars_done(axes, len(rows), most * 1.02)

    errors = [float(row["cost_usd"] / row["predicted_usd"]) - 1 for row in rows]
    description = f"What was paid differs from what was expected by {min(errors):+.0%} to {max(errors):+.0%}."
    return Plot("estimates", "Expected cost (hollow) and what was paid (filled)", description, draw)
