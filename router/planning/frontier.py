"""What quality costs: the cheapest cost for each of twenty floors, from one program whose floor is moved.

The figures are those of requests in groups, divided freely; a plan for the same floor differs by a few requests' cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from router.planning.classes import survey
from router.planning.limits import Measure, limits_of, pools_of
from router.planning.model import Model
from router.planning.multipliers import BEST, CHEAPEST
from router.planning.problem import Problem
from router.planning.search import anything, search

FRONTIER_GROUPS = 2_000
"""Up to so many rows each is a group of its own; twenty solves from each other's bases take a second at most."""


@dataclass(frozen=True, slots=True)
class Point:
    floor: float
    cost_usd: float


def frontier(problem: Problem, points: int = 20) -> tuple[Point, ...]:
    """From the cheapest plan's quality to the best there is, within capacities and shares; the cap is left aside.

    Empty where not all requests can be answered. Floors rise, and costs never fall.
    """
    terms = problem.terms
    asked = problem.under(replace(terms, floor=terms.floor or 0.0, cap_usd=None))
    seen = survey(asked, FRONTIER_GROUPS)
    if not seen.totals.count:
        return ()
    limits, pools = limits_of(asked, seen.totals), pools_of(asked, seen.totals)
    floors = [index for index, limit in enumerate(limits) if limit.measure is Measure.WORTH]
    weights = [seen.totals.weight.sum() if (t := limits[i].task) is None else seen.totals.weight[t] for i in floors]
    margins = [limits[i].bound / weight - (terms.floor or 0.0) for i, weight in zip(floors, weights, strict=True)]
    model = Model(seen.table, limits, pools, CHEAPEST, seen.scale)

    def cost_at(floor: float) -> tuple[float, float]:
        for index, weight, safe in zip(floors, weights, margins, strict=True):
            model.set_bound(index, (floor + safe) * float(weight))
        best = search(model, anything(pools)).best
        return best.value, float((best.share * seen.table.worth).sum() / weights[0])

    _, low = cost_at(-1.0)
    rest = tuple(limit for limit in limits if limit.measure is not Measure.WORTH)
    best = search(Model(seen.table, rest, pools, BEST, float(weights[0])), anything(pools)).best
    high = -best.value / float(weights[0])
    if best.missed > 1e-6:
        return ()
    found: list[Point] = []
    for floor in np.linspace(low - margins[0], high - margins[0] - 1e-6, points):
        cost, reached = cost_at(float(floor))
        if reached >= floor + margins[0] - 1e-6:
            found.append(Point(float(floor), max(cost, found[-1].cost_usd if found else 0.0)))
    return tuple(found)
