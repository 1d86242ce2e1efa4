"""Which answers to look at first, so that what is spent on learning is least.

An answer looked at is paid for, and then it is there to be served: a look is wasted only where the plan would not have
bought that answer. So cheap endpoints are tried on many requests (they are served there, or a better answer is bought
later and little is lost), and dear ones on as many as pay: each look narrows the margin that the plan must leave, and a
margin costs what the next point of quality costs. Few rounds, each on as many requests as all before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.quality_target import QualityTarget, standing
from thirdshift.router.learning.value_of_information import AssignmentPath, best_chances, look_out
from thirdshift.router.prediction.observations import Observations, PastScores, Population, no_observations
from thirdshift.router.prediction.predict import learnt, without

Floats = NDArray[np.float64]

SEED = 80
"""Requests on which every endpoint is tried in the first round."""
SEED_SHARE, SEED_FEWEST = 0.04, 20
"""A small input has a smaller first round: what every endpoint is tried on is wasted but for one of them."""
CHECKED = 40
"""Requests on which an endpoint that past nights know is tried again before they are believed: an endpoint that was right
in 0.9 and now is in 0.7 is told by so many as a rule, and a smaller fall costs little."""
SERVES = 0.05
"""An endpoint with a smaller share of the plan is not checked."""
ROUNDS = 5
ROUND_FRACTION = (0.5, 0.7, 1.0, 1.0)
"""The share of the looks thought best that is made in each round: the first reckonings are rough."""
FRESH = 110
"""So many more requests than in the rounds before are tried on a cheap endpoint: 80, 190, 380, 760, …"""
FEWEST = 10
"""Looks below which a round is not worth its while."""
CHEAP = 0.2
"""An endpoint is tried freely if it costs at most this share of the likeliest best one."""
SAVES = 0.03
"""Even an answer that will be served costs this share of itself as a look: it might not be."""
LIKELY = 0.05
"""An anchor with less chance to be the best is not looked at for its own sake."""
STEPS = (0, 30, 60, 120, 240, 480, 960, 1920)
"""Numbers of looks that are weighed against each other."""
WORLDS = 16
"""Worlds drawn from belief in one round: an endpoint is tried about as often as it is likely to be the bargain."""
CARRIES = 0.2
"""An endpoint that serves this share of the plan is looked at for its own sake, as an anchor is."""
LEFT = 0.5
"""Fresh looks leave this share of the scores still allowed: a round later dear ones may need them."""
PART = 20_000
"""Requests that stand for all while the pilot is planned."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known before a round of looking. Columns have a row per request, `endpoint` counts the run's endpoints."""

    population: Population
    cost_usd: NDArray[np.float64] | NDArray[np.float32]
    """Shape (n, endpoints): what an answer is expected to cost; NaN in a column where nothing is known yet."""
    allowed: NDArray[np.bool_] | None
    """Shape (n, endpoints): policy and context windows; None: all."""
    priors: Floats
    """Shape (endpoints,): quality expected before anything was observed, NaN where unknown."""
    aim: QualityTarget
    observations: Observations
    """Scores of this run."""
    pilot: int
    """Requests that may be looked at at most."""
    looks: int
    """Answers (request x endpoint) that may be scored at most, those in `observations` counted."""
    rounds: int = 0
    """Rounds that were played."""
    past: PastScores | None = None
    """Scores of past nights, which spare looks tonight."""
    endpoints: int | None = None
    """So many of the first columns are endpoints, the others votes, which are looked at by their endpoints; None: all."""

    @property
    def width(self) -> int:
        """How many columns are endpoints."""
        return len(self.priors) if self.endpoints is None else self.endpoints

    @property
    def seed(self) -> int:
        """Requests on which every endpoint is tried first."""
        return min(SEED, max(SEED_FEWEST, round(SEED_SHARE * len(self.population))))


@dataclass(frozen=True, slots=True)
class Looks:
    """Pairs to have answered and scored: two columns of one length."""

    row: NDArray[np.int64]
    endpoint: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.row)

    def plus(self, other: Looks) -> Looks:
        return Looks(np.concatenate([self.row, other.row]), np.concatenate([self.endpoint, other.endpoint]))


