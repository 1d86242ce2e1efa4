"""Mean scores of the whole population under an assignment, and how far off they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.mixed_model import (
    Covariances,
    Pattern,
    Posterior,
    ScoredObservations,
    common_of,
    gain_of,
)
from thirdshift.router.threads import on_one_core

if TYPE_CHECKING:
    from thirdshift.router.prediction.observations import Population

Floats = NDArray[np.float64]

CHUNK = 65_536
"""Requests at a time."""


class _Sums:
    """What the questions ask of abilities and slopes, of skills, and of the luck of requests."""

    def __init__(self, count: int, population: Population, endpoints: int) -> None:
        self.constant = np.zeros(count)
        self.residual = np.zeros((count, count))
        self.common = np.zeros((count, 1 + population.text.shape[1], endpoints))
        self.skill = np.zeros((count, population.tasks, endpoints))

    def served(
        self, endpoint: int, share: Floats, common: Floats, task: NDArray[np.int32], questions: list[int]
    ) -> None:
        """Requests whose score at one endpoint counts, each by its share, in some of the questions."""
        on_common, on_skill = common.T @ share, np.bincount(task, share, self.skill.shape[1])
        for question in questions:
            self.common[question, :, endpoint] += on_common
            self.skill[question, :, endpoint] += on_skill

    def told(self, shares: Floats, common: Floats, task: NDArray[np.int32]) -> None:
        """Take away what is known: `shares` of shape (questions, requests, endpoints)."""
        self.common -= np.einsum("nk,qne->qke", common, shares, optimize=True)
        for question, share in zip(self.skill, shares, strict=True):
            for endpoint in range(share.shape[1]):
                question[:, endpoint] -= np.bincount(task, share[:, endpoint], len(question))


@on_one_core
def questions(
    posterior: Posterior,
    population: Population,
    choice: NDArray[np.integer],
    baselines: tuple[int, ...],
    looked: ScoredObservations,
    covariances: Covariances,
) -> tuple[Floats, Floats]:
    """Return the mean score of the population under `choice`, then of each baseline on all of it, and their covariance:
    what `Predictor.means` gives."""
    endpoints = posterior.common.shape[1]
    sums = _Sums(1 + len(baselines), population, endpoints)
    weight = np.ones(len(population)) if population.weight is None else population.weight
    for begin in range(0, len(population), CHUNK):
        _chunk(sums, population, slice(begin, begin + CHUNK), weight, choice, baselines)
    each = weight if population.sent is None else weight / population.sent
    _luck(sums, choice, weight * each, baselines, covariances.residual)
    for pattern in looked.patterns:
        rows = looked.row[pattern.rows]
        _seen(sums, pattern, _shares(choice[rows], weight[rows], baselines, endpoints), looked, covariances)
    flat = sums.common.reshape(len(sums.common), -1)
    mean = (
        sums.constant + flat @ posterior.common.ravel() + np.einsum("qte,te->q", sums.skill, posterior.skill)
    )
    through = flat - np.einsum("qte,tec->qc", sums.skill, posterior.link, optimize=True)
    covariance = sums.residual + through @ posterior.common_cov @ through.T
    covariance += np.einsum("qte,tef,ptf->qp", sums.skill, posterior.skill_cov, sums.skill, optimize=True)
    total = weight.sum()
    return mean / total, covariance / total**2


def _chunk(
    sums: _Sums,
    population: Population,
    part: slice,
    weight: Floats,
    choice: NDArray[np.integer],
    baselines: tuple[int, ...],
) -> None:
    common, task = common_of(population.text[part]), population.task[part]
    for endpoint in range(sums.common.shape[2]):
        of = choice[part] == endpoint
        sums.served(endpoint, weight[part][of], common[of], task[of], [0])
    for question, baseline in enumerate(baselines, 1):
        sums.served(baseline, weight[part], common, task, [question])


def _luck(
    sums: _Sums, choice: NDArray[np.integer], squares: Floats, baselines: tuple[int, ...], residual: Floats
) -> None:
    """`squares`: for each row the sum of its requests' squared weights."""
    served = choice >= 0
    count = np.bincount(choice[served], squares[served], len(residual))
    at = list(baselines)
    sums.residual[0, 0] += count @ np.diag(residual)
    sums.residual[0, 1:] += count @ residual[:, at]
    sums.residual[1:, 0] += count @ residual[:, at]
    sums.residual[1:, 1:] += squares.sum() * residual[np.ix_(at, at)]


def _shares(
    choice: NDArray[np.integer], weight: Floats, baselines: tuple[int, ...], endpoints: int
) -> Floats:
    """How much each endpoint's score counts: shape (1 + anchors, requests, endpoints)."""
    shares = np.zeros((1 + len(baselines), len(choice), endpoints))
    served = np.flatnonzero(choice >= 0)
    shares[0, served, choice[served]] = weight[served]
    for question, baseline in enumerate(baselines, 1):
        shares[question, :, baseline] = weight
    return shares


def _seen(
    sums: _Sums, pattern: Pattern, shares: Floats, looked: ScoredObservations, covariances: Covariances
) -> None:
    """Put right what was counted as unseen: a score seen is itself, and tells of the same request's others."""
    gain = gain_of(covariances.residual, pattern.endpoints)
    scores = looked.score[np.ix_(pattern.rows, pattern.endpoints)]
    seen = shares @ gain
    sums.constant += np.einsum("qno,no->q", seen, scores)
    observed_share = np.zeros_like(shares)
    observed_share[:, :, pattern.endpoints] = seen
    sums.told(observed_share, looked.common[pattern.rows], looked.task[pattern.rows])
    known = gain @ covariances.residual[pattern.endpoints]
    sums.residual -= np.einsum("qne,ef,pnf->qp", shares, known, shares, optimize=True)
