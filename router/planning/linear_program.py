"""The linear program over groups of requests, in HiGHS: built once, solved again and again as its bounds
change.

Variables, all scaled to about 1:
    x[c,e]   the share of group c that option e answers            0..1, or 0/1 where `whole`
    w[k]     workers started of pool k                             0..max
    u[k]     seconds that are paid for beyond start-up and work    >= 0
    s[l]     by how much limit l is missed, at a price far above anything else (only where `elastic`)
Rows:
    sum_e x[c,e] = 1                                               one per group
    sum of a limit's measure x <= its bound                        one per limit; starts w too, where they take of it
    busy_k - seconds_k w_k <= 0                                    work fits into the time of those started
    busy_k - short_k w_k + u_k >= 0                                a worker is paid for `minimum_seconds` at
    least
Objective: cost (or minus quality); busy seconds are already in the cost of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import highspy
import numpy as np
from numpy.typing import NDArray

from thirdshift.router.planning.coefficients import GroupedCoefficients, Mask, Real
from thirdshift.router.planning.duals import Multipliers, Objective
from thirdshift.router.planning.limits import Limit, Measure, Pool

MISSED = 1e4
"""Price of missing a limit wholly, where 1 is what the dearest plan costs: a millionth missed costs as much
as 1 % of it."""

EXACT = 1e-9
"""HiGHS' feasibility tolerance: rows are scaled to 1, so limits hold to a billionth."""


@dataclass(frozen=True, slots=True)
class ProgramSolution:
    """`share` is [C, E]; `value` is in the aim's unit (USD, or minus the sum of quality), offsets not
    included."""

    share: Real
    workers: Real
    idle_seconds: Real
    value: float
    missed: float
    """The sum of relative misses; 0 where every limit holds."""
    bound: float
    """What HiGHS has proven of this model; the same as `value` for a linear program."""
    prices: Multipliers = field(repr=False)
    """All zero where numbers are whole: then there are none."""


_ENDLESS = 2**31 - 1


