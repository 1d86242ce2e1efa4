"""A night played on recorded outcomes in which every score is known at once and costs nothing: serve, look, send on."""

from __future__ import annotations

import numpy as np

from thirdshift.router.backtesting.played_night import (
    BacktestSettings,
    Played,
    certified,
    expected_costs,
    start,
)
from thirdshift.router.backtesting.recorded_outcomes import Outcomes
from thirdshift.router.learning.cascades import known_scores
from thirdshift.router.learning.free_scores import FreeScoresSituation, next_step
from thirdshift.router.prediction.observations import Population

MOST_ROUNDS = 80
"""Rounds at most; a night ends sooner where a round sends nothing."""


def play_free(
    outcomes: Outcomes, population: Population, settings: BacktestSettings, rng: np.random.Generator
) -> Played:
    """The whole night, step by step. Each request is served the best of the answers bought for it."""
    night = start(outcomes, population, settings, rng)
    allowed = np.ones(night.paid.shape, dtype=bool)
    for _ in range(MOST_ROUNDS):
        looks = next_step(
            FreeScoresSituation(
                population,
                expected_costs(night),
                allowed,
                night.priors,
                night.aim,
                night.seen,
                per_task=settings.per_task,
            ),
            rng,
        )
        if looks is None:
            break
        night.look(looks.row, looks.endpoint)
    score = np.nan_to_num(known_scores(night.seen, night.paid.shape), nan=-1.0)
    choice = score.argmax(axis=1).astype(np.int32)
    certificate = certified(night, choice, np.zeros(0, np.int64), 1)
    return Played(choice, np.zeros(len(outcomes), bool), night.paid, len(night.seen), certificate, 0)
