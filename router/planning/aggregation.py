"""Requests alike form groups. First by what they are (task, policy, size, how hard), then by what the prices
make of them.

Everything goes by chunk: what is kept is one group number per row and the sums per group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.planning.coefficients import (
    GroupedCoefficients,
    Mask,
    Pairs,
    Real,
    Summing,
    chunks,
    pairs,
)
from thirdshift.router.planning.duals import Multipliers
from thirdshift.router.planning.limits import RoutableTotals, tasks_of
from thirdshift.router.planning.problem import Problem

GROUPS = 1_000
"""First groups: enough for prices good to some per cent, which the second look needs; HiGHS takes a tenth of
a second."""

SINGLY = 2_000
"""Up to so many rows each is a group of its own in the end."""

SECOND_GROUPS = 8000
"""Groups of the second look, most of them far from any decision."""

FEW = 300
"""First groups where rows are few: their prices tell which options of each row are worth a variable."""

SAMPLE = 20_000
"""Rows, evenly spaced, from which the cuts between groups are taken."""

Groups = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of the columns after one reading."""

    groups: Groups
    """[n], -1 where no option may answer the row."""
    table: GroupedCoefficients
    totals: RoutableTotals
    scale: float
    """What the dearest choice costs; 1 where everything is free."""
    single: bool
    """Every group is one row."""


class Numbering:
    """Small numbers for keys, in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, keys: NDArray[np.integer]) -> Groups:
        unique, inverse = np.unique(keys, return_inverse=True)
        numbers = [self._numbers.setdefault(int(key), len(self._numbers)) for key in unique]
        return np.array(numbers, dtype=np.int32)[inverse]


class Kinds:
    """Task (where there is more than one to tell apart) and allowed options as one number."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._masks: dict[bytes, int] = {}

    def of(self, task: NDArray[np.integer], allowed: Mask) -> NDArray[np.int64]:
        """`allowed`: [m, options]"""
        if len(allowed) and (allowed == allowed[0]).all():
            mask = np.full(len(task), self._number(np.packbits(allowed[0]).tobytes()))
        else:
            packed = np.packbits(allowed, axis=1)
            unique, inverse = np.unique(packed, axis=0, return_inverse=True)
            mask = np.array([self._number(row.tobytes()) for row in unique])[inverse.reshape(-1)]
        return (mask * self._tasks + (task if self._tasks > 1 else 0)).astype(np.int64)

    def _number(self, mask: bytes) -> int:
        return self._masks.setdefault(mask, len(self._masks))


# --- the first groups


class Cuts:
    """Where size, ease and gain of a task's requests are cut; learnt from a sample."""

    def __init__(self, problem: Problem, groups: int) -> None:
        rows = np.unique(np.linspace(0, problem.n - 1, min(SAMPLE, problem.n)).astype(np.int64))
        p = pairs(problem, rows)
        self._tasks = tasks_of(problem)
        self._contrast = _contrast(p)
        kinds = max(1, len(np.unique(Kinds(self._tasks).of(p.task, p.allowed))))
        self._bins = _bins(groups / kinds)
        self._edges = [
            _edges(feature, p.task, self._tasks, bins)
            for feature, bins in zip(self._features(p), self._bins, strict=True)
        ]

    def of(self, p: Pairs) -> NDArray[np.int64]:
        code = np.zeros(len(p.task), dtype=np.int64)
        for feature, edges in zip(self._features(p), self._edges, strict=True):
            code = code * (edges.shape[1] + 1) + (feature[:, None] > edges[p.task]).sum(axis=1)
        return code

    @property
    def number(self) -> int:
        return int(np.prod(self._bins))

    def _features(self, p: Pairs) -> tuple[Real, Real, Real]:
        """How large a request is, how easy, and how much better dear options are at it."""
        size = p.cost.sum(axis=1) / p.count
        ease = p.worth.sum(axis=1) / p.weight
        return size, ease, p.worth @ self._contrast / p.weight


def _contrast(p: Pairs) -> Real:
    """[E] from -1 for the cheapest option to 1 for the dearest."""
    mean = p.cost.sum(axis=0) / np.maximum(1, p.allowed.sum(axis=0))
    rank: Real = np.argsort(np.argsort(mean, kind="stable"), kind="stable").astype(np.float64)
    return rank / max(1, len(mean) - 1) * 2 - 1


def _bins(count: float) -> tuple[int, int, int]:
    """For about `each` groups a kind: ease and gain decide more than size."""
    size = max(1, round(count**0.25))
    ease = max(1, round((count / size) ** 0.5))
    return size, ease, max(1, round(count / size / ease))


def _edges(feature: Real, task: NDArray[np.int64], tasks: int, bins: int) -> Real:
    """[T, bins - 1] quantiles of a feature by task; of all rows where a task has none."""
    at = np.arange(1, bins) / bins
    if bins == 1:
        return np.zeros((tasks, 0))
    edges = np.tile(np.quantile(feature, at), (tasks, 1))
    order = np.argsort(task, kind="stable")
    ids, starts = np.unique(task[order], return_index=True)
    for t, of_task in zip(ids, np.split(order, starts[1:]), strict=True):
        edges[t] = np.quantile(feature[of_task], at)
    return edges


