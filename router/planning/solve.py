"""The plan: groups, multipliers, one option per row, the edge in whole numbers, and a bound that says how
good it is."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import numpy as np

from thirdshift.router.planning.aggregation import SINGLY
from thirdshift.router.planning.blocks import in_whole_blocks
from thirdshift.router.planning.coefficients import table_of_rows
from thirdshift.router.planning.duals import BEST, CHEAPEST, Multipliers, Objective
from thirdshift.router.planning.plan_building import FeasibleAssignment, as_plan, first_and_second
from thirdshift.router.planning.problem import NOBODY, Choice, Plan, Problem
from thirdshift.router.planning.refinement import (
    CLOSE,
    Refinement,
    RefinementProblem,
    refine,
    refinement_problem,
)
from thirdshift.router.planning.rounding import Polisher, divide, nearest_rows
from thirdshift.router.planning.usage import broken, overhead_usd, tally

EXACT_PAIRS = 2_500
"""Up to so many pairs the whole problem is solved in whole numbers."""

EXACT_NODES, MOST_NODES = 100, 4_000
"""Nodes that are looked at; more, where those found no solution. What further ones save is a few hundred-thousandths of the
bill, and some hundred requests under a floor then take as long as a million."""

NEAR = 5e-5
"""How far from the best the rows in whole numbers may stay, as a share of everything."""

HOPELESS = 1e-2
"""A limit missed by so much after all looks is not met by settling rows at the edge."""


def cheapest(problem: Problem) -> Plan | None:
    """The cheapest plan that keeps every term; None where none was found."""
    result = optimise(problem, CHEAPEST)
    return None if result is None else as_plan(problem, result)


def possible(problem: Problem) -> bool:
    """Whether a plan that keeps every term was found; which one, nobody asks."""
    return optimise(problem, CHEAPEST, any_will_do=True) is not None


def best_within(problem: Problem) -> Plan | None:
    """The best quality that cap, deadline and shares allow, at the least cost; the floor is left aside.

    None where they do not let all requests be answered.
    """
    best = _best(problem)
    if best is None:
        return None
    floored = replace(problem.terms, floor=best.total.quality, margin=0.0, per_task=False)
    result = optimise(problem.under(floored), CHEAPEST)
    return as_plan(problem, best if result is None else result)


def best_quality(problem: Problem) -> float | None:
    """The highest mean that cap, deadline and shares allow."""
    best = _best(problem)
    return None if best is None else best.total.quality


def _best(problem: Problem) -> FeasibleAssignment | None:
    return optimise(problem.under(replace(problem.terms, floor=None)), BEST)


class Compromise(StrEnum):
    """What is given up where not everything can be had."""

    FLOOR = "floor"
    """All are answered, as well as cap and deadline allow."""
    STOP = "stop"
    """As if cap and deadline were not there; served in input order until they stop it."""


def fallback(problem: Problem) -> tuple[Plan, Compromise] | None:
    """What to do about a problem without a plan; None where no option may answer as many as that, whatever
    the terms."""
    best = best_within(problem)
    if best is not None:
        return best, Compromise.FLOOR
    endless = replace(problem.terms, cap_usd=None, seconds=None)
    for terms in (endless, replace(endless, floor=None)):
        plan = cheapest(problem.under(terms))
        if plan is not None:
            return plan, Compromise.STOP
    return None


# --- the way to a result


def optimise(problem: Problem, aim: Objective, *, any_will_do: bool = False) -> FeasibleAssignment | None:
    """The best assignment for `aim` under the terms; None where there is none (or none was found)."""
    result = _Optimiser(problem, aim, any_will_do=any_will_do).run()
    if result is None or not any(pool.spec.increment_seconds for pool in result.prices.pools):
        return result
    tried = [
        _Optimiser(variant, aim, any_will_do=any_will_do).run()
        for variant in in_whole_blocks(problem, result)
    ]
    kept = [one for one in tried if one is not None]
    if not kept:
        return None
    best = min(kept, key=lambda one: one.value)
    return replace(best, bound=min(result.bound, best.value))


class _Optimiser:
    def __init__(self, problem: Problem, aim: Objective, *, any_will_do: bool) -> None:
        self.problem, self.aim, self.any_will_do = problem, aim, any_will_do
        self.given = refinement_problem(problem, aim)
        self.limits, self.pools = self.given.limits, self.given.pools

    def run(self) -> FeasibleAssignment | None:
        count = self.given.survey.totals.count
        if not count:
            return nothing_to_do(self.problem, self.given)
        looked = refine(self.given)
        if looked.found.best.missed > HOPELESS:
            return None
        if looked.found.best.share.size <= EXACT_PAIRS and self.problem.n <= SINGLY:
            return self._exactly(looked)
        choice = divide(self.problem, looked.groups, looked.found.best.share, looked.found.prices)
        return self._settle(choice, looked)

    def _exactly(self, looked: Refinement) -> FeasibleAssignment | None:
        """All of it in whole numbers; with few rows a single one is a large share of everything."""
        rows = np.flatnonzero(looked.groups >= 0)
        model = self.given.model(table_of_rows(self.problem, rows), elastic=False, whole=True)
        tolerance, first = self._tolerance(looked), self.any_will_do
        solved = model.optimise(absolute_gap=tolerance, nodes=EXACT_NODES, first=first)
        if solved is None:
            solved = model.optimise(absolute_gap=tolerance, nodes=MOST_NODES, first=first)
        if solved is None:
            return None
        choice = np.full(self.problem.n, NOBODY, dtype=np.int16)
        choice[rows] = solved.share.argmax(axis=1)
        workers = tuple(round(w) for w in solved.workers)
        return self._told(choice, workers, looked.found.prices, max(looked.bound, solved.bound))

    def _settle(self, choice: Choice, looked: Refinement) -> FeasibleAssignment | None:
        """Rows at the edge in whole numbers, the rest as their groups go."""
        found = looked.found
        total = tally(self.problem, choice)
        tolerance = self._tolerance(looked)
        polisher = Polisher(
            self.problem,
            self.limits,
            self.pools,
            found.workers,
            self.aim,
            self.given.scale,
            tolerance,
            found.prices,
            enough=looked.bound + CLOSE * abs(looked.bound) + tolerance,
        )
        polished = polisher.polish(choice, total, nearest_rows(self.problem, choice, found.prices))
        if polished is None and broken(total, self.limits, self.pools, found.workers):
            return None
        return self._told(choice if polished is None else polished, found.workers, found.prices, looked.bound)

    def _tolerance(self, looked: Refinement) -> float:
        """In the aim's unit; with few rows a tenth of a mean request."""
        return max(NEAR, 0.1 / max(1.0, self.given.survey.totals.count)) * abs(looked.bound)

    def _told(
        self, choice: Choice, workers: tuple[int, ...], prices: Multipliers, bound: float
    ) -> FeasibleAssignment:
        choice, runner_up = first_and_second(self.problem, choice, prices)
        total = tally(self.problem, choice)
        cost = float(total.cost.sum()) + overhead_usd(self.pools, workers, total.busy)
        value = self.aim.cost * cost - self.aim.worth * float(total.worth.sum())
        return FeasibleAssignment(choice, runner_up, workers, total, prices, value, min(bound, value))


def nothing_to_do(problem: Problem, given: RefinementProblem) -> FeasibleAssignment:
    """No row that any option may answer."""
    nobody, zero = np.full(problem.n, NOBODY, dtype=np.int16), np.zeros(len(given.pools))
    prices = Multipliers(given.limits, given.pools, given.aim, np.zeros(len(given.limits)), zero, zero)
    return FeasibleAssignment(
        nobody, nobody, (0,) * len(given.pools), tally(problem, nobody), prices, 0.0, 0.0
    )
