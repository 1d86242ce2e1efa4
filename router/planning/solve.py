"""The plan: groups, multipliers, one option per row, the edge in whole numbers, and a bound that says how good it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

import numpy as np

from router.planning.assign import Polisher, divide
from router.planning.classes import GROUPS, Groups, Numbering, Survey, Views, survey
from router.planning.limits import Limit, Pool, limits_of, pools_of
from router.planning.model import Model, Solved
from router.planning.multipliers import BEST, CHEAPEST, Aim, Multipliers
from router.planning.pairs import Mask, Real, Rows, Summing, Table, chunks, pairs
from router.planning.problem import NOBODY, Choice, Plan, Problem
from router.planning.search import Found, search
from router.planning.tally import Tally, broken, overhead_usd, tally
from router.planning.telling import Result, as_plan, first_and_second

SINGLY = 2_000
"""Up to so many rows each is a group of its own."""

EXACT_PAIRS = 2_500
"""Up to so many pairs the whole problem is solved in whole numbers."""

EXACT_NODES = 4_000

ROUNDS = 4
"""Looks at the groups; two do nearly always."""

CLOSE = 2e-4
"""A relative distance from the bound at which another look is not worth it."""

KEPT = 5
"""Options per group that stay in the program of the second look, the cheapest at the prices found."""

HOPELESS = 1e-2
"""A limit missed by so much after all looks is not met by settling rows at the edge."""


def cheapest(problem: Problem) -> Plan | None:
    """The cheapest plan that keeps every term; None where none was found."""
    result = optimise(problem, CHEAPEST)
    return None if result is None else as_plan(problem, result)


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


def _best(problem: Problem) -> Result | None:
    return optimise(problem.under(replace(problem.terms, floor=None)), BEST)


class Compromise(StrEnum):
    """What is given up where not everything can be had."""

    FLOOR = "floor"
    """All are answered, as well as cap and deadline allow."""
    STOP = "stop"
    """As if cap and deadline were not there; served in input order until they stop it."""


def fallback(problem: Problem) -> tuple[Plan, Compromise] | None:
    """What to do about a problem without a plan; None where no option may answer as many as that, whatever the terms."""
    best = best_within(problem)
    if best is not None:
        return best, Compromise.FLOOR
    endless = replace(problem.terms, cap_usd=None, seconds=None)
    for terms in (endless, replace(endless, floor=None)):
        plan = cheapest(problem.under(terms))
        if plan is not None:
            return plan, Compromise.STOP
    return None


# --- the way to a result ----------------------------------------------------------------------------------------------


def optimise(problem: Problem, aim: Aim) -> Result | None:
    """The best assignment for `aim` under the terms; None where there is none (or none was found)."""
    return _Optimiser(problem, aim).run()


class _Optimiser:
    def __init__(self, problem: Problem, aim: Aim) -> None:
        self.problem, self.aim = problem, aim
        self.survey: Survey = survey(problem, SINGLY if problem.n <= SINGLY else GROUPS)
        self.limits: tuple[Limit, ...] = limits_of(problem, self.survey.totals)
        self.pools: tuple[Pool, ...] = pools_of(problem, self.survey.totals)
        self.scale = self.survey.scale if aim.cost else float(self.survey.totals.weight.sum()) or 1.0
        self.bound = -math.inf

    def run(self) -> Result | None:
        problem = self.problem
        if not self.survey.totals.count:
            nothing = np.full(problem.n, NOBODY, dtype=np.int16)
            return self._result(nothing, nothing, (0,) * len(self.pools), self._no_prices(), 0.0)
        groups, found = self._look_until_close()
        if found.best.missed > HOPELESS:
            return None
        if self.survey.table.allowed.sum() <= EXACT_PAIRS and problem.n <= SINGLY:
            return self._exactly(found)
        choice = divide(problem, groups, found.best.share, found.prices)
        return self._settle(choice, found)

    def _look_until_close(self) -> tuple[Groups, Found]:
        """Solve over groups; look at single rows with the prices found; group them anew by what was seen."""
        groups, table, keep = self.survey.groups, self.survey.table, None
        for look in range(ROUNDS):
            found = search(self._model(table, keep=keep))
            last = self.problem.n <= SINGLY or (look > 0 and self._close(found)) or look == ROUNDS - 1
            views = None if last else Views(self.problem, found.prices)
            bound, seen = self._look(found, views)
            self.bound = max(self.bound, bound)
            if last or (look > 0 and self._close(found)) or seen is None:
                break
            groups, table = seen
            keep = _cheapest_options(found.prices.reduced(table))
        return groups, found

    def _close(self, found: Found) -> bool:
        return found.best.missed <= 1e-7 and found.best.value - self.bound <= CLOSE * abs(self.bound)

    def _look(self, found: Found, views: Views | None) -> tuple[float, tuple[Groups, Table] | None]:
        """One reading: the bound by the leaves' prices, and new groups where `views` are given."""
        problem = self.problem
        lowest = np.zeros(len(found.leaves))
        groups, numbers, summing = np.full(problem.n, -1, dtype=np.int32), Numbering(), Summing(problem.width)
        for part in chunks(problem.n):
            p = pairs(problem, part)
            some = p.allowed.any(axis=1)
            for index, leaf in enumerate(found.leaves):
                lowest[index] += leaf.prices.reduced(p).min(axis=1)[some].sum()
            if views is not None:
                first, second, regret = views.best_two(found.prices.reduced(p))
                groups[part] = np.where(some, numbers.of(views.of(p, first, second, regret)), -1)
                summing.add(p, groups[part])
        constants = [leaf.prices.constant(leaf.low, leaf.high) for leaf in found.leaves]
        bound = float((lowest + constants).min())
        return bound, (groups, summing.table()) if views is not None else None

    def _model(self, table: Table, *, keep: Mask | None = None, elastic: bool = True, whole: bool = False) -> Model:
        return Model(
            table, self.limits, self.pools, self.aim, self.scale, keep=keep, elastic=elastic, whole=whole
        )  # fmt: skip

    # --- whole numbers

    def _exactly(self, found: Found) -> Result | None:
        """All of it in whole numbers; with few rows a single one is a large share of everything."""
        model = self._model(self.survey.table, elastic=False, whole=True)
        tolerance = self._tolerance()
        solved: Solved | None = model.optimise(absolute_gap=tolerance, nodes=EXACT_NODES)
        if solved is None:
            return None
        choice = np.append(solved.share.argmax(axis=1), NOBODY)[self.survey.groups].astype(np.int16)
        workers = tuple(round(w) for w in solved.workers)
        self.bound = max(self.bound, solved.bound)
        return self._told(choice, workers, found)

    def _settle(self, choice: Choice, found: Found) -> Result | None:
        total = tally(self.problem, choice)
        near = self._near(choice, found.prices)
        if self._value(total, found.workers) - self.bound > 0 or self._broken(total, found.workers):
            polisher = Polisher(
                self.problem, self.limits, self.pools, found.workers, self.aim, self.scale, self._tolerance()
            )  # fmt: skip
            polished = polisher.polish(choice, total, near)
            if polished is not None:
                choice = polished
            elif self._broken(total, found.workers):
                return None
        return self._told(choice, found.workers, found)

    def _near(self, choice: Choice, prices: Multipliers) -> Rows:
        """Routable rows that another option would suit best, the nearest first."""
        edge = np.empty(self.problem.n, dtype=np.float32)
        for part in chunks(self.problem.n):
            reduced = prices.reduced(pairs(self.problem, part))
            mine, rows = choice[part], np.arange(len(reduced))
            own = reduced[rows, mine].copy()
            reduced[rows, mine] = np.inf
            edge[part] = np.where(mine == NOBODY, np.inf, reduced.min(axis=1) - own)
        size = min(len(edge), 60_000)
        near = np.argpartition(edge, size - 1)[:size]
        near = near[np.isfinite(edge[near])]
        return near[np.lexsort((near, edge[near]))]

    def _tolerance(self) -> float:
        """How near the optimum whole numbers must come: a fifth of a thousandth, or a tenth of a mean request."""
        return max(CLOSE, 0.1 / max(1.0, self.survey.totals.count)) * abs(self.bound)

    def _value(self, total: Tally, workers: Sequence[int]) -> float:
        cost = float(total.cost.sum()) + overhead_usd(self.pools, workers, total.busy)
        return self.aim.cost * cost - self.aim.worth * float(total.worth.sum())

    def _broken(self, total: Tally, workers: Sequence[int]) -> list[str]:
        return broken(total, self.limits, self.pools, workers)

    # --- telling

    def _told(self, choice: Choice, workers: tuple[int, ...], found: Found) -> Result:
        choice, runner_up = first_and_second(self.problem, choice, found.prices)
        return self._result(choice, runner_up, workers, found.prices, self.bound)

    def _result(
        self, choice: Choice, runner_up: Choice, workers: tuple[int, ...], prices: Multipliers, bound: float
    ) -> Result:
        total = tally(self.problem, choice)
        value = self._value(total, workers)
        return Result(choice, runner_up, workers, total, prices, value, min(bound, value))

    def _no_prices(self) -> Multipliers:
        zero = np.zeros(len(self.pools))
        return Multipliers(self.limits, self.pools, self.aim, np.zeros(len(self.limits)), zero, zero)


def _cheapest_options(reduced: Real) -> Mask:
    """[C, E] the options of each group that are worth a variable."""
    if reduced.shape[1] <= KEPT:
        return np.ones(reduced.shape, dtype=bool)
    return reduced <= np.partition(reduced, KEPT - 1, axis=1)[:, KEPT - 1 : KEPT]
