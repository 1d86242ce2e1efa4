"""How sure it is that an assignment clears the floor, and the margin a plan must leave so that it is sure enough."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Population
from thirdshift.router.prediction.predict import Predictor
from thirdshift.router.threads import on_one_core

Floats = NDArray[np.float64]

POINTS = 4096
"""Draws of the normal distribution: enough for a 5 % quantile to a fortieth of a standard deviation."""


@dataclass(frozen=True, slots=True)
class QualityTarget:
    floor: float
    """A mean score, or with anchors a share of the best anchor's mean."""
    baselines: tuple[int, ...] = ()
    """Endpoints. Several: it is not told which of them is the best, and the floor is a share of the best one's mean."""
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Standing:
    """What is believed of one assignment."""

    quality: float
    """Mean score expected, of all requests."""
    floor: float
    """In absolute terms; for a relative floor the expectation of the best anchor's share."""
    spread: float
    """Standard deviation of quality - floor."""
    short: float
    """By how much quality must rise until the floor is cleared with the confidence asked; not positive: it is."""
    sure: float
    """Probability that the floor is cleared."""

    @property
    def margin(self) -> float:
        """What a plan should add to `floor`."""
        return self.short + self.quality - self.floor


@on_one_core
def standing(
    predictor: Predictor, population: Population, choice: NDArray[np.integer], aim: QualityTarget
) -> Standing:
    """`choice`: shape (n,), the endpoint of each request; negative: nobody, who scores 0."""
    mean, covariance = predictor.means(population, choice, aim.baselines)
    if not aim.baselines:  # where all was looked at, rounding can leave less than no error
        draws = mean[0] + np.sqrt(max(covariance[0, 0], 0.0)) * _points(1)[:, 0]
        floors = np.full(POINTS, aim.floor)
    else:
        root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(mean)))
        joint = mean + _points(len(mean)) @ root.T
        draws, floors = joint[:, 0], aim.floor * joint[:, 1:].max(axis=1)
    gap = draws - floors
    quality, floor = float(mean[0]), float(floors.mean())
    short = -float(np.quantile(gap, 1.0 - aim.confidence))
    return Standing(quality, floor, float(gap.std()), short, float((gap >= 0).mean()))


@lru_cache(maxsize=32)
def _points(dimensions: int) -> Floats:
    """Fixed points, so that the same scores always give the same plan; mean 0, and as many above as below."""
    half = np.random.default_rng(20261122).standard_normal((POINTS // 2, dimensions))
    return np.vstack([half, -half])