class LinearProgram:
    """One program. `used` is what rows outside of the table use of each limit and each pool's seconds
    already."""

    def __init__(
        self,
        table: GroupedCoefficients,
        limits: Sequence[Limit],
        pools: Sequence[Pool],
        aim: Objective,
        scale: float,
        *,
        used: Real | None = None,
        busy: Real | None = None,
        keep: Mask | None = None,
        elastic: bool = True,
        whole: bool = False,
    ) -> None:
        self.table, self.limits, self.pools, self.aim, self.scale = (
            table,
            tuple(limits),
            tuple(pools),
            aim,
            scale,
        )
        self._used = np.zeros(len(limits)) if used is None else used
        self._busy = np.zeros(len(pools)) if busy is None else busy
        self._group, self._option = np.nonzero(table.allowed if keep is None else table.allowed & keep)
        self._elastic, self._whole = elastic, whole
        self._unit = np.array([self._unit_of(limit) for limit in limits])
        self._longest = [pool.seconds if pool.seconds > 0 else 1.0 for pool in pools]
        """The unit of a pool's rows: one worker's time."""
        self._highs = self._build()

    def set_bound(self, index: int, bound: float) -> None:
        """Move one limit; the next solve starts from the last basis."""
        old = self.limits[index]
        moved = replace(old, bound=bound)
        self.limits = (*self.limits[:index], moved, *self.limits[index + 1 :])
        low, high = self._row_bounds(index)
        self._highs.changeRowBounds(len(self.table) + index, low, high)

    def set_workers(self, low: Sequence[float], high: Sequence[float]) -> None:
        for k in range(len(self.pools)):
            self._highs.changeColBounds(self._first_pool + k, float(low[k]), float(high[k]))

    def optimise(
        self, *, gap: float = 0.0, absolute_gap: float = 0.0, nodes: int | None = None, first: bool = False
    ) -> ProgramSolution | None:
        """None: no solution (for a program in whole numbers: or none found within `nodes`).

        `absolute_gap` is in the aim's unit; `first`: the first solution will do. Limits of effort are counts, never
        seconds: the same model gives the same answer.
        """
        highs = self._highs
        if self._whole:
            highs.setOptionValue("mip_rel_gap", gap)
            highs.setOptionValue("mip_abs_gap", max(absolute_gap / self.scale, 1e-12))
            highs.setOptionValue("mip_max_nodes", _ENDLESS if nodes is None else nodes)
            highs.setOptionValue("mip_max_improving_sols", 1 if first else _ENDLESS)
        highs.run()
        if highs.getModelStatus() == highspy.HighsModelStatus.kOptimal and not _feasible(highs):
            highs.clearSolver()  # from the last basis it can end a hair outside of what is tolerated, from none it does not
            highs.run()
        info = highs.getInfo()
        if not _feasible(highs):
            return None
        values = np.asarray(highs.getSolution().col_value)
        return self._solved(values, info)

    # --- reading

    def _solved(self, values: Real, info: highspy.HighsInfo) -> ProgramSolution:
        pairs, pools = len(self._group), len(self.pools)
        share = np.zeros(self.table.allowed.shape)
        share[self._group, self._option] = np.clip(values[:pairs], 0.0, 1.0)
        workers = values[pairs : pairs + pools]
        idle = values[pairs + pools : pairs + 2 * pools]
        misses = values[pairs + 2 * pools :]
        missed = float(misses.sum()) if misses.size else 0.0
        value = info.objective_function_value * self.scale
        bound = info.mip_dual_bound * self.scale if self._whole else value
        idle_seconds = np.array([u * longest for u, longest in zip(idle, self._longest, strict=True)])
        return ProgramSolution(share, workers, idle_seconds, value, missed, bound, self._prices())

    def _prices(self) -> Multipliers:
        """The duals, with the sign that each must have, in the aim's unit per unit of the limit."""
        limits, pools = len(self.limits), len(self.pools)
        if self._whole:
            duals = np.zeros(limits + 2 * pools)
        else:
            duals = np.asarray(self._highs.getSolution().row_dual)[len(self.table) :] * self.scale
        prices = np.maximum(0.0, np.where(self._at_least, duals[:limits], -duals[:limits])) / self._unit
        longest = np.array(self._longest)
        fits = np.maximum(0.0, -duals[limits : limits + pools]) / longest
        idle = np.maximum(0.0, duals[limits + pools :]) / longest
        return Multipliers(self.limits, self.pools, self.aim, prices, fits, idle)

    @property
    def _at_least(self) -> NDArray[np.bool_]:
        return np.array([limit.measure is Measure.WORTH for limit in self.limits], dtype=bool)

    # --- building

    @property
    def _first_pool(self) -> int:
        return len(self._group)

    def _unit_of(self, limit: Limit) -> float:
        """The bound itself, or where that is next to nothing, the most that there can be."""
        most = float(self._measure(limit).sum())
        return abs(limit.bound) if abs(limit.bound) > 1e-6 * most else most or 1.0

    @property
    def _idle_usd(self) -> list[float]:
        """What a unit of u costs, per pool."""
        return [p.usd_per_second * longest for p, longest in zip(self.pools, self._longest, strict=True)]

    def _row_bounds(self, index: int) -> tuple[float, float]:
        limit = self.limits[index]
        bound = limit.bound + (limit.spare if self._whole else 0.0)
        rest = (bound - self._used[index]) / self._unit[index]
        return (rest, math.inf) if limit.measure is Measure.WORTH else (-math.inf, rest)

    def _measure(self, limit: Limit) -> Real:
        """The limit's measure for every variable x."""
        table, group, option = self.table, self._group, self._option
        match limit.measure:
            case Measure.COUNT:
                values = table.count[group]
            case Measure.WEIGHT:
                values = table.weight[group]
            case Measure.COST:
                values = table.cost[group, option]
            case Measure.WORTH:
                values = table.worth[group, option]
            case Measure.TOKENS:
                values = table.tokens[group, option]
            case Measure.DEVICES:
                values = table.busy[group, option]
        counted = np.isin(option, limit.options)
        if limit.task is not None:
            counted &= table.task[group] == limit.task
        takes = np.ones(table.cost.shape[1])
        takes[list(limit.options)] = limit.takes or 1.0
        return np.where(counted, values * takes[option], 0.0)

    def _build(self) -> highspy.Highs:
        (num_rows, num_columns), row, column, entry = self._matrix()
        by_column = np.lexsort((row, column))
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = num_rows, num_columns
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=num_columns))])
        lp.a_matrix_.index_ = row[by_column]
        lp.a_matrix_.value_ = entry[by_column]
        lp.row_lower_, lp.row_upper_ = self._all_row_bounds()
        lp.col_cost_, lp.col_lower_, lp.col_upper_ = self._columns()
        if self._whole:
            continuous, integer = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
            rest = lp.num_col_ - len(self._group) - len(self.pools)
            lp.integrality_ = [integer] * (len(self._group) + len(self.pools)) + [continuous] * rest
        highs: highspy.Highs = highspy.Highs()  # type: ignore[no-untyped-call]
        for option, value in _SETTINGS.items():
            highs.setOptionValue(option, value)
        highs.passModel(lp)
        return highs

    def _matrix(self) -> tuple[tuple[int, int], NDArray[np.int64], NDArray[np.int64], Real]:
        """Shape, and row, column and value of what is not zero. Rows: groups, limits, fits, idle. Columns: x, w, u, s."""
        groups, limits, pools, pairs = len(self.table), len(self.limits), len(self.pools), len(self._group)
        rows, columns, values = [self._group], [np.arange(pairs)], [np.ones(pairs)]

        def put(row: int, column: NDArray[np.integer] | list[int], value: Real | list[float]) -> None:
            columns.append(np.asarray(column, dtype=np.int64))  # an empty list would be of floats
            values.append(np.asarray(value, dtype=np.float64))
            rows.append(np.full(len(columns[-1]), row))

        for index, limit in enumerate(self.limits):
            measure = self._measure(limit) / self._unit[index]
            some = np.flatnonzero(measure)
            put(groups + index, some, measure[some])
            if limit.measure is Measure.COST:
                dues = [pool.startup_usd for pool in self.pools] + self._idle_usd
                put(
                    groups + index,
                    list(range(pairs, pairs + 2 * pools)),
                    [d / self._unit[index] for d in dues],
                )
            if limit.starts:
                starts = [limit.start_of(pool.option) / self._unit[index] for pool in self.pools]
                put(groups + index, list(range(pairs, pairs + pools)), starts)
        for k, pool in enumerate(self.pools):
            of_pool = np.flatnonzero(self._option == pool.option)
            busy = self.table.busy[self._group[of_pool], pool.option] / self._longest[k]
            fits, idle, w, u = groups + limits + k, groups + limits + pools + k, pairs + k, pairs + pools + k
            put(fits, of_pool, busy)
            put(fits, [w], [-1.0])
            put(idle, of_pool, busy)
            put(idle, [w, u], [-pool.short_seconds / self._longest[k], 1.0])
        if self._elastic:
            first = pairs + 2 * pools
            for index in range(limits + pools):
                at_least = index < limits and self.limits[index].measure is Measure.WORTH
                put(groups + index, [first + index], [1.0 if at_least else -1.0])
        shape = (groups + limits + 2 * pools, pairs + 2 * pools + (limits + pools if self._elastic else 0))
        return shape, np.concatenate(rows), np.concatenate(columns), np.concatenate(values)

    def _all_row_bounds(self) -> tuple[Real, Real]:
        ones = np.ones(len(self.table))
        bounds = [self._row_bounds(index) for index in range(len(self.limits))]
        busy = self._busy / np.array(self._longest) if self.pools else np.zeros(0)
        low = [ones, [b[0] for b in bounds], np.full(len(self.pools), -math.inf), -busy]
        high = [ones, [b[1] for b in bounds], -busy, np.full(len(self.pools), math.inf)]
        return np.concatenate(low), np.concatenate(high)

    def _columns(self) -> tuple[Real, Real, Real]:
        """Objective and bounds of every variable."""
        x = self.aim.of(
            self.table.cost[self._group, self._option], self.table.worth[self._group, self._option]
        )
        most = [float(pool.most) for pool in self.pools]
        start = [self.aim.cost * pool.startup_usd for pool in self.pools]
        idle = [self.aim.cost * dues for dues in self._idle_usd]
        misses = len(self.limits) + len(self.pools) if self._elastic else 0
        cost = np.concatenate([x, start, idle]) / self.scale
        upper = np.concatenate([np.ones(len(x)), most, np.full(len(idle) + misses, math.inf)])
        return np.concatenate([cost, np.full(misses, MISSED)]), np.zeros(len(upper)), upper


def _feasible(highs: highspy.Highs) -> bool:
    return bool(highs.getInfo().primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible)


_SETTINGS: dict[str, bool | int | float | str] = {
    "output_flag": False,
    "threads": 1,
    "random_seed": 0,
    "primal_feasibility_tolerance": EXACT,
    "mip_feasibility_tolerance": EXACT,
}
