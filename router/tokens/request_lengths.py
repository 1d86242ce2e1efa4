"""What the answers that a request has tell of the length of its next one.

What one model answers at length, another does too, within a task and a model (`benchmarks/lengths.py` tells by how much on
recorded outcomes). So a request that is sent on is priced by the answers that it has.

An answer's deviation is told in standard deviations of its endpoint's log lengths. Part of it is the request's own, the
same in all its answers (`share` of the variance); the rest is the answer's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

PRIOR_ALIKE, PRIOR_REQUESTS = 0.4, 30.0
"""The share before any request was answered twice, as most recorded outcomes have it; it counts as so many requests that
were."""
MOST_SHARE = 0.9
MOST = 3.0
"""Deviations beyond so many standard deviations say no more."""


def expected_factor(answers: Ints, total: Floats, share: float, sigma: Floats | float) -> Floats:
    """By how much longer than usual the next answer is expected to be, in the mean 1.

    `answers`: how many are known of each request; `total`: the sum of their deviations; `sigma`: spread of the log lengths
    at the endpoint that is asked.
    """
    gain = share / (1.0 + np.maximum(answers - 1, 0) * share)
    return np.asarray(
        np.exp(sigma * gain * total - np.square(sigma) * share * answers * gain / 2.0), np.float64
    )


@dataclass(frozen=True, slots=True)
class RequestAnswers:
    """Answers with how much longer than usual each was, by request."""

    request: Ints
    """[requests] those that were answered, ascending."""
    answers: Ints
    """[requests] how many each has."""
    total: Floats
    """[requests] the sum of their deviations."""
    place: Ints
    """[answers] the position of each one's request."""
    deviation: Floats
    """[answers]"""

    @staticmethod
    def of(request: Ints, deviation: Floats) -> RequestAnswers:
        """Group answers. Both are [answers]."""
        known, place, answers = np.unique(request, return_inverse=True, return_counts=True)
        total = np.bincount(place, deviation, len(known)).astype(np.float64)
        return RequestAnswers(known, answers, total, place, deviation)

    def share(self, endpoint: Ints) -> float:
        """The share of the variance that the answers of one request have in common. `endpoint`: [answers].

        Who is asked for the second answer was often chosen by the first, which leaves those alike: so each endpoint's
        deviations are taken from their mean there, and those that spread wider are told by those that spread less.
        """
        several = self.answers[self.place] > 1
        if not several.any():
            return PRIOR_ALIKE
        rows, row = np.unique(self.place[several], return_inverse=True)
        told = np.full((len(rows), int(endpoint.max()) + 1), np.nan)
        told[row, endpoint[several]] = self.deviation[several]
        told = told[:, ~np.isnan(told).all(axis=0)]
        told -= np.nanmean(told, axis=0)
        spread, has = np.nanvar(told, axis=0), ~np.isnan(told)
        told = np.where(has, told, 0.0)
        tells = (spread[:, None] <= spread) & ~np.eye(len(spread), dtype=bool)
        alike, whole = (told.T @ told)[tells].sum(), ((told**2).T @ has)[tells].sum()
        found = float(alike / whole) if whole > 0 else 0.0
        share = (PRIOR_REQUESTS * PRIOR_ALIKE + len(rows) * found) / (PRIOR_REQUESTS + len(rows))
        return float(np.clip(share, 0.0, MOST_SHARE))

    def told_by_others(self, share: float, sigma: Floats) -> Floats:
        """[answers] by how much longer than usual each was to be expected by the other answers of its request."""
        others = self.total[self.place] - self.deviation
        return expected_factor(self.answers[self.place] - 1, others, share, sigma)

    def have_told(self, output_tokens: NDArray[np.float32], most: Ints, share: float, sigma: Floats) -> None:
        """Have these requests take in `output_tokens` [all, endpoints] what their answers tell.

        `most`: [all] the ceiling of each; `sigma`: [endpoints].
        """
        for e in range(output_tokens.shape[1]):
            factor = expected_factor(self.answers, self.total, share, float(sigma[e]))
            output_tokens[self.request, e] = np.minimum(
                output_tokens[self.request, e] * factor, most[self.request]
            )
