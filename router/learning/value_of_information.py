"""What the night would cost if it were planned on what is known now, and what more knowledge would be worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.greedy_path import Ladder, climb
from thirdshift.router.learning.quality_target import QualityTarget, Standing, standing
from thirdshift.router.prediction.observations import Population
from thirdshift.router.prediction.predict import Predictor

Floats = NDArray[np.float64]

BEST_SHARE = 0.005
"""An anchor that is the best with less probability is left out of the reckoning."""


@dataclass(frozen=True, slots=True)
class AssignmentPath:
    """The cheapest assignment that is sure enough, and the whole path it lies on."""

    predictor: Predictor
    population: Population
    aim: QualityTarget
    """With only those anchors that may be the best."""
    cost_usd: Floats
    """Shape (n, endpoints), what an answer still costs: 0 where it is held."""
    quality: NDArray[np.float32]
    """Shape (n, endpoints), as predicted without a request's own scores."""
    ladder: Ladder
    steps: int
    choice: NDArray[np.int32]
    standing: Standing
    reached: Floats
    """Mean quality after each step of the ladder, shape (steps + 1,)."""
    spent: Floats
    """What it costs after each step, shape (steps + 1,)."""

    @property
    def sure(self) -> bool:
        """Whether any assignment clears the floor with the confidence asked; if not, `choice` is the best there is."""
        return self.standing.short <= 0

    def price(self, quality: float) -> float:
        """USD per point of one request's quality where the mean is `quality`."""
        if not len(self.ladder):
            return 0.0
        at = min(int(np.searchsorted(self.reached[1:], quality)), len(self.ladder) - 1)
        return float(self.ladder.cost_usd[at] / self.ladder.quality[at])

    def cost_of(self, quality: float) -> float:
        """USD for a mean of `quality`; what is beyond reach costs the last step's price and more."""
        at = int(np.searchsorted(self.reached, quality))
        if at < len(self.reached):
            return float(self.spent[at])
        beyond = float(quality - self.reached[-1]) * len(self.population)
        dearest = float(self.cost_usd.mean(axis=0).max())
        return float(self.spent[-1]) + beyond * max(self.price(quality), dearest)


def look_out(
    predictor: Predictor,
    population: Population,
    quality: NDArray[np.float32],
    cost_usd: Floats,
    aim: QualityTarget,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> AssignmentPath:
    """`cost_usd`: what answers still cost, 0 where held. `quality`: see `thirdshift.router.prediction.predict.crossed`."""
    ladder = climb(cost_usd, quality, allowed)
    likely = QualityTarget(aim.floor, contenders(predictor, population, ladder.start, aim), aim.confidence)
    low, high = 0, len(ladder)
    while low < high:
        middle = (low + high) // 2
        point_standing = standing(predictor, population, ladder.at(middle), likely)
        low, high = (low, middle) if point_standing.short <= 0 else (middle + 1, high)
    choice = ladder.at(low)
    reached, spent = _path(ladder, population, cost_usd, quality)
    at = standing(predictor, population, choice, likely)
    reached += at.quality - reached[low]  # what own scores say of the requests looked at
    return AssignmentPath(
        predictor, population, likely, cost_usd, quality, ladder, low, choice, at, reached, spent
    )


def _path(
    ladder: Ladder, population: Population, cost_usd: Floats, quality: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    weight = np.ones(len(population)) if population.weight is None else population.weight
    served = np.flatnonzero(ladder.start >= 0)
    first = ladder.start[served]
    gained = np.concatenate([[weight[served] @ quality[served, first]], weight[ladder.row] * ladder.quality])
    added = np.concatenate([[weight[served] @ cost_usd[served, first]], weight[ladder.row] * ladder.cost_usd])
    return np.cumsum(gained) / weight.sum(), np.cumsum(added)


def best_chances(
    predictor: Predictor, population: Population, choice: NDArray[np.integer], baselines: tuple[int, ...]
) -> dict[int, float]:
    """The probability of each anchor to have the best mean of all."""
    if len(baselines) < 2:
        return dict.fromkeys(baselines, 1.0)
    mean, covariance = predictor.means(population, choice, baselines)
    root = np.linalg.cholesky(covariance[1:, 1:] + 1e-12 * np.eye(len(baselines)))
    draws = mean[1:] + np.random.default_rng(20261122).standard_normal((2000, len(baselines))) @ root.T
    wins = np.bincount(draws.argmax(axis=1), minlength=len(baselines)) / len(draws)
    return {baseline: float(share) for baseline, share in zip(baselines, wins, strict=True)}


def contenders(
    predictor: Predictor, population: Population, choice: NDArray[np.integer], aim: QualityTarget
) -> tuple[int, ...]:
    chances = best_chances(predictor, population, choice, aim.baselines)
    return tuple(baseline for baseline in aim.baselines if chances[baseline] >= BEST_SHARE)
