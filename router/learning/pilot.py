"""Which answers to look at first, so that what is spent on learning is least.

An answer looked at is paid for, and then it is there to be served: a look is wasted only where the plan would not have
bought that answer. So cheap endpoints are tried on many requests (they are served there, or a better answer is bought
later and little is lost), and dear ones on as many as pay: each look narrows the margin that the plan must leave, and a
margin costs what the next point of quality costs. Few rounds, each on as many requests as all before it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.baseline_looks import FEWEST, baseline_looks, leaned_on_most, rivals_looks
from thirdshift.router.learning.situation import Looks, Situation, survey, together
from thirdshift.router.learning.value_of_information import AssignmentPath, best_chances
from thirdshift.router.prediction.observations import Observations, Population

Floats = NDArray[np.float64]

CHECKED = 40
"""Requests on which an endpoint that past nights know is tried again before they are believed: an endpoint that was right
in 0.9 and now is in 0.7 is told by so many as a rule, and a smaller fall costs little. Of a dear one fewer: half of what
it would be tried on first."""
SERVES = 0.05
"""An endpoint with a smaller share of the plan is not checked."""
ROUNDS = 6
FRESH = 110
"""So many more requests than in the rounds before are tried on a cheap endpoint: 80, 190, 380, 760, …"""
FRESH_SHARE = 0.1
"""The share of a small input that is tried so in one round at most."""
CHEAP = 0.2
"""An endpoint is tried freely if it costs at most this share of the likeliest best one."""
WORLDS = 16
"""Worlds drawn from belief in one round: an endpoint is tried about as often as it is likely to be the bargain."""
LEFT = 0.5
"""Fresh looks leave this share of the scores still allowed: a round later dear ones may need them."""
PART = 20_000
"""Requests that stand for all while the pilot is planned."""


def next_round(situation: Situation, rng: np.random.Generator) -> Looks | None:
    """None: looking at more would not pay, or is not allowed."""
    seen = situation.observations
    if situation.rounds >= ROUNDS or not situation.pilot or len(seen) >= situation.looks:
        return None
    first = _fresh(situation, _first(situation, rng))
    if len(first) or not situation.rounds:
        return first if len(first) else None
    if len(seen) >= situation.most:
        return None
    rows, part = _part(replace(situation, looks=situation.most), rng)
    found = _informed(part, rng)
    found = _fresh(situation, Looks(rows[found.row], found.endpoint))
    return found if len(found) >= min(FEWEST, situation.pilot) else None


def _first(situation: Situation, rng: np.random.Generator) -> Looks:
    """Looks at endpoints of which too little is known, and in the first round at those that earlier nights know."""
    unknown, counts = _unknown(situation), situation.first
    if situation.score_usd > 0.0 and not situation.rounds:
        counts = (counts + 1) // 2  # what answers and scores cost is often a guess before the first
    found = _tried(situation, unknown, counts[unknown], rng)
    leaned_on = _leaned_on(situation, unknown)
    part = 2 if situation.score_usd <= 0.0 else 4  # the night's audit tells of a smaller fall
    return found.plus(
        _tried(situation, leaned_on, np.maximum(np.minimum(CHECKED, counts[leaned_on] // part), 1), rng)
    )


def _unknown(situation: Situation) -> NDArray[np.int32]:
    """Endpoints of which too little was seen to weigh anything, while it is the pilot's beginning; later those whose cost
    nobody knows."""
    width, seen = situation.width, situation.observations.endpoint
    unpriced = np.logical_or.reduce(np.isnan(situation.cost_usd), axis=0)[:width]
    if situation.rounds > 1:
        return np.flatnonzero(unpriced).astype(np.int32)
    enough = np.minimum(situation.first, situation.pilot)
    if situation.past is not None and len(situation.past.score):
        seen = np.concatenate([seen, situation.past.endpoint])
        enough = enough // 2 if situation.score_usd > 0.0 else enough
    count = np.bincount(seen, minlength=len(situation.priors))[:width]
    return np.flatnonzero(unpriced | (count < enough)).astype(np.int32)


def _leaned_on(situation: Situation, unknown: NDArray[np.int32]) -> NDArray[np.int32]:
    """Endpoints that the plan would use or be measured by for what past nights say of them."""
    if situation.past is None or not len(situation.past.score) or situation.rounds:
        return np.zeros(0, np.int32)
    choice = survey(situation).choice
    share = np.bincount(choice[choice >= 0], minlength=len(situation.priors)) / max(len(choice), 1)
    every = np.arange(len(share), dtype=np.int32)
    used = (share >= SERVES) | np.isin(every, situation.aim.baselines)
    return every[used & np.isin(every, situation.past.endpoint) & ~np.isin(every, unknown)]


def _tried(
    situation: Situation, endpoints: NDArray[np.int32], counts: NDArray[np.int64], rng: np.random.Generator
) -> Looks:
    """Each of these endpoints on so many of the same requests, of those that can be looked at: first where others were
    looked at, so that scores can be compared."""
    if not len(endpoints):
        return together([], [])
    population, looked = situation.population, np.unique(situation.observations.row)
    can = np.arange(len(population))
    if situation.allowed is not None:
        can = np.flatnonzero(situation.allowed[:, endpoints].any(axis=1))
    most = min(int(counts.max()), situation.pilot)
    again = rng.permutation(np.intersect1d(looked, can))[:most]
    other = np.setdiff1d(can, looked)
    some = other[stratified(population.part(other, np.ones(len(other))), most - len(again), rng)]
    rows = np.concatenate([again, some])
    return together(
        [rows[:count] for count in counts.tolist()],
        [
            np.full(len(rows[:count]), e, np.int32)
            for e, count in zip(endpoints, counts.tolist(), strict=True)
        ],
    )


def _informed(situation: Situation, rng: np.random.Generator) -> Looks:
    outlook = survey(situation)
    chances = best_chances(
        outlook.predictor,
        outlook.population,
        outlook.choice,
        outlook.aim.baselines or leaned_on_most(outlook, situation.width),
    )
    dear, price = baseline_looks(situation, outlook, chances, rng)
    if outlook.standing.quality < outlook.standing.floor and situation.score_usd <= 0.0:
        dear = dear.plus(rivals_looks(situation, outlook, rng))
    spare = int((1.0 - LEFT) * max(0, situation.looks - len(situation.observations) - len(dear)))
    cheap = _cheap_looks(situation, outlook, chances, price, spare, rng)
    return dear.plus(cheap)


def _cheap_looks(
    situation: Situation,
    outlook: AssignmentPath,
    chances: dict[int, float],
    price: float,
    spare: int,
    rng: np.random.Generator,
) -> Looks:
    """Cheap endpoints on at most `spare` fresh requests, each where a world drawn from belief says it is the bargain."""
    seen = np.unique(situation.observations.row)
    mean_cost = np.nanmean(situation.cost_usd, axis=0)
    dear = mean_cost > CHEAP * mean_cost[max(chances, key=lambda a: chances[a])]
    before = 0 if situation.past is None else len(situation.past.score) // len(mean_cost)
    few = int(FRESH_SHARE * len(outlook.population))
    more = min(len(seen) + FRESH, max(few, FEWEST)) if few < FRESH else len(seen) + FRESH
    count = min(more - before, situation.pilot - len(seen), spare)
    left = np.setdiff1d(np.arange(len(outlook.population)), seen)
    if dear.all() or count < FEWEST or not len(left):
        return together([], [])
    rows = left[stratified(outlook.population.part(left, np.ones(len(left))), count, rng)]
    bargain = outlook.cost_usd[rows] - price * _worlds(outlook, rows, rng)
    bargain[:, dear] = np.inf
    if situation.allowed is not None:
        bargain[~situation.allowed[rows]] = np.inf
    endpoint = bargain.argmin(axis=1)
    fine = np.isfinite(bargain[np.arange(len(rows)), endpoint])
    return Looks(rows[fine], endpoint[fine].astype(np.int32))


def _worlds(outlook: AssignmentPath, rows: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Expected scores, shape (rows, endpoints), each row's in one of a few worlds that belief leaves possible."""
    quality = np.empty((len(rows), outlook.cost_usd.shape[1]))
    world = rng.permutation(len(rows)) % WORLDS
    for w in range(min(WORLDS, len(rows))):
        quality[world == w] = outlook.predictor.draw(outlook.population, rows[world == w], rng)
    return quality


