"""The next step of a night whose every answer is scored at no cost: what to send where, until the floor is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.cascades import Cascades, cascades, known_scores
from thirdshift.router.learning.greedy_path import Ladder, climb
from thirdshift.router.learning.pilot import stratified
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.learning.situation import Looks
from thirdshift.router.lots import Sent
from thirdshift.router.prediction.observations import Observations, PastScores, Population
from thirdshift.router.prediction.predict import Predictor, learnt, without

Floats = NDArray[np.float64]

SMALL_CHANGE = 0.02
"""An endpoint whose price nobody knows is tried once while such trials cost no more than this share of the cheapest known
bill, and otherwise only where the others cannot reach the floor."""
TRIALS = (16, 64, 256)
"""Requests sent in each of the first rounds, each in a world of its own: who serves and who mends is learnt from these."""
TRIAL_SHARE = 0.015
"""The share of the bill expected that one of these rounds may cost: a dear endpoint is not tried on a whim."""
TRIED = 0.25
"""The largest share of a small input that is sent in a trial."""
HASTE = 0.9
"""The share of what is thought to be needed that is sent in a round: the last points are sent when they are known to be
needed."""
EARLY = 0.1
"""The share sent in a round while some requests have no answer yet: their scores teach who mends best."""
FEWEST = 20
"""So few are sent at once, without a further round."""
GROWTH = 3.0
"""What failed elsewhere is sent to an endpoint in at most so many times the number of its answers seen: how much it mends
is not believed from a handful."""
BASELINE_LOOKS = (10, 20, 40, 80, 160, 320, 640)
"""Numbers of further answers of what may be the best endpoint that are weighed against aiming higher."""
CHANCES = 2000
"""Draws of the endpoints' means, by which it is told how high a relative floor may be."""
LIKELY = 0.05
"""An endpoint with less chance to be the best is not asked for its own sake."""
BEYOND = 10.0
"""A point of quality that no endpoint is expected to give is reckoned at so many of the dearest answers."""
NEAR = 1e-12


@dataclass(frozen=True, slots=True)
class FreeScoresSituation:
    """What is known before a step. Columns have a row per request."""

    population: Population
    cost_usd: Floats
    """[n, endpoints] what an answer is expected to cost; NaN where nobody knows."""
    allowed: NDArray[np.bool_]
    priors: Floats
    aim: QualityTarget
    observations: Observations
    past: PastScores | None = None
    per_task: bool = False
    """The floor holds for every task on its own."""

    @property
    def weight(self) -> Floats:
        weight = self.population.weight
        return np.ones(len(self.population)) if weight is None else weight

    @property
    def unpriced(self) -> NDArray[np.int32]:
        return np.flatnonzero(np.isnan(self.cost_usd).any(axis=0)).astype(np.int32)

    def groups(self) -> list[NDArray[np.bool_]]:
        """Requests that a floor is asked of together."""
        if not self.per_task:
            return [np.ones(len(self.population), bool)]
        return [self.population.task == task for task in np.unique(self.population.task)]


@dataclass(frozen=True, slots=True)
class Road:
    """The cheapest way of one group from what is held to every higher mean."""

    row: NDArray[np.int64]
    cost_usd: Floats
    """[rows, candidates]"""
    quality: Floats
    first: NDArray[np.int32]
    """[rows, candidates] the endpoint that is next; -1: none, it is left."""
    ladder: Ladder
    reached: Floats
    """Mean score of the group after each step of the ladder."""
    spent: Floats
    floor: float
    held: float
    """Mean score of what is held now, by the best answer of each request."""
    requests: float
    """How many the rows have."""

    @property
    def steps(self) -> int:
        """Steps of the ladder to the floor; more than there are where it is beyond reach."""
        return self.steps_to(self.floor)

    def steps_to(self, quality: float) -> int:
        return int(np.searchsorted(self.reached, quality - NEAR))

    @property
    def beyond_reach(self) -> bool:
        return self.steps >= len(self.reached)

    def cost_of(self, quality: float) -> float:
        at = self.steps_to(quality)
        if at < len(self.reached):
            return float(self.spent[at])
        missing = (quality - float(self.reached[-1])) * self.requests
        dearest = float(np.max(self.cost_usd, where=np.isfinite(self.cost_usd), initial=0.0))
        return float(self.spent[-1]) + BEYOND * missing * dearest