def next_round(situation: Situation, rng: np.random.Generator) -> Looks | None:
    """None: looking at more would not pay, or is not allowed."""
    seen = situation.observations
    if situation.rounds >= ROUNDS or not situation.pilot or len(seen) >= situation.looks:
        return None
    unknown = _unknown(situation)
    if len(unknown) or not situation.rounds:
        found = _seed(situation, unknown, situation.seed, rng).plus(
            _seed(situation, _leaned_on(situation, unknown), CHECKED, rng)
        )
    else:
        rows, part = _part(situation, rng)
        found = _informed(part, rng)
        found = Looks(rows[found.row], found.endpoint)
    found = _fresh(situation, found)
    return found if len(found) >= min(FEWEST, situation.pilot) else None


def _unknown(situation: Situation) -> NDArray[np.int32]:
    """Endpoints of which nothing was seen, in the first round; later those whose cost nobody knows."""
    unpriced = np.logical_or.reduce(np.isnan(situation.cost_usd), axis=0)
    before = np.zeros(0, np.int32) if situation.past is None else situation.past.endpoint
    unseen = np.bincount(before, minlength=len(situation.priors)) < min(situation.seed, situation.pilot)
    unknown = np.flatnonzero(unpriced if situation.rounds else unpriced | unseen).astype(np.int32)
    return unknown[unknown < situation.width]


def _leaned_on(situation: Situation, unknown: NDArray[np.int32]) -> NDArray[np.int32]:
    """Endpoints that the plan would use or be measured by for what past nights say of them."""
    if situation.past is None or not len(situation.past.score) or situation.rounds:
        return np.zeros(0, np.int32)
    choice = survey(situation).choice
    share = np.bincount(choice[choice >= 0], minlength=len(situation.priors)) / max(len(choice), 1)
    every = np.arange(len(share), dtype=np.int32)
    used = (share >= SERVES) | np.isin(every, situation.aim.baselines)
    return every[used & np.isin(every, situation.past.endpoint) & ~np.isin(every, unknown)]


def _seed(situation: Situation, endpoints: NDArray[np.int32], count: int, rng: np.random.Generator) -> Looks:
    """These endpoints, all on the same few requests, of those that can be looked at."""
    population = situation.population
    if situation.allowed is None:
        rows = stratified(population, min(count, situation.pilot), rng)
    else:
        can = np.flatnonzero(situation.allowed[:, endpoints].any(axis=1))
        some = population.part(can, np.ones(len(can)))
        rows = can[stratified(some, min(count, situation.pilot), rng)]
    return Looks(np.repeat(rows, len(endpoints)), np.tile(endpoints, len(rows)))


def _informed(situation: Situation, rng: np.random.Generator) -> Looks:
    outlook = survey(situation)
    chances = best_chances(
        outlook.predictor,
        outlook.population,
        outlook.choice,
        outlook.aim.baselines or _dearest(outlook, situation.width),
    )
    dear, price = _anchor_looks(situation, outlook, chances, rng)
    spare = int((1.0 - LEFT) * max(0, situation.looks - len(situation.observations) - len(dear)))
    cheap = _cheap_looks(situation, outlook, chances, price, spare, rng)
    return dear.plus(cheap)


def survey(situation: Situation) -> AssignmentPath:
    """The plan as it would be if nothing more were looked at."""
    seen, priors = situation.observations, situation.priors
    predictor, population = learnt(seen, situation.population, priors, past=situation.past)
    cost = np.array(situation.cost_usd, dtype=np.float64)
    cost[seen.row, seen.endpoint] = 0.0
    return look_out(
        predictor, population, predictor.predict(population), cost, situation.aim, allowed=situation.allowed
    )


def _dearest(outlook: AssignmentPath, width: int) -> tuple[int, ...]:
    """Without anchors: the endpoint whose error weighs most is the one that the plan leans on most."""
    counts = np.bincount(outlook.choice[outlook.choice >= 0], minlength=outlook.cost_usd.shape[1])
    return (int(counts[:width].argmax()),)


def _carrying(outlook: AssignmentPath) -> list[int]:
    """Endpoints that serve enough of the plan for their own error to weigh in the margin."""
    counts = np.bincount(outlook.choice[outlook.choice >= 0], minlength=outlook.cost_usd.shape[1])
    return [int(e) for e in np.flatnonzero(counts >= CARRIES * len(outlook.choice))]


@dataclass(slots=True)
class _BaselineEndpoint:
    """How the error falls with looks at one endpoint: own / (seen + more)."""

    rows: NDArray[np.int64]
    """Where to look, best first."""
    seen: int
    own: float
    more: int = 0

    @property
    def variance(self) -> float:
        return self.own / (self.seen + self.more)


