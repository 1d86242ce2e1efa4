"""How many workers to start: branch and bound over the pools, with the linear program over groups as the
relaxation.

The cost is convex in the numbers of workers, so the tree stays small; its leaves' multipliers bound every
plan.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from thirdshift.router.planning.duals import Multipliers
from thirdshift.router.planning.limits import Pool
from thirdshift.router.planning.linear_program import LinearProgram, ProgramSolution

NODES = 64
"""With two pools 3 to 9 are enough; when they run out the plan is still valid and `gap` says so."""

WHOLE = 1e-6


Box = tuple[tuple[float, ...], tuple[float, ...]]
"""Workers per pool, from and to."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part of the numbers of workers, and prices that bound the plans in it."""

    box: Box
    prices: Multipliers = field(repr=False)


@dataclass(frozen=True, slots=True)
class Found:
    best: ProgramSolution
    """Workers are whole."""
    workers: tuple[int, ...]
    prices: Multipliers
    leaves: tuple[Leaf, ...]


def anything(pools: Sequence[Pool]) -> Box:
    return (0.0,) * len(pools), tuple(float(pool.most) for pool in pools)


def search(model: LinearProgram, box: Box, *, nodes: int = NODES) -> Found:
    """The best of the elastic program with whole workers in `box`; `missed` says whether it keeps the
    limits."""
    best: ProgramSolution | None = None
    workers: tuple[int, ...] = ()
    leaves: list[Leaf] = []
    first = _relaxed(model, *box)
    heap = [(first.value, 0, box, first)]
    count = 1
    while heap:
        value, _, (low, high), solved = heapq.heappop(heap)
        k = _fractional(solved)
        if k is None and (best is None or value < best.value):
            best, workers = solved, tuple(round(number) for number in solved.workers)
        if k is None or (best is not None and value >= best.value) or count >= nodes:
            leaves.append(Leaf((low, high), solved.prices))
            continue
        cut = float(np.floor(solved.workers[k]))
        for part in ((low, _with(high, k, cut)), (_with(low, k, cut + 1), high)):
            node = _relaxed(model, *part)
            heapq.heappush(heap, (node.value, count, part, node))
            count += 1
    if best is None:
        best, workers = _rounded_up(model, first)
    return Found(best, workers, best.prices, tuple(leaves))


def _relaxed(model: LinearProgram, low: tuple[float, ...], high: tuple[float, ...]) -> ProgramSolution:
    model.set_workers(low, high)
    solved = model.optimise()
    if solved is None:
        raise ArithmeticError("HiGHS found no solution of a program that always has one")
    return solved


def _fractional(solved: ProgramSolution) -> int | None:
    """The pool that is furthest from a whole number of workers."""
    if not solved.workers.size:
        return None
    off = np.abs(solved.workers - np.round(solved.workers))
    return int(off.argmax()) if off.max() > WHOLE else None


def _with(values: tuple[float, ...], k: int, value: float) -> tuple[float, ...]:
    return (*values[:k], value, *values[k + 1 :])


def _rounded_up(model: LinearProgram, relaxed: ProgramSolution) -> tuple[ProgramSolution, tuple[int, ...]]:
    up = tuple(float(np.ceil(count - WHOLE)) for count in relaxed.workers)
    return _relaxed(model, up, up), tuple(int(count) for count in up)
