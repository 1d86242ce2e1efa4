"""Mean scores of the whole population under an assignment, and how far off they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from router.mixed import Covariances, Looked, Pattern, Posterior, common_of, gain_of

if TYPE_CHECKING:
    from router.predict import Population

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

    def add(self, shares: Floats, common: Floats, task: NDArray[np.int32], sign: float = 1.0) -> None:
        """`shares`: shape (questions, requests, endpoints)."""
        self.common += sign * np.einsum("nk,qne->qke", common, shares, optimize=True)
        for question, share in zip(self.skill, shares, strict=True):
            for e in range(share.shape[1]):
                question[:, e] += sign * np.bincount(task, share[:, e], len(question))

    def luck(self, shares: Floats, covariance: Floats, sign: float = 1.0) -> None:
        self.residual += sign * np.einsum("qne,ef,pnf->qp", shares, covariance, shares, optimize=True)


def questions(
    posterior: Posterior,
    population: Population,
    choice: NDArray[np.integer],
    anchors: tuple[int, ...],
    looked: Looked,
    covariances: Covariances,
) -> tuple[Floats, Floats]:
    """See `Predictor.means`."""
    endpoints = posterior.common.shape[1]
    sums = _Sums(1 + len(anchors), population, endpoints)
    for begin in range(0, len(population), CHUNK):
        part = slice(begin, begin + CHUNK)
        shares = _shares(choice[part], anchors, endpoints)
        sums.add(shares, common_of(population.text[part]), population.task[part])
        sums.luck(shares, covariances.luck)
    for pattern in looked.patterns:
        _seen(
            sums, pattern, _shares(choice[looked.row[pattern.rows]], anchors, endpoints), looked, covariances
        )
    flat = sums.common.reshape(len(sums.common), -1)
    mean = (
        sums.constant + flat @ posterior.common.ravel() + np.einsum("qte,te->q", sums.skill, posterior.skill)
    )
    through = flat - np.einsum("qte,tec->qc", sums.skill, posterior.link, optimize=True)
    covariance = sums.residual + through @ posterior.common_cov @ through.T
    covariance += np.einsum("qte,tef,ptf->qp", sums.skill, posterior.skill_cov, sums.skill, optimize=True)
    n = len(population)
    return mean / n, covariance / n**2


def _shares(choice: NDArray[np.integer], anchors: tuple[int, ...], endpoints: int) -> Floats:
    """Which endpoint's score counts: shape (1 + anchors, requests, endpoints)."""
    shares = np.zeros((1 + len(anchors), len(choice), endpoints))
    served = np.flatnonzero(choice >= 0)
    shares[0, served, choice[served]] = 1.0
    for question, anchor in enumerate(anchors, 1):
        shares[question, :, anchor] = 1.0
    return shares


def _seen(sums: _Sums, pattern: Pattern, shares: Floats, looked: Looked, covariances: Covariances) -> None:
    """Put right what was counted as unseen: a score seen is itself, and tells of the same request's others."""
    gain = gain_of(covariances.luck, pattern.endpoints)
    scores = looked.score[np.ix_(pattern.rows, pattern.endpoints)]
    sums.constant += np.einsum("qne,eo,no->q", shares, gain, scores, optimize=True)
    told = np.zeros_like(shares)
    told[:, :, pattern.endpoints] = shares @ gain
    sums.add(told, looked.common[pattern.rows], looked.task[pattern.rows], -1.0)
    sums.luck(shares, gain @ covariances.luck[pattern.endpoints], -1.0)