@dataclass(frozen=True, slots=True)
class Sends:
    """The first steps of a way: columns of one length."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]
    price: Floats
    """USD per point of what each begins."""
    fresh: NDArray[np.bool_]
    """The request has no answer yet."""


@dataclass(frozen=True, slots=True)
class _Belief:
    """A situation with what is believed in it."""

    situation: FreeScoresSituation
    predictor: Predictor
    population: Population
    score: Floats
    """[n, endpoints] NaN where not looked at."""
    rng: np.random.Generator

    @property
    def best(self) -> Floats:
        """[n] the best score held; -1 where there is no answer."""
        found: Floats = np.where(np.isnan(self.score), -1.0, self.score).max(axis=1)
        return found

    def roads(self, *, explore: bool = False) -> list[Road]:
        """One for each group; none where nothing can be sent."""
        given = self.situation
        parts = list(
            cascades(
                self.predictor, self.population, self.score, given.cost_usd, given.allowed, self.rng, explore=explore
            )
        )  # fmt: skip
        if not parts:
            return []
        best = np.maximum(self.best, 0.0)
        return [
            road_of(parts, given.weight, best, group, absolute_floor(self.predictor, self.population, given.aim, group))
            for group in given.groups()
        ]  # fmt: skip


def next_step(situation: FreeScoresSituation, rng: np.random.Generator) -> Looks | None:
    """Answers to buy and look at. None: the floor is met and everything served, or nothing more can be done."""
    n, width = situation.cost_usd.shape
    seen, unpriced = situation.observations, situation.unpriced
    if len(unpriced) and (len(unpriced) == width or _small_change(situation)):
        return Looks(stratified(situation.population, 1, rng), unpriced[:1])
    score = known_scores(seen, (n, width))
    predictor, population = learnt(seen, situation.population, situation.priors, past=situation.past)
    belief = _Belief(situation, predictor, population, score, rng)
    roads = belief.roads()
    open_ = [road for road in roads if _open(road, belief.best)]
    if not roads or not (open_ or situation.aim.baselines):
        return None
    trial = next((size for size in TRIALS if len(seen) < size + width), n)
    if trial < TRIED * n and len(found := _trials(belief, roads, trial)):
        return found
    if not (belief.best < 0).any():
        if len(unpriced) and any(road.beyond_reach for road in roads):
            return Looks(rng.choice(roads[0].row, 1), unpriced[:1])
        if situation.aim.baselines and (baseline := _of_baselines(belief, roads)) is not None:
            return baseline
    return sent([first_steps(road) for road in open_], np.bincount(seen.endpoint, minlength=width))


def next_trial(situation: FreeScoresSituation, rng: np.random.Generator) -> Looks | None:
    """Requests to be served first, a few at a time, where prices are known. None: it is known well enough who serves and
    who mends, or the input is too small to be served in parts."""
    n, width = situation.cost_usd.shape
    trial = next((size for size in TRIALS if len(situation.observations) < size + width), n)
    if trial >= TRIED * n:
        return None
    score = known_scores(situation.observations, (n, width))
    predictor, population = learnt(
        situation.observations, situation.population, situation.priors, past=situation.past
    )
    belief = _Belief(situation, predictor, population, score, rng)
    roads = belief.roads()
    found = _trials(belief, roads, trial) if roads else None
    return found or None


def _open(road: Road, best: Floats) -> bool:
    """Whether something of the group is still to be sent."""
    return road.held < road.floor - NEAR or bool((best[road.row] < 0).any())


def _small_change(situation: FreeScoresSituation) -> bool:
    seen, known = situation.observations, ~np.isnan(situation.cost_usd).any(axis=0)
    spent = float(np.nansum(situation.cost_usd[seen.row, seen.endpoint]))
    cheapest = float(situation.cost_usd[:, known].mean(axis=0).min())
    return spent <= SMALL_CHANGE * len(situation.population) * cheapest


def absolute_floor(
    predictor: Predictor, population: Population, aim: QualityTarget, group: NDArray[np.bool_]
) -> float:
    """The mean score that is to be reached; for a relative floor so high that it suffices with the confidence asked."""
    if not aim.baselines:
        return aim.floor
    best = _baseline_means(predictor, population, aim, group).max(axis=1)
    return float(min(np.quantile(aim.floor * best, aim.confidence), 1.0))


def _baseline_means(
    predictor: Predictor, population: Population, aim: QualityTarget, group: NDArray[np.bool_]
) -> Floats:
    """[draws, baselines] what the means of the group may be."""
    weight = np.ones(len(population)) if population.weight is None else population.weight
    part = population if group.all() else population.part(np.arange(len(population)), group * weight)
    mean, covariance = predictor.means(part, np.full(len(part), -1), aim.baselines)
    root = np.linalg.cholesky(covariance[1:, 1:] + 1e-12 * np.eye(len(aim.baselines)))
    points = np.random.default_rng(20261122).standard_normal((CHANCES, len(aim.baselines)))
    drawn: Floats = np.minimum(mean[1:] + points @ root.T, 1.0)
    return drawn


def _trials(belief: _Belief, roads: Sequence[Road], count: int) -> Looks:
    """Some of the steps that would be the cheapest in worlds that belief leaves possible, as long as they cost little."""
    bill = TRIAL_SHARE * sum(float(road.spent[min(road.steps, len(road.spent) - 1)]) for road in roads)
    sends = [first_steps(road) for road in belief.roads(explore=True)]
    row = np.concatenate([part.row for part in sends])
    endpoint = np.concatenate([part.endpoint for part in sends])
    picked = belief.rng.permutation(len(row))[: 4 * count]
    cost = belief.situation.cost_usd[row[picked], endpoint[picked]]
    picked, cost = picked[cost <= bill / 4][:count], cost[cost <= bill / 4][:count]
    picked = picked[np.cumsum(cost) <= bill]
    return Looks(row[picked], endpoint[picked])


def road_of(
    parts: Sequence[Cascades],
    weight: Floats,
    best: Floats,
    group: NDArray[np.bool_],
    floor: float,
    sent: Sent = None,
) -> Road:
    """The way of the requests of `group` among the `parts`. `best`: [n] the score held of each request, 0 where none;
    `sent`: [n] how many requests each row has."""
    width = max(len(part.steps) for part in parts)
    rows = np.concatenate([part.row for part in parts])
    cost, quality = np.full((len(rows), width), np.inf), np.zeros((len(rows), width))
    first = np.full((len(rows), width), -1, np.int32)
    end = 0
    for part in parts:
        at, end = slice(end, end + len(part.row)), end + len(part.row)
        cost[at, : len(part.steps)], quality[at, : len(part.steps)] = part.cost_usd, part.quality
        first[at, : len(part.steps)] = [order[0] if order else -1 for order in part.steps]
    mine = group[rows]
    rows, cost, quality, first = rows[mine], cost[mine], quality[mine], first[mine]
    ladder = climb(cost, quality)
    total, line = float(weight[group].sum()), np.arange(len(rows))
    held = float(weight[group] @ best[group]) / total
    fine = ladder.start >= 0
    gained = np.where(fine, quality[line, ladder.start] - quality[:, 0], 0.0)
    begun = held + float(weight[rows] @ gained) / total
    reached = begun + np.concatenate([[0.0], np.cumsum(weight[rows[ladder.row]] * ladder.quality)]) / total
    count = np.ones(len(rows)) if sent is None else sent[rows]
    begins = float(cost[line, ladder.start][fine] @ count[fine])
    spent = np.concatenate([[begins], count[ladder.row] * ladder.cost_usd]).cumsum()
    return Road(rows, cost, quality, first, ladder, reached, spent, floor, held, float(count.sum()))


def first_steps(road: Road) -> Sends:
    """What the cheapest way to the floor begins with."""
    choice = road.ladder.at(min(road.steps, len(road.ladder)))
    line = np.arange(len(road.row))
    endpoint = np.where(choice >= 0, road.first[line, choice], -1)
    sent = np.flatnonzero(endpoint >= 0)
    gain = road.quality[sent, choice[sent]] - road.quality[sent, 0]
    price = road.cost_usd[sent, choice[sent]] / np.maximum(gain, 1e-9)
    fresh = ~np.isfinite(road.cost_usd[sent, 0])
    return Sends(road.row[sent], endpoint[sent].astype(np.int32), price, fresh)


def first_of(price: Floats, endpoint: NDArray[np.int32], answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the requests that are thought to need mending are sent at once: the cheapest, and not quite all."""
    count = min(len(price), max(FEWEST, int(np.ceil(HASTE * len(price)))))
    first = np.argsort(price, kind="stable")[:count]
    kept: NDArray[np.int64] = first[
        _rank(endpoint[first]) < np.maximum(FEWEST, GROWTH * answers)[endpoint[first]]
    ]
    return kept


