"""How hard a request is expected to be, for people to read: the share of the endpoints that is expected to fail at it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Observations, PastScores, Population
from thirdshift.router.prediction.predict import FOLDS, learnt, without

Floats = NDArray[np.float64]

ALIKE = 1e-6
"""Requests whose figures differ by no more are told from each other by nothing."""


def difficulty(
    observations: Observations, population: Population, priors: Floats, *, past: PastScores | None = None
) -> Floats:
    """Return [n] how hard each request is, 0 easy to 1 hard; NaN where what is known tells no request from another.

    What a text tells is learnt without the request's own scores. The level of a task is one for all its requests: one that
    leaves out a request's scores is the lower, the better they were, and calls hard what was answered.
    """
    predictor, population = learnt(observations, population, priors, past=past)
    task, text, posterior = population.task, population.text, predictor.posterior
    expected = posterior.expected(task, text)
    rows = np.unique(observations.row)
    if text.shape[1]:
        centre = _centres(population)[task]
        fold = np.random.default_rng(0).permutation(len(rows)) % FOLDS
        for k in range(FOLDS):
            held = rows[fold == k]
            others = without(
                predictor, observations.where(~np.isin(observations.row, held)), population, priors
            )
            level = posterior.expected(task[held], centre[held])
            expected[held] = (
                level + (text[held] - centre[held]).astype(np.float64) @ others.posterior.common[1:]
            )
    hard: Floats = 1.0 - np.clip(expected, 0.0, 1.0).mean(axis=1)
    return hard if len(hard) and np.ptp(hard) > ALIKE else np.full(len(hard), np.nan)


def _centres(population: Population) -> NDArray[np.float32]:
    """[tasks, width] the mean text of each task."""
    count = np.bincount(population.task, minlength=population.tasks).clip(1)
    sums = [np.bincount(population.task, column, population.tasks) for column in population.text.T]
    means: NDArray[np.float32] = (np.stack(sums, axis=1) / count[:, None]).astype(np.float32)
    return means
