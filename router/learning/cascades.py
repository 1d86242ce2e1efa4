"""Cascades: what a night does whose scores are free. Serve, look, send on what failed, stop at the floor.

A cascade is an order of endpoints that one request goes through until an answer is right. Its expected cost and score
follow from the prediction and from what the request's own scores say: where one endpoint was wrong, others are likelier
to be. Each is a column beside the endpoints' own, so the cheapest assignment that reaches the floor is found as for
endpoints; of what it says only the first step is done, and then it is reckoned again with what came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
class Barred:
    """Endpoints that there is no time for at some place of an order."""

    first: frozenset[int] = frozenset()
    later: frozenset[int] = frozenset()

    def allows(self, order: tuple[int, ...], *, begun: bool) -> bool:
        """Whether requests may go through the endpoints in this order. `begun`: some have answered already, so that its
        first step may be taken at once or after others."""
        return self.later.isdisjoint(order[1:]) and (begun or self.first.isdisjoint(order[:1]))


NONE_BARRED = Barred()


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
    barred: Barred = NONE_BARRED,
) -> Iterator[Cascades]:
    """By what requests have been tried on. `score`: NaN where not tried. `explore`: each request in one of the worlds that
    belief leaves possible, so that an endpoint is tried about as often as it is likely to be the bargain."""
    for kind in _kinds(score, cost_usd, allowed):
        rows = kind.rows
        if explore:
            expected = np.empty((len(rows), score.shape[1]))
            world = rng.integers(WORLDS, size=len(rows))
            for w in range(WORLDS):
                expected[world == w] = predictor.draw(population, rows[world == w], rng)
        else:
            expected = predictor.posterior.expected(population.task[rows], population.text[rows])
        yield _weighed(kind, predictor, expected[None], [_sample(rows, rng)], depth, barred)[0]


def in_worlds(
    worlds: Iterable[Predictor],
    population: Population,
    score: Floats,
    cost_usd: Floats,
    allowed: NDArray[np.bool_],
    rng: np.random.Generator,
    barred: Barred,
) -> list[list[Cascades]]:
    """`cascades` of the same requests in each of several worlds, reckoned together. At least one world."""
    kinds = list(_kinds(score, cost_usd, allowed))
    # `worlds` may draw from `rng`: a world's samples follow on its own draw
    drawn = [(world, [_sample(kind.rows, rng) for kind in kinds]) for world in worlds]
    columns = []
    for k, kind in enumerate(kinds):
        task, text = population.task[kind.rows], population.text[kind.rows]
        expected = np.stack([world.posterior.expected(task, text) for world, _ in drawn])
        some = [samples[k] for _, samples in drawn]
        columns.append(_weighed(kind, drawn[0][0], expected, some, DEPTH, barred))
    return [[column[w] for column in columns] for w in range(len(drawn))]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Requests that were tried on the same endpoints, none of them right yet."""

    rows: NDArray[np.int64]
    held: Floats
    """The best score of each."""
    score: Floats
    """[rows, endpoints]"""
    seen: NDArray[np.bool_]
    """[endpoints]"""
    cost: Floats
    """[rows, endpoints] infinite where one may not be asked, or was."""


def _kinds(score: Floats, cost_usd: Floats, allowed: NDArray[np.bool_]) -> Iterator[_Kind]:
    kinds, kind = np.unique(~np.isnan(score), axis=0, return_inverse=True)
    for k, seen in enumerate(kinds):
        rows = np.flatnonzero(kind.ravel() == k)
        held = np.nan_to_num(score[np.ix_(rows, np.flatnonzero(seen))]).max(axis=1, initial=0.0)
        rows, held = rows[held < RIGHT], held[held < RIGHT]
        if len(rows):
            cost = np.where(allowed[rows] & ~seen, cost_usd[rows], np.inf)
            yield _Kind(rows, held, score[rows], seen, np.where(np.isfinite(cost), cost, np.inf))


def _sample(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(len(rows))[:SAMPLE])


@dataclass(slots=True)
class _Chances:
    """What each endpoint is expected to score, beside what a request has scored and failed before."""

    residual: bytes
    """The covariance of what is left unexplained, [endpoints, endpoints] of float64: a key of `_gain`."""
    expected: Floats
    """[endpoints, rows] before the requests' own scores."""
    score: Floats
    """[rows, endpoints]"""
    seen: NDArray[np.bool_]

    def of(self, some: NDArray[np.int64]) -> _Chances:
        return _Chances(self.residual, self.expected[:, some], self.score[some], self.seen)

    def after(self, failed: tuple[int, ...], endpoint: int) -> Floats:
        """[rows] what `endpoint` is expected to score where besides `failed` scored nothing."""
        seen = np.flatnonzero(self.seen).tolist()
        at = [*seen, *failed]
        mean: Floats = self.expected[endpoint].copy()
        for place, gain in enumerate(
            _gain(self.residual, len(self.expected), tuple(at), endpoint) if at else ()
        ):
            scored = self.score[:, at[place]] if place < len(seen) else 0.0
            mean += gain * (scored - self.expected[at[place]])
        np.maximum(mean, UNSURE, out=mean)
        np.minimum(mean, 1.0 - UNSURE, out=mean)
        return mean


@lru_cache(maxsize=4096)
def _gain(residual: bytes, endpoints: int, at: tuple[int, ...], endpoint: int) -> Floats:
    """How far each score at `at` moves what is expected of `endpoint`: the same for all requests and in every world."""
    covariance = np.frombuffer(residual, np.float64).reshape(endpoints, endpoints)
    return np.asarray(np.linalg.solve(covariance[np.ix_(at, at)], covariance[at, endpoint]), np.float64)


