"""What a choice uses of every limit, added up from the rows themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thirdshift.router.planning.coefficients import Pairs, Real, Rows, chunks, pairs
from thirdshift.router.planning.limits import Limit, Measure, Pool, tasks_of, within
from thirdshift.router.planning.problem import NOBODY, Choice, Problem


@dataclass(frozen=True, slots=True)
class PlanUsage:
    """By option [E], worth and weight by task [T]. Only rows that have an option count."""

    count: Real
    weight: Real
    cost: Real
    """Busy hours included; start-up and idle hours not."""
    tokens: Real
    busy: Real
    worth: Real
    task_weight: Real

    @staticmethod
    def empty(width: int, tasks: int) -> PlanUsage:
        count, weight, cost, tokens, busy = np.zeros((5, width))
        return PlanUsage(count, weight, cost, tokens, busy, np.zeros(tasks), np.zeros(tasks))

    def copy(self) -> PlanUsage:
        return PlanUsage(
            self.count.copy(), self.weight.copy(), self.cost.copy(), self.tokens.copy(), self.busy.copy(),
            self.worth.copy(), self.task_weight.copy(),
        )  # fmt: skip

    def add(self, p: Pairs, choice: Choice, sign: float = 1.0) -> None:
        rows = np.flatnonzero(choice != NOBODY)
        option = choice[rows].astype(np.int64)
        width, tasks = len(self.count), len(self.worth)
        weight = p.weight[rows]
        for sums, values in (
            (self.count, p.count[rows]),
            (self.weight, weight),
            (self.cost, p.cost[rows, option]),
            (self.tokens, p.tokens[rows, option]),
            (self.busy, p.busy[rows, option]),
        ):
            sums += sign * np.bincount(option, values, width)  # noqa: PLW2901 - in place
        task = p.task[rows]
        self.worth[:] += sign * np.bincount(task, p.worth[rows, option], tasks)
        self.task_weight[:] += sign * np.bincount(task, weight, tasks)

    def used(self, limit: Limit) -> float:
        """What requests take of the cap; workers' start-up and idle hours not."""
        options, takes = list(limit.options), np.array(limit.takes or 1.0)
        match limit.measure:
            case Measure.WORTH:
                return float(self.worth.sum() if limit.task is None else self.worth[limit.task])
            case Measure.COST:
                return float(self.cost[options].sum())
            case Measure.COUNT:
                return float((self.count[options] * takes).sum())
            case Measure.WEIGHT:
                return float((self.weight[options] * takes).sum())
            case Measure.TOKENS:
                return float((self.tokens[options] * takes).sum())
            case Measure.DEVICES:
                return float((self.busy[options] * takes).sum())

    def usage(self, limits: Sequence[Limit]) -> Real:
        return np.array([self.used(limit) for limit in limits])

    @property
    def quality(self) -> float:
        weight = float(self.task_weight.sum())
        return float(self.worth.sum()) / weight if weight else 0.0


def tally(problem: Problem, choice: Choice) -> PlanUsage:
    """Over all rows."""
    total = PlanUsage.empty(problem.width, tasks_of(problem))
    for part in chunks(problem.n):
        total.add(pairs(problem, part), choice[part])
    return total


def tally_of_rows(problem: Problem, rows: Rows, choice: Choice) -> PlanUsage:
    total = PlanUsage.empty(problem.width, tasks_of(problem))
    total.add(pairs(problem, rows), choice)
    return total


def overhead_usd(pools: Sequence[Pool], workers: Sequence[int], busy: Real) -> float:
    """Start-up and idle hours of the workers started."""
    total = 0.0
    for pool, count in zip(pools, workers, strict=True):
        idle = max(0.0, count * pool.short_seconds - float(busy[pool.option]))
        total += count * pool.startup_usd + idle * pool.usd_per_second
    return total


def costs_of(problem: Problem, rows: Rows, workers: Mapping[str, int]) -> Real:
    """[rows, E] US dollars of each row, a worker's busy seconds included; where none of an option's workers is up
    (`workers`: how many are, by endpoint), these rows together bear what starting one costs."""
    priced = pairs(problem, rows)
    cost = np.where(priced.allowed, priced.cost, np.inf)
    for e, option in enumerate(problem.options):
        if option.workers is not None and not workers.get(option.endpoint):
            cost[:, e] += option.workers.start_usd / max(len(rows), 1)
    return cost


def broken(
    total: PlanUsage, limits: Sequence[Limit], pools: Sequence[Pool], workers: Sequence[int]
) -> list[str]:
    """Names of the limits that a choice does not keep."""
    overhead = overhead_usd(pools, workers, total.busy)
    violations = [
        limit.name
        for limit in limits
        if not within(
            total.used(limit)
            + (overhead if limit.measure is Measure.COST else 0.0)
            + sum(count * limit.start_of(pool.option) for pool, count in zip(pools, workers, strict=True)),
            limit,
        )
    ]
    for pool, count in zip(pools, workers, strict=True):
        if float(total.busy[pool.option]) > count * pool.seconds * (1 + 1e-9) + 1e-9:
            violations.append(f"workers:{pool.option}")
    return violations
