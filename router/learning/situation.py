"""What a pilot knows before a round of looking, and what it decides to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.first_looks import first_counts, worth_looking
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.learning.value_of_information import AssignmentPath, look_out
from thirdshift.router.prediction.observations import Observations, PastScores, Population, no_observations
from thirdshift.router.prediction.predict import learnt

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known before a round of looking. Columns have a row per request, `endpoint` counts the run's endpoints."""

    population: Population
    cost_usd: NDArray[np.float64] | NDArray[np.float32]
    """Shape (n, endpoints): what an answer is expected to cost; NaN in a column where nothing is known yet."""
    allowed: NDArray[np.bool_] | None
    """Shape (n, endpoints): policy and context windows; None: all."""
    priors: Floats
    """Shape (endpoints,): quality expected before anything was observed, NaN where unknown."""
    aim: QualityTarget
    observations: Observations
    """Scores of this run."""
    pilot: int
    """Requests that may be looked at at most."""
    looks: int
    """Answers (request x endpoint) that may be scored at most, those in `observations` counted."""
    rounds: int = 0
    """Rounds that were played."""
    past: PastScores | None = None
    """Scores of past nights, which spare looks tonight."""
    score_usd: float = 0.0
    """What a score costs besides the answer."""
    endpoints: int | None = None
    """So many of the first columns are endpoints, the others votes, which are looked at by their endpoints; None: all."""

    @property
    def width(self) -> int:
        """How many columns are endpoints."""
        return len(self.priors) if self.endpoints is None else self.endpoints

    @property
    def first(self) -> NDArray[np.int64]:
        """[endpoints] on how many requests each is tried first."""
        cost = np.asarray(self.cost_usd, np.float64)[:, : self.width]
        return first_counts(cost, len(self.population), self.score_usd)

    @property
    def most(self) -> int:
        """Answers that are worth scoring at most: where a score has its own price, what past nights scored spares some."""
        cost = np.asarray(self.cost_usd, np.float64)[:, : self.width]
        known = ~np.isnan(cost).all(axis=0)
        if self.score_usd <= 0.0 or not known.any():
            return self.looks
        worth = int(known.sum()) * worth_looking(cost[:, known], len(self.population), self.score_usd)
        return min(self.looks, worth - (0 if self.past is None else len(self.past.score)))


@dataclass(frozen=True, slots=True)
class Looks:
    """Pairs to have answered and scored: two columns of one length."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row)

    def plus(self, other: Looks) -> Looks:
        return Looks(np.concatenate([self.row, other.row]), np.concatenate([self.endpoint, other.endpoint]))


def together(rows: list[NDArray[np.int64]], endpoints: list[NDArray[np.int32]]) -> Looks:
    """Several parts as one."""
    none = no_observations()
    return Looks(np.concatenate([none.row, *rows]), np.concatenate([none.endpoint, *endpoints]))


def survey(situation: Situation) -> AssignmentPath:
    """The plan as it would be if nothing more were looked at."""
    seen, priors = situation.observations, situation.priors
    predictor, population = learnt(seen, situation.population, priors, past=situation.past)
    cost = np.array(situation.cost_usd, dtype=np.float64)
    paid = np.zeros(situation.width)
    np.add.at(paid, seen.endpoint[own := seen.endpoint < situation.width], cost[seen.row, seen.endpoint][own])
    cost[seen.row, seen.endpoint] = 0.0
    return look_out(
        predictor, population, predictor.predict(population), cost, situation.aim,
        allowed=situation.allowed, endpoints=situation.width, paid_usd=paid,
    )  # fmt: skip
