"""From shares of groups to one option per row, and the few rows at the edge settled in whole numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.planning.aggregation import Groups
from thirdshift.router.planning.coefficients import Real, Rows, chunks, pairs, table_of_rows
from thirdshift.router.planning.duals import KEPT, Multipliers, Objective
from thirdshift.router.planning.limits import Limit, Pool
from thirdshift.router.planning.linear_program import LinearProgram
from thirdshift.router.planning.problem import NOBODY, Choice, Problem
from thirdshift.router.planning.usage import PlanUsage, broken, overhead_usd, tally_of_rows

ALONE = 1 - 1e-9
"""A group with this share on one option is not divided."""

FREE = (300, 1_500, 10_000, 60_000)
"""How many rows near the edge are decided anew, in turn, until every limit holds."""

WHOLE_ROWS = (60, 250, 1_000)
"""How many of those are in the program in whole numbers."""

ALIKE = 1e-9
"""Rows are as near to a decision as others where they differ by no more than this share of the dearest answer's cost."""

NODES = 400
"""Nodes of HiGHS' tree per attempt; counted, not timed, so that the same problem has the same plan."""


def divide(problem: Problem, groups: Groups, share: Real, prices: Multipliers) -> Choice:
    """Rows of a group that is on one option go there; a divided group's rows by where they lose least."""
    alone = share.max(axis=1) >= ALONE
    option = np.where(alone, share.argmax(axis=1), NOBODY).astype(np.int16)
    choice = np.append(option, np.int16(NOBODY))[groups]
    rows = np.flatnonzero((choice == NOBODY) & (groups >= 0))
    rows = rows[np.argsort(groups[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[rows], prepend=-1))
    for members in np.split(rows, starts[1:]) if rows.size else []:
        choice[members] = _divided(prices.reduced(pairs(problem, members)), share[groups[members[0]]])
    return choice


def _divided(reduced: Real, share: Real) -> Choice:
    """The rows of one group among the options that have a share of it, the smaller shares served first."""
    options = [int(e) for e in np.argsort(share, kind="stable") if share[e] > 0]
    choice = np.full(len(reduced), options[-1], dtype=np.int16)
    left = np.arange(len(reduced))
    for place, e in enumerate(options[:-1]):
        others = reduced[left][:, options[place + 1 :]].min(axis=1)
        order = np.argsort(reduced[left, e] - others, kind="stable")
        shared = left[order[: round(float(share[e]) * len(reduced))]]
        choice[shared] = e
        left = np.setdiff1d(left, shared, assume_unique=True)
    return choice


def nearest_rows(problem: Problem, choice: Choice, prices: Multipliers) -> Rows:
    """Routable rows that another option would suit best, the nearest to a decision first; at most FREE's last.

    Of rows that are equally near each option's come in turn: of a hundred thousand that are alike, those on one option
    alone could only lose worth, or only cost more.
    """
    edge = np.empty(problem.n)
    dearest = 0.0
    for part in chunks(problem.n):
        priced = pairs(problem, part)
        dearest = max(dearest, float(priced.cost.max(initial=0.0)))
        reduced = prices.reduced(priced)
        chosen, rows = choice[part], np.arange(len(reduced))
        own = reduced[rows, chosen].copy()
        reduced[rows, chosen] = np.inf
        lost = np.where(chosen == NOBODY, 0.0, own)
        edge[part] = np.where(chosen == NOBODY, np.inf, reduced.min(axis=1) - lost)
    step = np.floor(edge / (ALIKE * (dearest or 1.0)) + 0.5)
    size = min(len(step), FREE[-1])
    near = np.flatnonzero(np.isfinite(step) & (step <= np.partition(step, size - 1)[size - 1]))
    return near[np.lexsort((near, _turn(step[near], choice[near]), step[near]))][:size]


def _turn(step: Real, chosen: Choice) -> NDArray[np.int64]:
    """Where each row stands among those of its step that are on the same option."""
    order = np.lexsort((chosen, step))
    new = (np.diff(step[order], prepend=np.nan) != 0) | (np.diff(chosen[order], prepend=-2) != 0)
    starts = np.flatnonzero(new)
    turn = np.empty(len(step), np.int64)
    turn[order] = np.arange(len(step)) - np.repeat(starts, np.diff(np.append(starts, len(step))))
    return turn


@dataclass(frozen=True, slots=True)
class Polisher:
    """Decides some rows anew with the rest as they are, so that every limit holds exactly."""

    problem: Problem
    limits: Sequence[Limit]
    pools: Sequence[Pool]
    workers: Sequence[int]
    aim: Objective
    scale: float
    tolerance: float
    """How far from the best the rows decided anew may be, in the aim's unit."""
    prices: Multipliers
    enough: float
    """A value, in that unit, that needs no bettering."""

    def polish(self, choice: Choice, total: PlanUsage, near: Rows) -> Choice | None:
        """`near`: routable rows, the nearest to a decision first. None: no way found to keep every limit.

        More and more rows are let go until every limit holds and the bound is close; the most only at need.
        """
        best: Choice | None = None
        value = math.inf
        for size in FREE:
            if best is not None and (value <= self.enough or size == FREE[-1]):
                break
            settled = self._settled(choice, total, np.sort(near[:size]), near[:size])
            if settled is not None:
                moved = self._moved(total, near[:size], choice[near[:size]], settled[near[:size]])
                best, value, choice, total = settled, self._value(moved), settled, moved
            if size >= len(near):
                break
        return best

    def _value(self, total: PlanUsage) -> float:
        cost = float(total.cost.sum()) + overhead_usd(self.pools, self.workers, total.busy)
        return self.aim.cost * cost - self.aim.worth * float(total.worth.sum())

    def _settled(self, choice: Choice, total: PlanUsage, rows: Rows, near: Rows) -> Choice | None:
        """First shares of `rows`, then whole numbers for those divided and the nearest to a decision."""
        solved = self._model(choice, total, rows, whole=False).optimise()
        if solved is None:
            return None
        after = choice.copy()
        after[rows] = solved.share.argmax(axis=1)
        split = rows[solved.share.max(axis=1) < ALONE]
        for size in WHOLE_ROWS:
            few = np.union1d(split, near[:size])
            done = self._whole(after, total, rows, choice, few)
            if done is not None or len(few) >= len(rows):
                return done
        return None

    def _whole(self, after: Choice, total: PlanUsage, rows: Rows, before: Choice, few: Rows) -> Choice | None:
        moved = self._moved(total, rows, before[rows], after[rows])
        model = self._model(after, moved, few, whole=True)
        solved = model.optimise(absolute_gap=self.tolerance, nodes=NODES)
        if solved is None:
            return None
        final = after.copy()
        final[few] = solved.share.argmax(axis=1)
        whole = self._moved(moved, few, after[few], final[few])
        return None if broken(whole, self.limits, self.pools, self.workers) else final

    def _moved(self, total: PlanUsage, rows: Rows, before: Choice, after: Choice) -> PlanUsage:
        p = pairs(self.problem, rows)
        moved = total.copy()
        moved.add(p, before, -1.0)
        moved.add(p, after)
        return moved

    def _model(self, choice: Choice, total: PlanUsage, rows: Rows, *, whole: bool) -> LinearProgram:
        """A program over `rows` alone; what the others use is taken off the limits."""
        tally = tally_of_rows(self.problem, rows, choice[rows])
        used = total.usage(self.limits) - tally.usage(self.limits)
        busy = np.array([total.busy[pool.option] - tally.busy[pool.option] for pool in self.pools])
        table, keep = table_of_rows(self.problem, rows), None
        if len(rows) > FREE[1]:
            keep = self.prices.cheapest(table, KEPT)
            keep[np.arange(len(rows)), choice[rows]] = True
        model = LinearProgram(
            table, self.limits, self.pools, self.aim, self.scale,
            used=used, busy=busy, keep=keep, elastic=False, whole=whole,
        )  # fmt: skip
        model.set_workers(self.workers, self.workers)
        return model
