"""What the night would cost if it were planned on what is known now, and what more knowledge would be worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.greedy_path import Ladder, climb
from thirdshift.router.learning.quality_target import QualityTarget, Standing, standing
from thirdshift.router.prediction.observations import Population
from thirdshift.router.prediction.predict import Predictor

Floats = NDArray[np.float64]

PLACES = 16
"""Places on the path at which the surest is sought where none is sure enough."""
SURER = 0.01
"""A difference of probabilities that is not worth paying for."""
NEARER = 0.002
"""A difference of quality that is not, where the floor is out of reach."""
EVEN = 0.5
MAYBE = 0.05
"""An endpoint with less chance to be the best is no measure of what a night may cost."""
KNOWN = 8
"""Scores below which a dear endpoint is not ruled out."""
NEAR = 1e-9
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
    outright_usd: float = np.inf
    """What is left of the bill of the dearest endpoint that may be the best."""

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
        """USD for a mean of `quality`; what is beyond reach costs the last step's price and more, and nothing costs more
        than the endpoint that is likely the best for everything: looking at more saves no more than that."""
        return min(self._cost_of(quality), self.outright_usd)

    def _cost_of(self, quality: float) -> float:
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
    endpoints: int | None = None,
    paid_usd: Floats | None = None,
) -> AssignmentPath:
    """`cost_usd`: what answers still cost, 0 where held. `quality`: see `thirdshift.router.prediction.predict.crossed`.
    `endpoints`: so many of the first columns are endpoints, the others votes; None: all. `paid_usd`: [endpoints] what
    answers held have cost.

    Nothing is chosen with which the night would cost more than everything from the dearest endpoint that may be the best.
    Where nothing within that is sure enough, it is what is surest, as to pay more for the same doubt would be no remedy;
    asked for no more than an even chance, it is what is expected to be the best."""
    ladder = climb(cost_usd, quality, allowed)
    likely = QualityTarget(aim.floor, contenders(predictor, population, ladder.start, aim), aim.confidence)
    reached, spent = _path(ladder, population, cost_usd, quality)
    width = len(predictor.covariances.ability) if endpoints is None else endpoints
    paid = np.zeros(width) if paid_usd is None else paid_usd
    alone, limit = outright(predictor, population, cost_usd, paid, ladder.start, allowed)
    most = max(0, int(np.searchsorted(spent, limit * (1.0 + NEAR), side="right")) - 1)

    def at(steps: int) -> Standing:
        return standing(predictor, population, ladder.at(steps), likely)

    steps = cheapest_sure(at, most)
    choice, found = ladder.at(steps), at(steps)
    if found.short > 0 and aim.confidence > EVEN:
        steps = _surest(at, most)
        choice, found = ladder.at(steps), at(steps)
        simple = standing(predictor, population, alone, likely)
        if _surer(simple, found) and _bill(cost_usd, population, alone) <= limit * (1.0 + NEAR):
            choice, found = alone, simple
    reached += at(steps).quality - reached[steps]  # what own scores say of the requests looked at
    return AssignmentPath(
        predictor, population, likely, cost_usd, quality, ladder, steps, choice, found, reached, spent, limit
    )


def cheapest_sure(at: Callable[[int], Standing], most: int) -> int:
    """The first step that is sure enough, by halving, as if no later one were less sure; `most` where none is.

    What is as likely as not to be enough comes before: where all its scores are known it is sure, and steps after it, whose
    scores are not, are less so until many of them have been made."""
    even = _first(lambda step: at(step).sure >= EVEN, 0, most)
    return even if at(even).short <= 0 else _first(lambda step: at(step).short <= 0, even, most)


def _first(enough: Callable[[int], bool], low: int, high: int) -> int:
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _surest(at: Callable[[int], Standing], most: int) -> int:
    """The step that is likeliest to clear the floor; where none has a chance, that which comes nearest to it. Several dear
    endpoints that are each the best in some tasks may be less sure together than one of them alone, so the last step need
    not be it. Or the first that is sure enough."""
    places = np.unique(np.linspace(0, most, PLACES).astype(int)).tolist()
    found: list[Standing] = []
    for before, place in zip([0, *places], places, strict=False):
        here = at(place)
        if here.short <= 0:
            return _first(lambda step: at(step).short <= 0, before, place)
        found.append(here)
    best = max(found, key=_nearness)
    return int(next(place for place, each in zip(places, found, strict=True) if not _surer(best, each)))


def _nearness(stand: Standing) -> tuple[float, float]:
    """What is likelier to clear the floor is nearer to it; of what has no chance, what falls short by less."""
    return (stand.sure if stand.sure > SURER else 0.0), -stand.short


def _surer(one: Standing, other: Standing) -> bool:
    """Whether one is so much surer than another that it may cost more."""
    if max(one.sure, other.sure) <= SURER:
        return one.short < other.short - NEARER
    return one.sure > other.sure + SURER


def outright(
    predictor: Predictor,
    population: Population,
    cost_usd: Floats,
    paid: Floats,
    start: NDArray[np.int32],
    allowed: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int32], float]:
    """Everything to the endpoint that is likeliest the best; where it may not be asked, to the cheapest. And what is left
    of the bill of the dearest endpoint that may yet be the best.

    `start`: the cheapest endpoint of each request."""

    def alone(endpoint: int) -> NDArray[np.int32]:
        can = start >= 0 if allowed is None else allowed[:, endpoint]
        return np.where(can, endpoint, start).astype(np.int32)

    bills = {e: paid[e] + _bill(cost_usd, population, alone(e)) for e in range(len(paid))}
    likeliest, others = rivals(predictor, population, start, np.array(list(bills.values())))
    return alone(likeliest), max(0.0, max(bills[e] for e in (likeliest, *others)) - float(paid.sum()))


def usual_costs(cost_usd: NDArray[np.floating]) -> Floats:
    """[endpoints] what an answer costs in the mean; infinite where nobody knows. `cost_usd`: [n, endpoints]"""
    usual: Floats = np.asarray(cost_usd, np.float64).mean(axis=0)
    return np.where(np.isnan(usual), np.inf, usual)


def rivals(
    predictor: Predictor, population: Population, choice: NDArray[np.integer], usual: Floats
) -> tuple[int, list[int]]:
    """The endpoint that is likeliest the best, and all others that may yet be: those with some chance, and dearer ones of
    which too little is known to say. `usual`: [endpoints] what they cost."""
    chances = best_chances(predictor, population, choice, tuple(range(len(usual))))
    likeliest = max(chances, key=lambda endpoint: chances[endpoint])
    known = predictor.counts
    return likeliest, [
        e
        for e, chance in chances.items()
        if e != likeliest and (chance >= MAYBE or (known[e] < KNOWN and usual[e] > usual[likeliest]))
    ]


def _bill(cost_usd: Floats, population: Population, choice: NDArray[np.int32]) -> float:
    weight = np.ones(len(population)) if population.weight is None else population.weight
    served = np.flatnonzero(choice >= 0)
    return float(weight[served] @ cost_usd[served, choice[served]])


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
