"""What one row on one option uses of everything that is limited: its measures, read from the columns in
chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.planning.problem import Problem

CHUNK = 8192
"""Rows at a time: 8,192 x 20 doubles are 1.3 MB, which stays in a core's cache."""

Real = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """m rows x E options. Measures are 0 where a pair is not allowed."""

    count: Real
    """[m] requests"""
    weight: Real
    """[m]"""
    task: NDArray[np.int64]
    """[m]"""
    allowed: Mask
    cost: Real
    """USD, the hours that a worker is busy included, start-up and idle hours not."""
    worth: Real
    """weight x quality"""
    tokens: Real
    """Input and output; 0 for options whose tokens nothing limits."""
    busy: Real
    """Seconds of a worker; 0 for options without workers."""

    @property
    def measures(self) -> tuple[Real, Real, Real, Real]:
        return self.cost, self.worth, self.tokens, self.busy


def pairs(problem: Problem, rows: slice | Rows) -> Pairs:
    """The measures of some rows, in the order given."""
    cost = np.array(problem.cost[rows], dtype=np.float64)
    allowed = np.isfinite(cost)
    if problem.eligible is not None:
        allowed &= problem.eligible[0] if problem.policy is None else problem.eligible[problem.policy[rows]]
    weight = np.asarray(problem.weight[rows], dtype=np.float64)
    tokens, busy = _work(problem, rows, cost)
    count = np.ones(len(weight))
    if problem.sent is not None:
        count = np.asarray(problem.sent[rows], dtype=np.float64)
        cost, tokens, busy = (measure * count[:, None] for measure in (cost, tokens, busy))
    worth = np.asarray(problem.quality[rows], dtype=np.float64) * weight[:, None]
    if not allowed.all():
        for measure in (cost, worth, tokens, busy):
            measure[~allowed] = 0.0
    task = np.asarray(problem.task[rows], dtype=np.int64)
    return Pairs(count, weight, task, allowed, cost, worth, tokens, busy)


def _work(problem: Problem, rows: slice | Rows, cost: Real) -> tuple[Real, Real]:
    """Tokens and busy seconds; what the busy seconds cost is added to `cost`."""
    inputs = np.asarray(problem.input_tokens[rows], dtype=np.float64)
    outputs = np.asarray(problem.output_tokens[rows], dtype=np.float64)
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    tokens, busy = np.zeros_like(cost), np.zeros_like(cost)
    for e, option in enumerate(problem.options):
        out = outputs[:, min(e, outputs.shape[1] - 1)]
        if option.tokens_per_second is not None or option.queue_tokens is not None:
            written = 0.0 if option.tokens_per_second is None else out  # what waits at a batch tier is input
            tokens[:, e] = inputs * option.token_factor + written
        if option.workers is not None:
            busy[:, e] = option.workers.seconds(inputs * option.token_factor, out)
            cost[:, e] += busy[:, e] * (option.workers.usd_per_hour / 3600)
    return tokens, busy


def chunks(n: int) -> Iterator[slice]:
    """0 to n, a chunk at a time."""
    for start in range(0, n, CHUNK):
        yield slice(start, min(n, start + CHUNK))


@dataclass(frozen=True, slots=True)
class GroupedCoefficients:
    """Pairs summed over groups of rows: C groups x E options; a group may be a single row.

    A group is divided among options by fractions, as if all its rows were the same.
    """

    count: Real
    """[C] requests"""
    weight: Real
    task: NDArray[np.int64]
    allowed: Mask
    cost: Real
    worth: Real
    tokens: Real
    busy: Real

    def __len__(self) -> int:
        return len(self.count)


def table_of_rows(problem: Problem, rows: Rows) -> GroupedCoefficients:
    """Every row a group of its own."""
    p = pairs(problem, rows)
    return GroupedCoefficients(p.count, p.weight, p.task, p.allowed, *p.measures)


class Summing:
    """Builds `GroupedCoefficients` from chunks of pairs and the group each row is in; groups are numbered as they come.

    The rows of a group are allowed on the same options; where tasks have floors of their own, they are of one
    task.
    """

    def __init__(self, width: int) -> None:
        self._task = np.zeros(0, dtype=np.int64)
        self._allowed = np.ones((0, width), dtype=bool)
        self._counts = np.zeros((0, 2))
        self._sums = np.zeros((4, 0, width))

    def add(self, p: Pairs, group: NDArray[np.integer]) -> None:
        """Rows with a negative group are left out."""
        kept = np.flatnonzero(group >= 0)
        kept = kept[np.argsort(group[kept], kind="stable")]
        if not kept.size:
            return
        ids, starts = np.unique(group[kept], return_index=True)
        self._grow(int(ids[-1]) + 1)
        self._counts[ids, 0] += np.add.reduceat(p.count[kept], starts)
        self._counts[ids, 1] += np.add.reduceat(p.weight[kept], starts)
        self._task[ids] = p.task[kept[starts]]
        self._allowed[ids] = p.allowed[kept[starts]]
        for total, measure in zip(self._sums, p.measures, strict=True):
            some = np.flatnonzero(measure.any(axis=0))
            if some.size:
                total[np.ix_(ids, some)] += np.add.reduceat(measure[kept[:, None], some], starts, axis=0)

    def table(self) -> GroupedCoefficients:
        return GroupedCoefficients(
            self._counts[:, 0], self._counts[:, 1], self._task, self._allowed, *self._sums
        )

    def _grow(self, groups: int) -> None:
        more = groups - len(self._task)
        if more > 0:
            self._task = np.pad(self._task, (0, more))
            self._counts = np.pad(self._counts, ((0, more), (0, 0)))
            self._allowed = np.pad(self._allowed, ((0, more), (0, 0)), constant_values=True)
            self._sums = np.pad(self._sums, ((0, 0), (0, more), (0, 0)))
