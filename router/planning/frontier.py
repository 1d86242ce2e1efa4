"""What quality costs: the cheapest cost for each of twenty floors, from one program whose floor is moved.

Twenty solves over a thousand rows, each from the last one's basis, give twenty sets of prices. Each set
bounds the cost of every floor by a line (Lagrange again), summed over up to 50,000 rows; the frontier is the
highest of the lines. It is thus convex, never falls, and is a little too low rather than too high: a plan for
the same floor costs a few requests more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thirdshift.router.planning.aggregation import survey
from thirdshift.router.planning.branch_and_bound import Box, anything, search
from thirdshift.router.planning.coefficients import (
    GroupedCoefficients,
    Pairs,
    Real,
    chunks,
    pairs,
    table_of_rows,
)
from thirdshift.router.planning.duals import BEST, CHEAPEST, Multipliers
from thirdshift.router.planning.limits import Limit, Measure, Pool, RoutableTotals, limits_of, pools_of
from thirdshift.router.planning.linear_program import LinearProgram
from thirdshift.router.planning.problem import Problem

SOLVED_ROWS = 1_000
"""Prices from so many rows are good to some per cent, and what they cost wrongly is that error squared."""

SUMMED_ROWS = 50_000

EDGE = 2e-3
"""The last point keeps off the very best quality by so much of the range: there whole requests no longer
fit."""


@dataclass(frozen=True, slots=True)
class Point:
    floor: float
    cost_usd: float


def frontier(problem: Problem, points: int = 20) -> tuple[Point, ...]:
    """From the cheapest plan's quality to the best there is, within capacities and shares; the cap is left
    aside.

    Empty where not all requests can be answered. Floors rise, and costs never fall.
    """
    floor = problem.terms.floor or 0.0
    asked = problem.under(replace(problem.terms, floor=floor, cap_usd=None))
    sums, few = taken(asked, SUMMED_ROWS), taken(asked, SOLVED_ROWS)
    seen = survey(sums)
    if not seen.totals.count:
        return ()
    totals = _times(seen.totals, asked.requests / sums.requests)
    case = _Case(limits_of(asked, totals), pools_of(asked, totals), totals, floor)
    table = _scaled(table_of_rows(few, _routable(few)), asked.requests / few.requests)
    lines, high = _solved(case, table, points)
    if high is None:
        return ()
    return _envelope(case, lines, high, sums, asked.requests / sums.requests, points)


@dataclass(frozen=True, slots=True)
class _Case:
    limits: tuple[Limit, ...]
    pools: tuple[Pool, ...]
    totals: RoutableTotals
    floor: float
    """To which the limits were made."""

    @property
    def floors(self) -> list[int]:
        return [index for index, limit in enumerate(self.limits) if limit.measure is Measure.WORTH]

    def weight(self, index: int) -> float:
        task = self.limits[index].task
        return float(self.totals.weight.sum() if task is None else self.totals.weight[task])

    def bound(self, index: int, floor: float) -> float:
        """Return the bound of a floor's limit, its margin kept."""
        return self.limits[index].bound + (floor - self.floor) * self.weight(index)

    def at(self, floor: float) -> tuple[Limit, ...]:
        return tuple(
            replace(limit, bound=self.bound(index, floor)) if limit.measure is Measure.WORTH else limit
            for index, limit in enumerate(self.limits)
        )


def _solved(
    case: _Case, table: GroupedCoefficients, points: int
) -> tuple[list[tuple[Multipliers, Box]], Multipliers | None]:
    """Prices and workers along the frontier of `table`, and the prices of the best quality; None: it has no
    plan."""
    scale = float(table.cost.max(axis=1).sum()) or 1.0
    weight = float(table.weight.sum())
    rest = tuple(limit for limit in case.limits if limit.measure is not Measure.WORTH)
    best = search(LinearProgram(table, rest, case.pools, BEST, weight), anything(case.pools)).best
    if best.missed > 1e-6:
        return [], None
    model = LinearProgram(table, case.limits, case.pools, CHEAPEST, scale)

    def at(floor: float) -> tuple[Multipliers, Box, float]:
        for index in case.floors:
            model.set_bound(index, case.bound(index, floor))
        solution = search(model, anything(case.pools))
        workers = tuple(float(count) for count in solution.workers)
        return solution.prices, (workers, workers), float((solution.best.share * table.worth).sum()) / weight

    prices, box, low = at(-1.0)
    lines = [(prices, box)]
    safe = case.limits[0].bound / case.weight(0) - case.floor
    for floor in np.linspace(low - safe, -best.value / weight - safe, points, endpoint=False)[1:]:
        prices, box, _ = at(float(floor))
        lines.append((prices, box))
    return lines, best.prices


def _envelope(
    case: _Case,
    lines: list[tuple[Multipliers, Box]],
    high: Multipliers,
    sums: Problem,
    factor: float,
    points: int,
) -> tuple[Point, ...]:
    """Each set of prices summed over the rows; the cheapest workers, the highest line."""
    prices = [p for p, _ in lines]
    parts, low = _summed(sums, [*prices, high], factor)
    weight = float(case.totals.weight.sum())
    top = -(parts[-1] + high.constant(*anything(case.pools))) / weight
    safe = case.limits[0].bound / case.weight(0) - case.floor
    boxes = sorted({box for _, box in lines})
    lower_points: list[Point] = []
    for floor in np.linspace(min(low, top), top - EDGE * (top - min(low, top)), points) - safe:
        now = case.at(float(floor))
        bounds = [
            max(part + replace(p, limits=now).constant(*box) for part, p in zip(parts, prices, strict=False))
            for box in boxes
        ]
        lower_points.append(
            Point(
                float(floor), float(max(0.0, min(bounds), lower_points[-1].cost_usd if lower_points else 0.0))
            )
        )
    return tuple(lower_points)


def _summed(problem: Problem, prices: Sequence[Multipliers], factor: float) -> tuple[list[float], float]:
    """Per set of prices the sum of the rows' least; and the mean quality of what is least at the first."""
    parts, worth, weight = np.zeros(len(prices)), 0.0, 0.0
    for part in chunks(problem.n):
        p = pairs(problem, part)
        rows = np.flatnonzero(p.allowed.any(axis=1))
        for index, price in enumerate(prices):
            reduced: Real = price.reduced(p)[rows]
            parts[index] += reduced.min(axis=1).sum() * factor
            if index == 0:
                worth += float(p.worth[rows, reduced.argmin(axis=1)].sum())
                weight += float(p.weight[rows].sum())
    return [float(part) for part in parts], worth / max(weight, 1e-12)


# --- samples


def taken(problem: Problem, most: int) -> Problem:
    """Evenly spaced rows as a problem of their own; the terms stay those of the whole."""
    if problem.n <= most:
        return problem
    rows = np.linspace(0, problem.n - 1, most).astype(np.int64)
    return problem.part(rows)


def _routable(problem: Problem) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    p: Pairs = pairs(problem, slice(0, problem.n))
    return np.flatnonzero(p.allowed.any(axis=1))


def _scaled(table: GroupedCoefficients, factor: float) -> GroupedCoefficients:
    """Every row standing for `factor` rows."""
    return replace(
        table,
        count=table.count * factor, weight=table.weight * factor, cost=table.cost * factor,
        worth=table.worth * factor, tokens=table.tokens * factor, busy=table.busy * factor,
    )  # fmt: skip


def _times(totals: RoutableTotals, factor: float) -> RoutableTotals:
    return RoutableTotals(totals.count * factor, totals.weight * factor, totals.busy * factor)
