"""From groups to rows and back: solve over groups, let single rows see the prices, group them anew by what
they see.

Numbers of workers come in regions (`search.Leaf`), each with a bound over single rows. The region with the
lowest bound is looked at again, with groups made for its prices, until it can no longer hold anything much
cheaper than what was found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from thirdshift.router.planning.aggregation import SINGLY, Groups, Survey, seen_with, survey
from thirdshift.router.planning.branch_and_bound import Found, Leaf, anything, search
from thirdshift.router.planning.coefficients import GroupedCoefficients, Mask, chunks, pairs, table_of_rows
from thirdshift.router.planning.duals import KEPT, Multipliers, Objective
from thirdshift.router.planning.limits import Limit, Pool, limits_of, pools_of
from thirdshift.router.planning.linear_program import LinearProgram
from thirdshift.router.planning.problem import Problem

LOOKS = 10
"""At groups in all. Two or three do nearly always; what is left shows in the gap."""

CLOSE = 3e-4
"""A relative distance from the bound at which another look is not worth it."""


@dataclass(frozen=True, slots=True)
class RefinementProblem:
    """A problem with everything derived from it."""

    problem: Problem
    aim: Objective
    survey: Survey
    limits: tuple[Limit, ...]
    pools: tuple[Pool, ...]
    scale: float

    def model(
        self,
        table: GroupedCoefficients,
        *,
        keep: Mask | None = None,
        elastic: bool = True,
        whole: bool = False,
    ) -> LinearProgram:
        """A program over `table` with all limits."""
        return LinearProgram(
            table, self.limits, self.pools, self.aim, self.scale, keep=keep, elastic=elastic, whole=whole
        )


def refinement_problem(problem: Problem, aim: Objective) -> RefinementProblem:
    """One reading of the columns."""
    seen = survey(problem)
    scale = seen.scale if aim.cost else float(seen.totals.weight.sum()) or 1.0
    return RefinementProblem(
        problem, aim, seen, limits_of(problem, seen.totals), pools_of(problem, seen.totals), scale
    )


@dataclass(frozen=True, slots=True)
class Refinement:
    """Shares of groups, and what bounds every assignment."""

    groups: Groups = field(repr=False)
    found: Found
    bound: float
    """In the aim's unit."""


@dataclass(frozen=True, slots=True)
class _Region:
    leaf: Leaf
    """Its prices are those to look with next."""
    bound: float
    centre: Multipliers
    """The prices that gave the bound."""


def refine(given: RefinementProblem) -> Refinement:
    """As near the optimum as shares of groups can be brought."""
    first = search(given.model(given.survey.table), anything(given.pools))
    best = Refinement(given.survey.groups, first, -math.inf)
    start = _Region(Leaf(anything(given.pools), first.prices), -math.inf, first.prices)
    if given.survey.single:
        return replace(best, bound=min(r.bound for r in _regions(given, first, start)))
    regions = [start]
    for turn in range(LOOKS if given.problem.n > SINGLY else 2):
        region = min(regions, key=lambda r: r.bound)
        if turn and _close(best.found, region.bound):
            break
        looked = _look_again(given, region, turn)
        regions.remove(region)
        regions += _regions(given, looked.found, region)
        if turn == 0 or looked.found.best.value < best.found.best.value:
            best = looked
    return replace(best, bound=min(r.bound for r in regions))


def _close(found: Found, bound: float) -> bool:
    return found.best.value - bound <= CLOSE * abs(bound)


def _look_again(given: RefinementProblem, region: _Region, turn: int) -> Refinement:
    """Groups as the region's prices see them. Few rows: each on its own, at the second turn with all options
    everywhere."""
    prices, box = region.leaf.prices, region.leaf.box
    if given.problem.n > SINGLY:
        groups, table = seen_with(given.problem, prices)
        keep = prices.cheapest(table, KEPT)
        return Refinement(groups, search(given.model(table, keep=keep), box), -math.inf)
    rows = np.flatnonzero(given.survey.groups >= 0)
    groups = np.full(given.problem.n, -1, dtype=np.int32)
    groups[rows] = np.arange(len(rows))
    table = table_of_rows(given.problem, rows)
    few = prices.cheapest(table, 2 * KEPT) if turn == 0 else None
    return Refinement(groups, search(given.model(table, keep=few), anything(given.pools)), -math.inf)


def _regions(given: RefinementProblem, found: Found, parent: _Region) -> list[_Region]:
    """The leaves, each with the prices that bound it best of its own and some on the way to the parent's."""
    offers = [Leaf(leaf.box, prices) for leaf in found.leaves for prices in _offers(leaf, parent)]
    lowest = np.zeros(len(offers))
    for part in chunks(given.problem.n):
        p = pairs(given.problem, part)
        some = p.allowed.any(axis=1)
        for index, leaf in enumerate(offers):
            lowest[index] += leaf.prices.reduced(p).min(axis=1)[some].sum()
    bounds = [float(low + leaf.prices.constant(*leaf.box)) for leaf, low in zip(offers, lowest, strict=True)]
    each = len(offers) // len(found.leaves)
    regions = []
    for start in range(0, len(offers), each):
        best = max(range(start, start + each), key=lambda index: bounds[index])
        if bounds[best] > parent.bound:
            regions.append(_Region(offers[best], bounds[best], offers[best].prices))
        else:
            regions.append(_Region(offers[start + each - 1], parent.bound, parent.centre))
    return regions


def _offers(leaf: Leaf, parent: _Region) -> list[Multipliers]:
    if parent.bound == -math.inf:
        return [leaf.prices]
    half = leaf.prices.mean(parent.centre)
    return [leaf.prices, half, half.mean(parent.centre)]