def _weighed(
    kind: _Kind,
    predictor: Predictor,
    expected: Floats,
    samples: list[NDArray[np.int64]],
    depth: int,
    barred: Barred,
) -> list[Cascades]:
    """In each world. `expected`: [worlds, rows, endpoints]; `samples`: positions in `rows`, equally many in each."""
    worlds, count, endpoints = expected.shape
    residual = predictor.covariances.residual.astype(np.float64).tobytes()
    held, cost = np.tile(kind.held, worlds), np.tile(kind.cost, (worlds, 1))
    flat = np.ascontiguousarray(expected.reshape(-1, endpoints).T)
    chances = _Chances(residual, flat, np.tile(kind.score, (worlds, 1)), kind.seen)
    sample = np.concatenate([world * count + rows for world, rows in enumerate(samples)])
    looked = held[sample], chances.of(sample), cost[sample]
    usual = _usual(kind.cost)

    def by_world(columns: tuple[Floats, Floats]) -> list[tuple[Floats, Floats]]:
        shape = (
            worlds,
            len(columns[0]) // worlds,
            columns[0].shape[1],
        )  # of no order, where nobody is left to ask
        spent, reached = (column.reshape(shape) for column in columns)
        return list(zip(spent, reached, strict=True))

    able = np.flatnonzero(np.isfinite(kind.cost).any(axis=0)).tolist()
    singles: list[tuple[int, ...]] = [(endpoint,) for endpoint in able]
    if len(able) > WIDE:
        best = _competing(*_columns(singles, usual, *looked), WIDE)
        able = [able[place] for place in best.tolist()]
    begun = bool(kind.seen.any())
    every = singles + [order for length in range(2, depth + 1) for order in permutations(able, length)]
    every = [order for order in every if barred.allows(order, begun=begun)]
    weighed = by_world(_columns(every, usual, *looked))
    alone = np.array([len(order) == 1 for order in every], np.bool_)  # any of them may have to serve
    chosen = [_with(alone, _competing(spent, reached)) for spent, reached in weighed]
    if len(sample) < len(held):
        used = np.unique(np.concatenate(chosen))
        weighed = by_world(_columns([every[c] for c in used], usual, held, chances, cost))
        places = [np.searchsorted(used, mine) for mine in chosen]
    else:
        places = chosen
    stay = np.full((count, 1), 0.0 if kind.seen.any() else np.inf)
    return [
        Cascades(
            kind.rows,
            ((), *(every[c] for c in mine)),
            np.hstack([stay, spent[:, at]]),
            np.hstack([kind.held[:, None], reached[:, at]]),
        )
        for (spent, reached), mine, at in zip(weighed, chosen, places, strict=True)
    ]


def _with(some: NDArray[np.bool_], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of `some`, and these, ascending."""
    both = some.copy()
    both[places] = True
    return np.flatnonzero(both)


def _columns(
    every: list[tuple[int, ...]], usual: Floats, held: Floats, chances: _Chances, cost: Floats
) -> tuple[Floats, Floats]:
    """[rows, cascades] expected cost and score in the end. Whatever the order, the same endpoints are believed to reach the
    same, as reckoned from the cheapest upwards: no order is dearer for the sake of an approximation."""
    if not every:
        return np.zeros((len(held), 0)), np.zeros((len(held), 0))
    upwards = [tuple(sorted(order, key=lambda e: (usual[e], e))) for order in every]
    known: dict[tuple[int, ...], tuple[Floats, Floats, Floats]] = {}
    known[()] = (np.zeros(len(held)), held, np.ones(len(held)))
    beginnings = {order[:length] for order in every + upwards for length in range(1, len(order) + 1)}
    beginnings |= {(endpoint,) for order in every for endpoint in order}
    for order in sorted(beginnings, key=len):
        spent, reached, left = known[order[:-1]]
        chance = chances.after(order[:-1], order[-1])
        if len(order) > 1:  # together they are right at least as often as the last alone
            alone = known[order[-1:]][2]
            chance = np.maximum(chance, np.clip(1.0 - alone / left, 0.0, 1.0 - UNSURE))
        known[order] = (
            spent + left * cost[:, order[-1]],
            reached + left * chance * (1.0 - held),
            left * (1.0 - chance),
        )
    return (
        np.stack([known[order][0] for order in every], axis=1),
        np.stack([known[order][1] for order in upwards], axis=1),
    )


def _usual(cost: Floats) -> Floats:
    """[endpoints] what an answer costs in the mean; infinite where none may be asked."""
    finite = np.where(np.isfinite(cost), cost, np.nan)
    mean = np.nanmean(np.where(np.isnan(finite).all(axis=0), np.inf, finite), axis=0)
    return np.asarray(np.nan_to_num(mean, nan=np.inf), np.float64)


def _competing(cost: Floats, quality: Floats, most: int = CANDIDATES) -> NDArray[np.int64]:
    """Cascades that are the best of some request at some price of quality: the most frequent ones."""
    if not cost.size:
        return np.zeros(0, np.int64)
    finite = np.isfinite(cost)
    if not finite.any():
        return np.zeros(0, np.int64)
    least = max(float(cost[finite].min()), 1e-12)
    prices = np.geomspace(0.2 * least, 100.0 * float(cost[finite].max()) + least, PRICES)
    best, net = np.empty((PRICES, len(cost)), np.intp), np.empty(cost.shape)
    for price, at in zip(prices, best, strict=True):
        np.subtract(cost, np.multiply(quality, price, out=net), out=net).argmin(axis=1, out=at)
    wins = np.bincount(best.ravel(), minlength=cost.shape[1])
    order = np.argsort(-wins, kind="stable")[:most]
    return np.sort(order[wins[order] > 0])
