"""Draw two measures against each other: cost against quality, and the run over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from thirdshift.flows.console import money, spent
from thirdshift.flows.report.bars import ROW, mean_score
from thirdshift.flows.report.data import Row, RunFacts
from thirdshift.flows.report.drawing import TEXT, Inks, Label, Plot, is_wide, literal, place, shortened, tall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LANES, MOST_SPANS = 14, 50
FAR_APART = 40.0
"""Costs that differ by more than this factor stand on a logarithmic scale."""
NEAR = 1e-3
"""Floors that differ by less are the same to the eye."""


# --- cost against quality -----------------------------------------------------------------------------------------------


def frontier(facts: RunFacts) -> Plot | None:
    """Plot the cheapest plan's cost in USD by floor, with the plan chosen; None where the plan has no frontier."""
    plan = facts.plan
    if plan is None or len(plan.points) < 2 or plan.floor is None:
        return None
    line, floor = [(reached, cost + plan.spent_usd) for reached, cost in plan.points], plan.floor
    beyond = line[-1][0] + NEAR < floor
    chosen = (plan.quality or line[-1][0] if beyond else floor, plan.total_usd)
    mean = mean_score(facts) if facts.over else None
    singles = [
        (float(row["score"]), float(row["alone_usd"]), row["endpoint"])
        for row in facts.bill
        if row["score"] is not None and row["alone_usd"] and row["basis"] == "pilot"
    ]
    costs = [cost for _, cost in line] + [cost for _, cost, _ in singles] + [chosen[1]]
    far = min(costs) > 0 and max(costs) / min(costs) > FAR_APART

    def draw(figure: Figure, inks: Inks) -> None:
        axes = figure.subplots()
        tall(figure, 360, left=52, right=14, top=24, bottom=46)
        axes.plot(*zip(*line, strict=True), color=inks.quiet, linewidth=2)
        axes.axvline(floor, color=inks.chosen, linewidth=1, linestyle=(0, (4, 4)))
        labels = [Label(*chosen, literal(f"the plan, {money(chosen[1])}"), inks.chosen, bold=True)]
        axes.plot(*chosen, "o", markersize=9, color=inks.chosen)
        if mean is not None and facts.spent_usd:
            axes.plot(mean, facts.spent_usd, "D", markersize=8, color=inks.of(1))
            words = literal(f"the night{facts.by_settled}, {money(facts.spent_usd)}")
            labels.append(Label(mean, facts.spent_usd, words, inks.of(1), bold=True))
        for score, cost, name in singles:
            axes.plot(
                score, cost, "o", markersize=7, markerfacecolor="none", color=inks.quiet, markeredgewidth=1.5
            )
            labels.append(Label(score, cost, f"{shortened(name, 20)} alone", inks.ink))
        labels.append(Label(*line[len(line) // 3], "cheapest plan by floor", inks.quiet))
        _cost_axis(axes, far=far, inks=inks)
        axes.margins(x=0.1, y=0.14)
        axes.set_xlim(right=min(axes.get_xlim()[1], 1.02))
        axes.set_xlabel("mean score" + ("; of the line: the floor asked for" if is_wide(figure) else ""))
        low, high = axes.get_ylim()
        axes.annotate(f"floor {floor:.3g}", (floor, high), (0, 3), textcoords="offset points", ha="center",
                      va="bottom", color=inks.chosen, annotation_clip=False)  # fmt: skip
        dashes = [(floor, cost) for cost in _steps(low, high, far=far)]
        place(axes, labels, TEXT if is_wide(figure) else TEXT - 1, [*_between(line), *dashes])

    made = (
        f"was made for a floor of {plan.floor:.3f} and expected to cost {money(chosen[1])}, pilot included. "
    )
    description = (
        f"The plan {made}"
        + (f"No plan was expected to reach that; this one was to reach {chosen[0]:.3f}. " if beyond else "")
        + f"The cheapest floor on the frontier, {line[0][0]:.3f}, would have cost {money(line[0][1])}; "
        f"the highest, {line[-1][0]:.3f}, {money(line[-1][1])}."
    )
    if mean is not None:
        description += (
            f" The night came out at {mean:.4f}: {spent(facts.spent_usd, facts.counts['unsettled_usd'])}."
        )
    return Plot("frontier", "What each floor would have cost, and the one chosen", description, draw)


def _between(line: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points along a line, close enough that no word fits between two."""
    pairs = pairwise(line)
    return [
        (x + (to_x - x) * k / 8, y + (to_y - y) * k / 8) for (x, y), (to_x, to_y) in pairs for k in range(8)
    ]


def _steps(low: float, high: float, *, far: bool) -> list[float]:
    if far:
        return [low * (high / low) ** (k / 40) for k in range(2, 40)]
    return [low + (high - low) * k / 40 for k in range(2, 40)]


def _cost_axis(axes: Axes, *, far: bool, inks: Inks) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if far:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda usd, _: literal(f"${usd:.3g}") if usd >= 0 else ""))
    axes.grid(axis="y", linewidth=0.8, color=inks.rule)
    axes.spines["left"].set_visible(False)


# --- timeline -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lane:
    """What stands on one line of the timeline; spans are seconds from the start, (from, to, solid)."""

    label: str
    colour: int
    spans: tuple[tuple[float, float, bool], ...]


def timeline(facts: RunFacts) -> Plot | None:
    """Plot shards, workers and money over the seconds since the run began; None where nothing was sent."""
    begun = facts.run["started_at"]
    end = end_of(facts)
    lanes = _lanes(facts, begun, end)
    if not lanes:
        return None
    curve = [
        ((row["moment"] - begun).total_seconds(), float(row["spent_usd"])) for row in facts.spent_over_time
    ]
    length = max((end - begun).total_seconds(), *(to for lane in lanes for _, to, _ in lane.spans), 1e-3)
    shown = lanes[:MOST_LANES]

    def draw(figure: Figure, inks: Inks) -> None:
        top = 140 if curve else 0
        height = top + ROW * len(shown) + 60
        tall(figure, height)
        lower = figure.add_axes((0, 44 / height, 1, (ROW * len(shown) + 4) / height))
        for n, lane in enumerate(reversed(shown)):
            _lane(lower, n, lane, inks.of(lane.colour), inks, length)
        lower.set_xlim(0, length)
        lower.set_ylim(-0.4, len(shown) - 0.2)
        _time_axis(lower, length, inks)
        if curve:
            upper = figure.add_axes((0, (height - top + 8) / height, 1, (top - 34) / height), sharex=lower)
            _curve(upper, curve, length, inks)

    description = (
        f"The run took {lasting(length)}; "
        + "; ".join(f"{lane.label} from {lasting(lane.spans[0][0])} on" for lane in shown[:6])
        + "."
    )
    if len(lanes) > MOST_LANES:
        description += f" {len(lanes) - MOST_LANES} further lanes are not shown."
    return Plot("timeline", "Money and shards over time", description, draw)


def end_of(facts: RunFacts) -> datetime:
    """Return when the run was over; for one that is not, when it was read, or when it last finished a shard."""
    if facts.over:
        finished: datetime = facts.run["finished_at"]
        return finished
    known = [row["finished_at"] for row in facts.shards if row["finished_at"] is not None]
    return facts.read_at if facts.alive or not known else max(known)


def _lanes(facts: RunFacts, begun: datetime, end: datetime) -> list[Lane]:
    """Return a lane per endpoint and purpose, then one per worker."""

    def seconds(at: datetime | None) -> float:
        return max(((at or end) - begun).total_seconds(), 0.0)

    names = sorted({row["endpoint"] for row in (*facts.shards, *facts.workers)})
    colours = {name: k for k, name in enumerate(names)}
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in facts.shards:
        grouped.setdefault((row["purpose"], row["endpoint"]), []).append(row)
    lanes = [
        Lane(
            f"{purpose}: {sum(row['requests'] for row in rows):,} requests to {shortened(endpoint, 24)}",
            colours[endpoint],
            _few([(seconds(row["started_at"]), seconds(row["finished_at"]), True) for row in rows]),
        )
        for (purpose, endpoint), rows in grouped.items()
    ]
    for row in facts.workers:
        ready = seconds(row["ready_at"] or row["stopped_at"])
        spans = ((seconds(row["started_at"]), ready, False), (ready, seconds(row["stopped_at"]), True))
        label = (
            f"worker {shortened(row['worker_id'], 16)} of {shortened(row['endpoint'], 16)}, {row['device']}"
        )
        lanes.append(Lane(label, colours[row["endpoint"]], spans))
    return lanes


def _few(spans: list[tuple[float, float, bool]]) -> tuple[tuple[float, float, bool], ...]:
    """Return the spans themselves; where they are too many to be seen apart, what they cover together."""
    if len(spans) <= MOST_SPANS:
        return tuple(spans)
    gap = (max(to for _, to, _ in spans) - min(at for at, _, _ in spans)) / MOST_SPANS
    covered: list[tuple[float, float, bool]] = []
    for at, to, solid in sorted(spans):
        if covered and at <= covered[-1][1] + gap:
            covered[-1] = (covered[-1][0], max(covered[-1][1], to), solid)
        else:
            covered.append((at, to, solid))
    return tuple(covered)


def _lane(axes: Axes, n: int, lane: Lane, colour: str, inks: Inks, length: float) -> None:
    least = length / 400  # a shard of a moment is still seen
    for start, stop, solid in lane.spans:
        axes.barh(
            n, max(stop - start, least), left=start, height=0.3, facecolor=colour if solid else "none",
            edgecolor=colour, linewidth=0.8, alpha=0.75 if solid else 1.0,
        )  # fmt: skip
    axes.annotate(lane.label, (0, n), (0, ROW * 0.2), textcoords="offset points", va="bottom", color=inks.ink,
                  annotation_clip=False)  # fmt: skip


def _time_axis(axes: Axes, length: float, inks: Inks) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    unit, name = (
        (3600.0, "hours") if length > 5400 else (60.0, "minutes") if length > 180 else (1.0, "seconds")
    )
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 5, 6, 10], prune="both"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at / unit:g}"))
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{name} since the start", color=inks.quiet)


def _curve(axes: Axes, curve: Sequence[tuple[float, float]], length: float, inks: Inks) -> None:
    first = (curve[0][0], 0.0)
    points = [first, *curve, (length, curve[-1][1])]
    axes.axhline(0, color=inks.rule, linewidth=1)
    axes.step(*zip(*points, strict=True), where="post", color=inks.chosen, linewidth=2)
    axes.set_ylim(-0.01 * curve[-1][1], curve[-1][1] * 1.05)
    axes.set_axis_off()
    axes.annotate(literal(f"settled {money(curve[-1][1])}"), (1, 1), (0, 6), xycoords="axes fraction",
                  textcoords="offset points", ha="right", va="bottom", color=inks.chosen, fontweight="bold")  # fmt: skip


def lasting(seconds: float) -> str:
    """Return a duration as people read it: `8 h 5 min`, `4 min 30 s`, `13.5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"