def _fresh(situation: Situation, looks: Looks) -> Looks:
    """Without pairs seen already, twice named or not allowed, and no more than may be scored."""
    width, seen = len(situation.priors), situation.observations
    keys, first = np.unique(looks.row * width + looks.endpoint, return_index=True)
    new = first[~np.isin(keys, seen.row * width + seen.endpoint)]
    new = np.sort(new)
    if situation.allowed is not None:
        new = new[situation.allowed[looks.row[new], looks.endpoint[new]]]
    known = np.unique(seen.row)
    fresh = looks.row[new][~np.isin(looks.row[new], known)]
    _, order = np.unique(fresh, return_index=True)
    kept = fresh[np.sort(order)][: max(0, situation.pilot - len(known))]
    new = new[np.isin(looks.row[new], known) | np.isin(looks.row[new], kept)]
    new = new[: max(0, situation.looks - len(seen))]
    return Looks(looks.row[new], looks.endpoint[new])


def _part(situation: Situation, rng: np.random.Generator) -> tuple[NDArray[np.int64], Situation]:
    """Keep only some requests of a large input: those observed, and enough others that stand for the rest."""
    seen, n = situation.observations, len(situation.population)
    if n <= PART:
        return np.arange(n), situation
    looked = np.unique(seen.row)
    others = np.setdiff1d(stratified(situation.population, PART, rng), looked)
    rows = np.concatenate([looked, others])
    weight = np.concatenate([np.ones(len(looked)), np.full(len(others), (n - len(looked)) / len(others))])
    place = np.searchsorted(looked, seen.row)
    part = replace(
        situation,
        population=situation.population.part(rows, weight),
        cost_usd=situation.cost_usd[rows],
        allowed=None if situation.allowed is None else situation.allowed[rows],
        observations=Observations(place, seen.endpoint, seen.score),
    )
    return rows, part


def stratified(population: Population, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` rows at random, each task with its share (systematic sampling of a shuffle sorted by task).

    In random order: where fewer may be looked at, the first of them are a sample too.
    """
    order = rng.permutation(len(population))
    if population.weight is not None:
        order = order[population.weight[order] > 0]
    order = order[np.argsort(population.task[order], kind="stable")]
    count = min(count, len(order))
    places = (np.arange(count) + rng.random()) * len(order) / max(1, count)
    return rng.permutation(order[np.minimum(places.astype(np.int64), len(order) - 1)])