def _anchor_looks(
    situation: Situation, outlook: AssignmentPath, chances: dict[int, float], rng: np.random.Generator
) -> tuple[Looks, float]:
    """Looks at what may be the best endpoint or carries the plan, as many as pay; and the price of quality then."""
    likely = sorted((a for a, p in chances.items() if p >= LIKELY), key=lambda a: -chances[a])[:3]
    likely += [e for e in _carrying(outlook) if e not in likely and e < situation.width]
    baselines = {a: found for a in likely if (found := _study(situation, outlook, a, rng)) is not None}
    spread = outlook.standing.spread
    deviations = outlook.standing.margin / max(spread, 1e-9)
    other = max(spread**2 - sum(baseline.variance for baseline in baselines.values()), 1e-8)

    def needed() -> float:
        variance = other + sum(baseline.variance for baseline in baselines.values())
        return outlook.standing.floor + deviations * float(np.sqrt(variance))

    for _ in range(3 if len(baselines) > 1 else 1):
        for endpoint, baseline in baselines.items():
            baseline.more = _worth(outlook, endpoint, baseline, needed)
    haste = ROUND_FRACTION[min(max(situation.rounds, 1), len(ROUND_FRACTION)) - 1]
    rows, endpoints = [], []
    for endpoint, baseline in baselines.items():
        count = min(int(baseline.more * haste), 2 * baseline.seen + 50)
        if count >= FEWEST:
            rows.append(baseline.rows[:count])
            endpoints.append(np.full(len(rows[-1]), endpoint, dtype=np.int32))
    return _together(rows, endpoints), outlook.price(needed())


def _together(rows: list[NDArray[np.int64]], endpoints: list[NDArray[np.int32]]) -> Looks:
    none = no_observations()
    return Looks(np.concatenate([none.row, *rows]), np.concatenate([none.endpoint, *endpoints]))


def _study(
    situation: Situation, outlook: AssignmentPath, endpoint: int, rng: np.random.Generator
) -> _BaselineEndpoint | None:
    """What looks at this endpoint would do to the error, by pretending that some were made."""
    seen = situation.observations
    held = np.zeros(len(outlook.population), dtype=bool)
    held[seen.row[seen.endpoint == endpoint]] = True
    looked = np.zeros(len(held))
    looked[seen.row] = 1.0
    free = ~held if situation.allowed is None else ~held & situation.allowed[:, endpoint]
    rows = np.flatnonzero(free)
    rows = rows[np.argsort(-(looked[rows] + rng.random(len(rows))))]  # beside other answers, as a rule
    rows = rows[: int(looked[rows].sum()) + max(0, situation.pilot - int(looked.sum()))]
    made = max(1, int(held.sum()))
    more = min(len(rows), max(60, made))
    if more < FEWEST:
        return None
    pretended = Observations(
        rows[:more],
        np.full(more, endpoint, np.int32),
        outlook.quality[rows[:more], endpoint].astype(np.float64),
    )
    then = without(outlook.predictor, seen.plus(pretended), outlook.population, situation.priors)
    spread = standing(then, outlook.population, outlook.choice, outlook.aim).spread
    fall = max(outlook.standing.spread**2 - spread**2, 0.0)
    return _BaselineEndpoint(rows, made, fall / (1.0 / made - 1.0 / (made + more)))


def _worth(
    outlook: AssignmentPath, endpoint: int, baseline: _BaselineEndpoint, needed: Callable[[], float]
) -> int:
    """The number of looks after which the night is cheapest: looks that are not served, and the margin's price."""
    rows, price = baseline.rows, outlook.price(needed())
    worth = price * outlook.quality[rows] - outlook.cost_usd[rows]
    gain = np.maximum(price * outlook.quality[rows, endpoint] - worth.max(axis=1), 0.0)
    cost = outlook.cost_usd[rows, endpoint]
    wasted = np.concatenate([[0.0], np.cumsum(np.maximum(cost - gain, SAVES * cost))])
    best, cheapest = 0, np.inf
    for step in STEPS:
        baseline.more = min(step, len(rows))
        total = wasted[baseline.more] + outlook.cost_of(needed())
        if total < cheapest:
            best, cheapest = baseline.more, total
    return best


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
    count = min(len(seen) + FRESH - before, situation.pilot - len(seen), spare)
    left = np.setdiff1d(np.arange(len(outlook.population)), seen)
    if dear.all() or count < FEWEST or not len(left):
        return _together([], [])
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
