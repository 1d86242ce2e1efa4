"""A model that is not what it was: tonight's scores contradict what past nights predicted, and it is named.

Under the prediction each score is `expected` plus luck. The evidence that an endpoint got worse is a bet against that
(an e-process, valid at whatever moment one looks): stakes on scores being below what was expected, mixed over sizes of
the fall. All endpoints are watched, so each must convince `endpoints` times over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Observations, PastScores, Population, no_observations
from thirdshift.router.prediction.predict import fit

Floats = NDArray[np.float64]

STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""A fall of a tenth is found soonest by the stakes around 0.4; small ones find small falls in many scores."""
WORTH_SAYING = 0.02
"""A smaller fall of the mean is not reported, however sure."""
ERRORS = 2.0
"""Past nights saw so many scores of an endpoint and no more: its mean may have been lower by so many standard errors."""


@dataclass(frozen=True, slots=True)
class Drift:
    endpoint: str
    expected: float
    observed: float
    scored: int

    def sentence(self) -> str:
        return (
            f"{self.endpoint} got worse: mean score {self.observed:.2f} where {self.expected:.2f} was expected "
            f"({self.scored:,} scored); it is planned with what tonight shows"
        )


def since_then(
    names: tuple[str, ...], seen: Observations, population: Population, priors: Floats, past: PastScores
) -> list[Drift]:
    """The endpoints that are not what `past` says. `seen`: tonight's scores of requests drawn at random, in the order of
    looking; what went to an endpoint because it was thought to do well there, or badly elsewhere, tells nothing here."""
    if not len(past.score):
        return []
    known = np.bincount(past.endpoint, minlength=len(names))
    of = known[seen.endpoint] > 0
    seen = seen.where(of)
    plain = population.plain()
    predicted = fit(no_observations(), plain, priors, past=past).predict(plain)
    expected = predicted[seen.row, seen.endpoint].astype(np.float64)
    mean = np.bincount(past.endpoint, past.score, len(names)) / np.maximum(known, 1)
    error = np.sqrt(np.clip(mean * (1.0 - mean), 0.01, None) / np.maximum(known, 1))
    return worse(names, seen, expected - ERRORS * error[seen.endpoint])


def worse(
    names: tuple[str, ...], seen: Observations, expected: Floats, *, confidence: float = 0.99
) -> list[Drift]:
    """The endpoints whose scores tonight contradict their prediction.

    `expected`: shape (len(seen),), what past nights predicted for each pair, before tonight was learnt from. `seen`
    in the order of looking.
    """
    drifts = []
    for endpoint, name in enumerate(names):
        of = seen.endpoint == endpoint
        if not of.any():
            continue
        score, mean = seen.score[of], np.clip(expected[of], 0.01, 0.99)
        fall = float(mean.mean() - score.mean())
        if fall >= WORTH_SAYING and _evidence(score, mean) >= math.log(len(names) / (1.0 - confidence)):
            drifts.append(Drift(name, float(mean.mean()), float(score.mean()), int(of.sum())))
    return drifts


def _evidence(score: Floats, mean: Floats) -> float:
    """The log of the greatest wealth that betting on lower scores ever had; fair if the prediction is no too high."""
    paths = [np.cumsum(np.log1p(stake * (mean - score) / (1.0 - mean + stake))) for stake in STAKES]
    return float(np.logaddexp.reduce(np.stack(paths) - math.log(len(STAKES)), axis=0).max())
