"""Cascades: what a night does whose scores are free. Serve, look, send on what failed, stop at the floor.

A cascade is an order of endpoints that one request goes through until an answer is right. Its expected cost and score
follow from the prediction and from what the request's own scores say: where one endpoint was wrong, others are likelier
to be. Each is a column beside the endpoints' own, so the cheapest assignment that reaches the floor is found as for
endpoints; of what it says only the first step is done, and then it is reckoned again with what came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import Predictor

Floats = NDArray[np.float64]

DEPTH = 3
"""Steps looked ahead; what comes later is reckoned when it is near."""
WIDE = 8
"""Endpoints whose orders are all weighed. Of more (orders grow with their cube) those that are a request's best alone."""
CANDIDATES = 16
"""Cascades that are weighed for all requests of one kind, chosen on a sample of them."""
SAMPLE = 400
PRICES = 24
"""Prices of quality at which cascades of the sample compete to be candidates."""
WORLDS = 8
"""Worlds that are drawn from belief where it is explored."""
UNSURE = 1e-3
"""No chance is believed to be nearer to 0 or 1 than that."""
RIGHT = 1.0 - 1e-9
"""A score from which nothing is sent on."""


@dataclass(frozen=True, slots=True)
class Cascades:
    """What can still be done about some requests: columns of shape (rows, candidates), the first is to leave them."""

    row: NDArray[np.int64]
    steps: tuple[tuple[int, ...], ...]
    """The endpoints of each candidate in order; empty for leaving it."""
    cost_usd: Floats
    """Expected, of answers still to be bought; infinite where one is not allowed or was had."""
    quality: Floats
    """The score expected in the end."""


def known_scores(observations: Observations, shape: tuple[int, int]) -> Floats:
    """[requests, endpoints] scores, NaN where there is none."""
    score = np.full(shape, np.nan)
    score[observations.row, observations.endpoint] = observations.score
    return score


def cascades(
    predictor: Predictor,
    population: Population,
    score: Floats,
    cost_usd: Floats,
    allowed: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    explore: bool = False,
    depth: int = DEPTH,
) -> Iterator[Cascades]:
    """By what requests have been tried on. `score`: NaN where not tried. `explore`: each request in one of the worlds that
    belief leaves possible, so that an endpoint is tried about as often as it is likely to be the bargain."""
    tried = ~np.isnan(score)
    kinds, kind = np.unique(tried, axis=0, return_inverse=True)
    residual = predictor.covariances.residual.astype(np.float64).tobytes()
    for k, seen in enumerate(kinds):
        rows = np.flatnonzero(kind.ravel() == k)
        held = np.nan_to_num(score[np.ix_(rows, np.flatnonzero(seen))]).max(axis=1, initial=0.0)
        rows, held = rows[held < RIGHT], held[held < RIGHT]
        if not len(rows):
            continue
        if explore:
            expected = np.empty((len(rows), len(seen)))
            world = rng.integers(WORLDS, size=len(rows))
            for w in range(WORLDS):
                expected[world == w] = predictor.draw(population, rows[world == w], rng)
        else:
            expected = predictor.posterior.expected(population.task[rows], population.text[rows])
        chances = _Chances(residual, expected, score[rows], seen)
        open_ = allowed[rows] & ~seen & np.isfinite(cost_usd[rows])
        yield _weighed(
            rows, held, chances, np.where(open_, cost_usd[rows], np.inf), bool(seen.any()), depth, rng
        )


@dataclass(slots=True)
class _Chances:
    """What each endpoint is expected to score, beside what a request has scored and failed before."""

    residual: bytes
    """The covariance of what is left unexplained, [endpoints, endpoints] of float64: a key of `_gain`."""
    expected: Floats
    """[rows, endpoints] before the requests' own scores."""
    score: Floats
    seen: NDArray[np.bool_]

    def after(self, failed: tuple[int, ...], endpoint: int, some: NDArray[np.int64] | slice) -> Floats:
        """[some] what `endpoint` is expected to score where besides `failed` scored nothing."""
        at = [*np.flatnonzero(self.seen).tolist(), *failed]
        mean = self.expected[some, endpoint]
        if at:
            gain = _gain(self.residual, self.expected.shape[1], tuple(at), endpoint)
            scored = self.score[some][:, at].copy()
            scored[:, len(at) - len(failed) :] = 0.0
            mean = mean + (scored - self.expected[some][:, at]) @ gain
        clipped: Floats = np.clip(mean, UNSURE, 1.0 - UNSURE)
        return clipped


