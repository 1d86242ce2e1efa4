"""An assignment told as a plan: equals by name, the runner-up of each row, what it costs and how far off it
can be."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from thirdshift.router.planning.coefficients import Mask, chunks, pairs
from thirdshift.router.planning.duals import Multipliers
from thirdshift.router.planning.limits import Pool
from thirdshift.router.planning.problem import NOBODY, Choice, Plan, Problem
from thirdshift.router.planning.timing import finish
from thirdshift.router.planning.usage import PlanUsage, overhead_usd


@dataclass(frozen=True, slots=True)
class FeasibleAssignment:
    """An assignment that keeps every limit, with what is needed to tell about it."""

    choice: Choice = field(repr=False)
    runner_up: Choice = field(repr=False)
    workers: tuple[int, ...]
    total: PlanUsage
    prices: Multipliers = field(repr=False)
    value: float
    """In the aim's unit, as is `bound`."""
    bound: float


def first_and_second(problem: Problem, choice: Choice, prices: Multipliers) -> tuple[Choice, Choice]:
    """[n], [n]: the choice, exact equals exchanged for the first of them by name, and the next best at these
    prices."""
    order = np.argsort([option.name for option in problem.options], kind="stable").astype(np.int16)
    place = np.argsort(order)
    may_leave, may_join = _unlimited(problem, prices)
    first, second = choice.copy(), np.full(problem.n, NOBODY, dtype=np.int16)
    for part in chunks(problem.n):
        p = pairs(problem, part)
        routed = np.flatnonzero(choice[part] != NOBODY)
        chosen = choice[part][routed]
        equal = p.allowed[routed] & may_join & may_leave[chosen][:, None]
        for measure in (p.cost, p.worth):
            equal &= measure[routed] == measure[routed, chosen][:, None]
        equal[np.arange(routed.size), chosen] = True
        now = order[equal[:, order].argmax(axis=1)]
        reduced = prices.reduced(p)[np.ix_(routed, order)]
        reduced[np.arange(routed.size), place[now]] = np.inf
        best = reduced.argmin(axis=1)
        first[part.start + routed] = now
        second[part.start + routed] = np.where(np.isfinite(reduced.min(axis=1)), order[best], NOBODY)
    return first, second


def _unlimited(problem: Problem, prices: Multipliers) -> tuple[Mask, Mask]:
    """[E], [E]: options that a row may leave, and may join, without any limit or worker noticing."""
    leave, join = np.ones(problem.width, dtype=bool), np.ones(problem.width, dtype=bool)
    for limit in prices.limits:
        if len(limit.options) < problem.width:
            join[list(limit.options)] = False
    for pool in prices.pools:
        leave[pool.option] = join[pool.option] = False
    return leave, join


def as_plan(problem: Problem, result: FeasibleAssignment) -> Plan:
    """The result in words that others use."""
    total, pools = result.total, result.prices.pools
    cost = float(total.cost.sum()) + overhead_usd(pools, result.workers, total.busy)
    bound = result.bound if result.prices.aim.cost else 0.0
    used = [option for e, option in enumerate(problem.options) if total.count[e]]
    started = {
        problem.options[pool.option].name: (pool, count)
        for pool, count in zip(pools, result.workers, strict=True)
        if count
    }
    return Plan(
        choice=result.choice,
        runner_up=result.runner_up,
        cost_usd=cost,
        quality=total.quality,
        bound_usd=max(0.0, bound),
        gap=_gap(cost, bound),
        workers={name: count for name, (_, count) in started.items()},
        worker_hours={name: _hours(pool, count, total) for name, (pool, count) in started.items()},
        finish_seconds=finish(problem, total, {name: count for name, (_, count) in started.items()}),
        waits={option.name: option.starts_seconds for option in used if option.starts_seconds > 0},
        multipliers=result.prices.by_name(),
    )


def _gap(cost: float, bound: float) -> float:
    if cost <= 0 or cost <= bound:
        return 0.0
    return (cost - bound) / bound if bound > 0 else math.inf


def _hours(pool: Pool, count: int, total: PlanUsage) -> float:
    busy = float(total.busy[pool.option])
    return (count * pool.spec.startup_seconds + max(busy, count * pool.short_seconds)) / 3600