def sent(parts: Sequence[Sends], answers: NDArray[np.int64]) -> Looks | None:
    """All that have no answer; of the others first what mends cheapest, and not quite all that is thought to be needed.
    `answers`: how many of each endpoint were seen."""
    rows, endpoints = [], []
    early = any(part.fresh.any() for part in parts)
    for part in parts:
        again = np.flatnonzero(~part.fresh)
        count = min(len(again), max(FEWEST, int(np.ceil((EARLY if early else HASTE) * len(again)))))
        mended = again[np.argsort(part.price[again], kind="stable")][:count]
        mended = mended[
            _rank(part.endpoint[mended]) < np.maximum(FEWEST, GROWTH * answers)[part.endpoint[mended]]
        ]
        kept = np.concatenate([np.flatnonzero(part.fresh), mended])
        rows.append(part.row[kept])
        endpoints.append(part.endpoint[kept])
    if not sum(len(row) for row in rows):
        return None
    return Looks(np.concatenate(rows), np.concatenate(endpoints))


def _rank(endpoint: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many of the same came before each."""
    order = np.argsort(endpoint, kind="stable")
    starts = np.searchsorted(endpoint[order], endpoint[order])
    rank = np.empty(len(endpoint), np.int64)
    rank[order] = np.arange(len(endpoint)) - starts
    return rank


def _of_baselines(belief: _Belief, roads: Sequence[Road]) -> Looks | None:
    """Answers of what may be the best endpoint on requests drawn at random, where they cost less than to aim so high that
    the floor is met however good it is. None where they do not pay."""
    given = belief.situation
    everyone = np.ones(len(belief.population), bool)
    drawn = _baseline_means(belief.predictor, belief.population, given.aim, everyone)
    wins = np.bincount(drawn.argmax(axis=1), minlength=drawn.shape[1]) / len(drawn)
    least, found = sum(road.cost_of(road.floor) for road in roads), None
    for place in np.flatnonzero(wins >= LIKELY).tolist():
        endpoint = given.aim.baselines[place]
        free = np.flatnonzero(given.allowed[:, endpoint] & np.isnan(belief.score[:, endpoint]))
        if not len(free):
            continue
        free, usual = belief.rng.permutation(free), float(given.cost_usd[:, endpoint].mean())
        if np.isnan(usual):
            return Looks(free[:1], np.array([endpoint], np.int32))
        for count in BASELINE_LOOKS:
            looks = Looks(free[:count], np.full(min(count, len(free)), endpoint, np.int32))
            total = len(looks) * usual + _cost_after(belief, roads, looks)
            if total < least - NEAR:
                least, found = total, looks
            if len(looks) * usual > least:
                break
    if found is None:
        return None
    half = max(BASELINE_LOOKS[0], len(found) // 2)  # the first reckonings are rough
    return Looks(found.row[:half], found.endpoint[:half])


def _cost_after(belief: _Belief, roads: Sequence[Road], looks: Looks) -> float:
    """What the way to the floor would cost if these had answered as expected."""
    given = belief.situation
    expected = belief.predictor.beside(belief.population)[0][looks.row, looks.endpoint]
    more = given.observations.plus(Observations(looks.row, looks.endpoint, expected))
    then = without(belief.predictor, more, belief.population, given.priors)
    return sum(
        road.cost_of(absolute_floor(then, belief.population, given.aim, group))
        for road, group in zip(roads, given.groups(), strict=True)
    )
