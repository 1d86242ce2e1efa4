"""What was observed: scored answers of this run and of past ones, and the population they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.lots import Sent, sent_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observations:
    """Scored answers: three columns of one length."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]
    """Index into the run's endpoints."""
    score: Floats

    def __len__(self) -> int:
        return len(self.row)

    def plus(self, other: Observations) -> Observations:
        return Observations(
            np.concatenate([self.row, other.row]),
            np.concatenate([self.endpoint, other.endpoint]),
            np.concatenate([self.score, other.score]),
        )

    def where(self, chosen: NDArray[np.bool_]) -> Observations:
        return Observations(self.row[chosen], self.endpoint[chosen], self.score[chosen])


def no_observations() -> Observations:
    return Observations(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0))


@dataclass(frozen=True, slots=True)
class PastScores:
    """Scores of past nights: columns of one length. A task or an endpoint that tonight has not, or an endpoint that got
    worse since (thirdshift.router.prediction.drift), is to be left out by who asks."""

    task: NDArray[np.int32]
    endpoint: NDArray[np.int32]
    score: Floats
    request: NDArray[np.int64] | None = None
    """Scores with one number were of one request. None: each is of its own."""

    def plus(self, other: PastScores) -> PastScores:
        """Add scores; requests keep their numbers where both sides have them, which then mean the same requests."""
        request = (
            None
            if self.request is None or other.request is None
            else np.concatenate([self.request, other.request])
        )
        return PastScores(
            np.concatenate([self.task, other.task]),
            np.concatenate([self.endpoint, other.endpoint]),
            np.concatenate([self.score, other.score]),
            request,
        )

    def without(self, endpoints: Sequence[int]) -> PastScores:
        kept = ~np.isin(self.endpoint, list(endpoints))
        request = None if self.request is None else self.request[kept]
        return PastScores(self.task[kept], self.endpoint[kept], self.score[kept], request)


def no_past() -> PastScores:
    return PastScores(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))


@dataclass(frozen=True, slots=True)
class Population:
    """What is known of all requests before any is answered. `row` is the position."""

    task: NDArray[np.int32]
    """Shape (n,): each request's task, 0 … tasks - 1."""
    text: NDArray[np.float32]
    """Shape (n, width): thirdshift.router.prediction.features; width 0 where text is not to be used."""
    tasks: int
    weight: Floats | None = None
    """Shape (n,): for how many requests of the input a row stands; 0 for a past night's. None: one each."""
    sent: Sent = None
    """Shape (n,): how many of those are answered themselves, where a row has several that are alike. None: one each."""

    def __len__(self) -> int:
        return len(self.task)

    def plain(self) -> Population:
        """Without the text."""
        return replace(self, text=self.text[:, :0])

    def part(self, rows: NDArray[np.int64], weight: Floats) -> Population:
        """Some rows that stand for all."""
        own = weight if self.weight is None else weight * self.weight[rows]
        return Population(self.task[rows], self.text[rows], self.tasks, own, sent_of(self.sent, rows))
