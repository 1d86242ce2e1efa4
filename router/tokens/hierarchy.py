"""Levels of a table, task by endpoint, that share what they have in common: a normal model solved in
closed form.

A level is night + task + endpoint + (task x endpoint), each drawn from a normal of its own spread. With
the spreads given, levels and the covariance of their errors follow from the means of the cells seen; the
spreads themselves are moved by what the cells say (expectation maximisation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

SPREADS = (1.0, 0.7, 0.5, 0.3)
"""What we believe of levels before any answer (night, task, endpoint, task x endpoint), in logs: 1.0 is
"within a factor of 7, mostly". Judgements; answers move all but the first, each counting as
`SPREAD_WEIGHT` levels."""

SPREAD_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class CellEstimates:
    """The normal equations of the cells that have answers."""

    task: Ints
    endpoint: Ints
    inverse: Floats
    """Inverse of prior covariance plus noise, [cells, cells]."""
    weights: Floats
    """`inverse` times the cells' means."""


def solve(
    task_of: Ints, endpoint_of: Ints, target: Floats, precision_of: Floats, endpoints: int, variances: Floats
) -> CellEstimates:
    """`target`: an answer's value above base; `precision_of`: its weight over its variance. Parallel
    columns.
    """
    from scipy.linalg import cho_factor, cho_solve

    cells, which = np.unique(task_of * endpoints + endpoint_of, return_inverse=True)
    precision = np.bincount(which, precision_of)
    means = np.bincount(which, precision_of * target) / precision
    task, endpoint = np.divmod(cells, endpoints)
    noisy = kernel(task, endpoint, task, endpoint, variances) + np.diag(1.0 / precision)
    inverse: Floats = cho_solve(cho_factor(noisy), np.eye(len(cells)))
    return CellEstimates(task, endpoint, inverse, inverse @ means)


def levels_of(solved: CellEstimates, tasks: int, endpoints: int, variances: Floats) -> tuple[Floats, Floats]:
    """Levels above base [tasks, endpoints], and their errors' covariance within each endpoint."""
    level = np.empty((tasks, endpoints))
    covariance = np.empty((endpoints, tasks, tasks))
    every = np.arange(tasks)
    for e in range(endpoints):
        here = np.full(tasks, e)
        across = kernel(every, here, solved.task, solved.endpoint, variances)
        level[:, e] = across @ solved.weights
        covariance[e] = kernel(every, here, every, here, variances) - across @ solved.inverse @ across.T
    return level, covariance


def spreads(solved: CellEstimates, tasks: int, endpoints: int, variances: Floats) -> Floats:
    """The spreads (squared) that the answers speak for: each is moved by its levels' squares and errors."""
    cells = np.arange(len(solved.task))
    groups = ((solved.task, tasks), (solved.endpoint, endpoints), (cells, len(cells)))
    updated = variances.copy()
    for i, (group, size) in enumerate(groups, start=1):
        sums = np.zeros((size, len(cells)))
        sums[group, cells] = variances[i]
        seen = np.bincount(group, minlength=size) > 0
        squares = (sums @ solved.weights) ** 2 + variances[i] - ((sums @ solved.inverse) * sums).sum(axis=1)
        prior = SPREAD_WEIGHT * SPREADS[i] ** 2
        updated[i] = (squares[seen].sum() + prior) / (seen.sum() + SPREAD_WEIGHT)
    return updated


def kernel(task: Ints, endpoint: Ints, other_task: Ints, other_endpoint: Ints, variances: Floats) -> Floats:
    """Prior covariance of levels: [cells, other cells]."""
    night, of_task, of_endpoint, of_cell = variances
    same_task = task[:, None] == other_task[None, :]
    same_endpoint = endpoint[:, None] == other_endpoint[None, :]
    both = same_task & same_endpoint
    return np.asarray(
        night + of_task * same_task + of_endpoint * same_endpoint + of_cell * both, dtype=np.float64
    )