@lru_cache(maxsize=4096)
def _gain(residual: bytes, endpoints: int, at: tuple[int, ...], endpoint: int) -> Floats:
    """How far each score at `at` moves what is expected of `endpoint`: the same for all requests and in every world."""
    covariance = np.frombuffer(residual, np.float64).reshape(endpoints, endpoints)
    return np.asarray(np.linalg.solve(covariance[np.ix_(at, at)], covariance[at, endpoint]), np.float64)


def _weighed(
    rows: NDArray[np.int64],
    held: Floats,
    chances: _Chances,
    cost: Floats,
    served: bool,
    depth: int,
    rng: np.random.Generator,
) -> Cascades:
    sample = np.sort(rng.permutation(len(rows))[:SAMPLE])
    able = np.flatnonzero(np.isfinite(cost).any(axis=0)).tolist()
    singles: list[tuple[int, ...]] = [(endpoint,) for endpoint in able]
    if len(able) > WIDE:
        best = _competing(*_columns(singles, held, chances, cost, sample), WIDE)
        able = [able[place] for place in best.tolist()]
    every = singles + [order for length in range(2, depth + 1) for order in permutations(able, length)]
    spent, reached = _columns(every, held, chances, cost, sample)
    alone = [place for place, order in enumerate(every) if len(order) == 1]  # any of them may have to serve
    chosen = np.union1d(_competing(spent, reached), alone).astype(np.int64)
    steps = [every[c] for c in chosen]
    if len(sample) < len(rows):
        spent, reached = _columns(steps, held, chances, cost, slice(None))
    else:
        spent, reached = spent[:, chosen], reached[:, chosen]
    stay = np.full((len(rows), 1), 0.0 if served else np.inf)
    return Cascades(rows, ((), *steps), np.hstack([stay, spent]), np.hstack([held[:, None], reached]))


def _columns(
    every: list[tuple[int, ...]],
    held: Floats,
    chances: _Chances,
    cost: Floats,
    some: NDArray[np.int64] | slice,
) -> tuple[Floats, Floats]:
    """[some, cascades] expected cost and score in the end. Whatever the order, the same endpoints are believed to reach the
    same, as reckoned from the cheapest upwards: no order is dearer for the sake of an approximation."""
    if not every:
        return np.zeros((len(held[some]), 0)), np.zeros((len(held[some]), 0))
    finite = np.where(np.isfinite(cost), cost, np.nan)
    usual = np.nan_to_num(
        np.nanmean(np.where(np.isnan(finite).all(axis=0), np.inf, finite), axis=0), nan=np.inf
    )
    upwards = [tuple(sorted(order, key=lambda e: (usual[e], e))) for order in every]
    known: dict[tuple[int, ...], tuple[Floats, Floats, Floats]] = {}
    start = held[some]
    known[()] = (np.zeros(len(start)), start, np.ones(len(start)))
    beginnings = {order[:length] for order in every + upwards for length in range(1, len(order) + 1)}
    beginnings |= {(endpoint,) for order in every for endpoint in order}
    for order in sorted(beginnings, key=len):
        spent, reached, left = known[order[:-1]]
        chance = chances.after(order[:-1], order[-1], some)
        if len(order) > 1:  # together they are right at least as often as the last alone
            alone = known[order[-1:]][2]
            chance = np.maximum(chance, np.clip(1.0 - alone / left, 0.0, 1.0 - UNSURE))
        known[order] = (
            spent + left * cost[some, order[-1]],
            reached + left * chance * (1.0 - start),
            left * (1.0 - chance),
        )
    return (
        np.stack([known[order][0] for order in every], axis=1),
        np.stack([known[order][1] for order in upwards], axis=1),
    )


def _competing(cost: Floats, quality: Floats, most: int = CANDIDATES) -> NDArray[np.int64]:
    """Cascades that are the best of some request at some price of quality: the most frequent ones."""
    if not cost.size:
        return np.zeros(0, np.int64)
    finite = np.isfinite(cost)
    if not finite.any():
        return np.zeros(0, np.int64)
    least = max(float(cost[finite].min()), 1e-12)
    prices = np.geomspace(0.2 * least, 100.0 * float(cost[finite].max()) + least, PRICES)
    wins = np.zeros(cost.shape[1])
    for price in prices:
        np.add.at(wins, (cost - price * quality).argmin(axis=1), 1.0)
    order = np.argsort(-wins, kind="stable")[:most]
    return np.sort(order[wins[order] > 0])