def survey(problem: Problem, groups: int | None = None) -> Survey:
    """One reading of the columns; with no more rows than `groups`, each is a group of its own."""
    tasks, width = tasks_of(problem), problem.width
    if groups is None:
        groups = GROUPS if problem.n > SINGLY else FEW
    cuts = Cuts(problem, groups) if problem.n > groups else None
    kinds, numbers, summing = Kinds(tasks), Numbering(), Summing(width)
    of = np.full(problem.n, -1, dtype=np.int32)
    count, weight, busy, scale = 0.0, np.zeros(tasks), np.zeros(width), 0.0
    for part in chunks(problem.n):
        p = pairs(problem, part)
        some = p.allowed.any(axis=1)
        if cuts is None:
            group = numbers.of(np.arange(part.start, part.stop))
        else:
            group = numbers.of(kinds.of(p.task, p.allowed) * cuts.number + cuts.of(p))
        of[part] = np.where(some, group, -1)
        summing.add(p, of[part])
        count += float(p.count[some].sum())
        weight += np.bincount(p.task[some], p.weight[some], tasks)
        busy += p.busy.sum(axis=0)
        scale += float(p.cost.max(axis=1).sum())
    return Survey(of, summing.table(), RoutableTotals(count, weight, busy), scale or 1.0, cuts is None)


# --- the second groups

_CUTS = 0.5 ** np.arange(1, 12)
"""Where regret is cut, as shares of its sample: half of the rows are far from a decision, then finer and
finer."""

SIZES = 3
"""Where an option is short of requests as well as of tokens, the prices of the two are told apart by size."""


class Views:
    """How the prices see a request: its two best options, how far apart they are for its size, and the size.

    Tasks are kept apart only where they have floors of their own.
    """

    def __init__(self, problem: Problem, prices: Multipliers, groups: int = SECOND_GROUPS) -> None:
        self._order = np.argsort([option.name for option in problem.options], kind="stable")
        per_task = problem.terms.floor is not None and problem.terms.per_task
        self._kinds = Kinds(tasks_of(problem) if per_task else 1)
        rows = np.unique(np.linspace(0, problem.n - 1, min(SAMPLE, problem.n)).astype(np.int64))
        p = pairs(problem, rows)
        first, second, regret = self.best_two(prices.reduced(p))
        pairs_seen = len(np.unique(self._pair(p, first, second)))
        self._sizes = np.quantile(_size(p), np.arange(1, SIZES) / SIZES)
        near = (regret / (_size(p) * p.count))[np.isfinite(regret)]
        self._edges = _regret_edges(near, max(2, round(groups / (SIZES * max(1, pairs_seen)))))

    def best_two(self, reduced: Real) -> tuple[Groups, Groups, Real]:
        """Per row the cheapest option, the next one, and by how much it is dearer; among equals, by name."""
        ordered = reduced[:, self._order]
        rows = np.arange(len(ordered))
        first = ordered.argmin(axis=1)
        lowest = ordered[rows, first]
        ordered[rows, first] = np.inf
        second = ordered.argmin(axis=1)
        with np.errstate(invalid="ignore"):
            regret = ordered[rows, second] - lowest
        return self._order[first].astype(np.int32), self._order[second].astype(np.int32), regret

    def of(self, p: Pairs, first: Groups, second: Groups, regret: Real) -> NDArray[np.int64]:
        """A key per row; rows with one key are alike to these prices."""
        size = _size(p)
        far = np.where(np.isfinite(regret), regret / (size * p.count), np.inf)
        step = np.searchsorted(self._edges, far)
        seen = self._pair(p, first, second) * (len(self._edges) + 1) + step
        return seen * SIZES + np.searchsorted(self._sizes, size)

    def _pair(self, p: Pairs, first: Groups, second: Groups) -> NDArray[np.int64]:
        width = len(self._order)
        return (self._kinds.of(p.task, p.allowed) * width + first) * width + second


def _size(p: Pairs) -> Real:
    size: Real = p.cost.sum(axis=1) / p.count
    return np.where(size > 0, size, 1.0)


def seen_with(problem: Problem, prices: Multipliers) -> tuple[Groups, GroupedCoefficients]:
    """[n] and their sums: rows grouped by how these prices see them; one reading of the columns."""
    views, numbers, summing = Views(problem, prices), Numbering(), Summing(problem.width)
    groups = np.full(problem.n, -1, dtype=np.int32)
    for part in chunks(problem.n):
        p = pairs(problem, part)
        first, second, regret = views.best_two(prices.reduced(p))
        keys = numbers.of(views.of(p, first, second, regret))
        groups[part] = np.where(p.allowed.any(axis=1), keys, -1)
        summing.add(p, groups[part])
    return groups, summing.table()


def _regret_edges(regret: Real, steps: int) -> Real:
    """Cuts that halve towards 0, and even ones as far as there is room: prices may yet move a good way."""
    if not regret.size:
        return np.zeros(0)
    even = max(0, steps - 1 - len(_CUTS))
    shares = np.union1d(_CUTS[: max(1, steps - 1)], np.arange(1, even + 1) / (even + 1))
    return np.unique(np.quantile(regret, shares))
