"""What a plan pays, in USD, for one more unit of each limit, and the cost of a pair once those prices are on
it.

For any prices that are not negative,  sum_i min_e reduced[i,e]  +  the pools' cheapest start  -  sum_l
price_l bound_l is a lower bound on every plan (Lagrange; Geoffrion 1974, "Lagrangean relaxation for integer
programming").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thirdshift.router.planning.coefficients import GroupedCoefficients, Mask, Pairs, Real
from thirdshift.router.planning.limits import Limit, Measure, Pool


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: cost x cost_usd - worth x (weight x quality)."""

    cost: float = 1.0
    worth: float = 0.0

    def of(self, cost: Real, worth: Real) -> Real:
        """The objective of pairs."""
        return self.cost * cost - self.worth * worth


KEPT = 5
"""Options per group that stay in a program where groups are many."""

CHEAPEST = Objective()
BEST = Objective(0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Multipliers:
    limits: tuple[Limit, ...]
    pools: tuple[Pool, ...]
    aim: Objective
    prices: Real
    """One per limit, in its unit; none negative."""
    fits: Real
    """Per pool: of a second of a started worker's time."""
    idle: Real
    """Per pool: of a second that would otherwise be paid for in vain."""

    def mean(self, other: Multipliers) -> Multipliers:
        """Half way between: the bound is concave in the prices, so where they swing to and fro this is
        better."""
        return replace(
            self,
            prices=(self.prices + other.prices) / 2,
            fits=(self.fits + other.fits) / 2,
            idle=(self.idle + other.idle) / 2,
        )

    def reduced(self, p: Pairs | GroupedCoefficients) -> Real:
        """[m, E] what a pair costs with everything that it takes from others; inf where it is not allowed."""
        width, tasks = p.cost.shape[1], int(p.task.max(initial=0)) + 1
        cost, worth, per_task = self.aim.cost, self.aim.worth, np.zeros(tasks)
        flat = {measure: np.zeros(width) for measure in Measure}
        for limit, price in zip(self.limits, self.prices, strict=True):
            if limit.measure is Measure.COST:
                cost += price
            elif limit.measure is not Measure.WORTH:
                flat[limit.measure][list(limit.options)] += price * np.array(limit.takes or 1.0)
            elif limit.task is None:
                worth += price
            elif limit.task < tasks:
                per_task[limit.task] += price
        total = p.cost * cost
        total -= p.worth * (worth + per_task[p.task])[:, None] if per_task.any() else p.worth * worth
        self._flat(p, flat, total)
        total[~p.allowed] = np.inf
        return total

    def cheapest(self, table: GroupedCoefficients, number: int) -> Mask:
        """[C, E] the options of each group that are worth a variable: so many as are cheapest."""
        reduced = self.reduced(table)
        if reduced.shape[1] <= number:
            return np.ones(reduced.shape, dtype=bool)
        return reduced <= np.partition(reduced, number - 1, axis=1)[:, number - 1 : number]

    def _flat(self, p: Pairs | GroupedCoefficients, flat: dict[Measure, Real], total: Real) -> None:
        """Add what is priced by option alone."""
        if flat[Measure.COUNT].any():
            total += np.multiply.outer(p.count, flat[Measure.COUNT])
        if flat[Measure.WEIGHT].any():
            total += np.multiply.outer(p.weight, flat[Measure.WEIGHT])
        if flat[Measure.TOKENS].any():
            total += p.tokens * flat[Measure.TOKENS]
        if flat[Measure.DEVICES].any():
            total += p.busy * flat[Measure.DEVICES]
        for pool, fits, idle in zip(self.pools, self.fits, self._idle(), strict=True):
            if fits != idle:
                total[:, pool.option] += p.busy[:, pool.option] * (fits - idle)

    def constant(self, low: Sequence[float], high: Sequence[float]) -> float:
        """The bound's part that no request decides, for pools of `low` to `high` workers."""
        total = 0.0
        for limit, price in zip(self.limits, self.prices, strict=True):
            total += price * limit.bound * (1.0 if limit.measure is Measure.WORTH else -1.0)
        cost = self._cost()
        for k, pool in enumerate(self.pools):
            if high[k] <= 0:
                continue
            seconds = self.fits[k] * pool.seconds if self.fits[k] else 0.0
            worker = cost * pool.startup_usd - seconds + self._idle()[k] * pool.short_seconds
            worker += sum(
                price * limit.start_of(pool.option)
                for limit, price in zip(self.limits, self.prices, strict=True)
            )
            total += min(worker * low[k], worker * high[k])
        return total

    def by_name(self) -> dict[str, float]:
        return {
            limit.name: float(price) for limit, price in zip(self.limits, self.prices, strict=True) if price
        }

    def _cost(self) -> float:
        caps = (p for limit, p in zip(self.limits, self.prices, strict=True) if limit.measure is Measure.COST)
        return self.aim.cost + float(sum(caps))

    def _idle(self) -> Real:
        """An idle second is never worth more than it costs, or idling would pay."""
        most = np.array([self._cost() * pool.usd_per_second for pool in self.pools])
        return np.minimum(self.idle, most) if self.pools else self.idle
