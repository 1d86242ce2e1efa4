"""Which answers to look at first, so that what is spent on learning is least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.aim import Aim
from router.predict import Observations, Population

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known before a round of looking. Columns have a row per request, `endpoint` counts the run's endpoints."""

    population: Population
    cost_usd: NDArray[np.float64] | NDArray[np.float32]
    """Shape (n, endpoints): what an answer is expected to cost, NaN where nothing is known yet."""
    allowed: NDArray[np.bool_] | None
    """Shape (n, endpoints): policy and context windows; None: all."""
    priors: Floats
    """Shape (endpoints,): quality expected before anything was observed, NaN where unknown."""
    aim: Aim
    observations: Observations
    """Of this run."""
    pilot: int
    """Requests that may be looked at at most."""
    looks: int
    """Answers (request x endpoint) that may be scored at most, those in `observations` counted."""
    rounds: int = 0
    """Rounds that were played."""


@dataclass(frozen=True, slots=True)
class Looks:
    """Pairs to have answered and scored: two columns of one length."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row)


def next_round(situation: Situation, rng: np.random.Generator) -> Looks | None:
    """None: looking at more would not pay, or is not allowed."""
    if situation.rounds or not situation.pilot:
        return None
    rows = stratified(situation.population.task, situation.pilot, rng)
    endpoints = len(situation.priors)
    row, endpoint = np.repeat(rows, endpoints), np.tile(np.arange(endpoints, dtype=np.int32), len(rows))
    if situation.allowed is not None:
        fine = situation.allowed[row, endpoint]
        row, endpoint = row[fine], endpoint[fine]
    return Looks(row[: situation.looks], endpoint[: situation.looks])


def stratified(task: NDArray[np.int32], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows at random, each task with its share (systematic sampling of a shuffle sorted by task)."""
    order = rng.permutation(len(task))
    order = order[np.argsort(task[order], kind="stable")]
    count = min(count, len(order))
    places = (np.arange(count) + rng.random()) * len(order) / max(1, count)
    return np.sort(order[np.minimum(places.astype(np.int64), len(order) - 1)])
