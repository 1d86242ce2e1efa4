"""Looks at what may be the best endpoint or carries the plan: as many as pay for themselves.

Each narrows the margin that the plan must leave, and a margin costs what the next point of quality costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.quality_target import standing
from thirdshift.router.learning.situation import Looks, Situation, together
from thirdshift.router.learning.value_of_information import AssignmentPath, rivals, usual_costs
from thirdshift.router.prediction.observations import Observations
from thirdshift.router.prediction.predict import without

Floats = NDArray[np.float64]

ROUND_FRACTION = (0.5, 0.7, 1.0, 1.0)
"""The share of the looks thought best that is made in each round: the first reckonings are rough."""
FEWEST = 10
"""Looks below which a round is not worth its while."""
SAVES = 0.03
"""Even an answer that will be served costs this share of itself as a look: it might not be."""
LIKELY = 0.05
"""An anchor with less chance to be the best is not looked at for its own sake."""
STEPS = (0, 30, 60, 120, 240, 480, 960, 1920)
"""Numbers of looks that are weighed against each other."""
FEW = 4
"""So many looks are the least that is made where nothing is sure enough."""
SIDE = 0.1
"""The share of the dearest bill that looks may cost at each endpoint which is not the likeliest to be the best."""
CARRIES = 0.2
"""An endpoint that serves this share of the plan is looked at for its own sake, as an anchor is."""


def leaned_on_most(outlook: AssignmentPath, width: int) -> tuple[int, ...]:
    """Without anchors: the endpoint whose error weighs most is the one that the plan leans on most."""
    return (int(_served(outlook)[:width].argmax()),)


def _carrying(outlook: AssignmentPath) -> list[int]:
    """Endpoints that serve enough of the plan for their own error to weigh in the margin."""
    return [int(e) for e in np.flatnonzero(_served(outlook) >= CARRIES * len(outlook.choice))]


def _served(outlook: AssignmentPath) -> NDArray[np.int64]:
    """[options] how many requests the plan gives each."""
    return np.bincount(outlook.choice[outlook.choice >= 0], minlength=outlook.cost_usd.shape[1])


@dataclass(slots=True)
class _Baseline:
    """How the error falls with looks at one endpoint: own / (seen + more)."""

    rows: NDArray[np.int64]
    """Where to look, best first."""
    seen: int
    own: float
    more: int = 0

    @property
    def variance(self) -> float:
        return self.own / (self.seen + self.more)


def baseline_looks(
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
            baseline.more = _worth(outlook, endpoint, baseline, needed, situation.score_usd)
    haste = ROUND_FRACTION[min(max(situation.rounds, 1), len(ROUND_FRACTION)) - 1]
    rows, endpoints = [], []
    for endpoint, baseline in baselines.items():
        count = min(int(baseline.more * haste), 2 * baseline.seen + 50)
        if count >= FEWEST:
            rows.append(baseline.rows[:count])
            endpoints.append(np.full(len(rows[-1]), endpoint, dtype=np.int32))
    return together(rows, endpoints), outlook.price(needed())


def _study(
    situation: Situation, outlook: AssignmentPath, endpoint: int, rng: np.random.Generator
) -> _Baseline | None:
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
    return _Baseline(rows, made, fall / (1.0 / made - 1.0 / (made + more)))


def _worth(
    outlook: AssignmentPath, endpoint: int, baseline: _Baseline, needed: Callable[[], float], score_usd: float
) -> int:
    """The number of looks after which the night is cheapest: looks that are not served, what scoring them costs, and the
    margin's price."""
    rows, price = baseline.rows, outlook.price(needed())
    worth = price * outlook.quality[rows] - outlook.cost_usd[rows]
    gain = np.maximum(price * outlook.quality[rows, endpoint] - worth.max(axis=1), 0.0)
    cost = outlook.cost_usd[rows, endpoint]
    wasted = np.concatenate([[0.0], np.cumsum(np.maximum(cost - gain, SAVES * cost) + score_usd)])
    best, cheapest = 0, np.inf
    for step in STEPS:
        baseline.more = min(step, len(rows))
        total = wasted[baseline.more] + outlook.cost_of(needed())
        if total < cheapest:
            best, cheapest = baseline.more, total
    return best


def rivals_looks(situation: Situation, outlook: AssignmentPath, rng: np.random.Generator) -> Looks:
    """Where nothing is sure enough: twice as many looks as there were at what may be the best endpoint. They are hardly
    wasted, as without them it is what serves everything. Other rivals are looked at as long as that costs little, or
    where the likeliest has nothing more to tell; all of them within what is left of the bill."""
    n, seen = len(outlook.population), situation.observations
    usual = usual_costs(situation.cost_usd[:, : situation.width])
    likeliest, others = rivals(outlook.predictor, outlook.population, outlook.choice, usual)
    told = (seen.endpoint == likeliest).sum() + FEW > n
    aside = np.inf if told else SIDE * n * float(np.max(usual, where=np.isfinite(usual), initial=0.0))
    dear, looked, left = np.zeros(n, bool), np.zeros(n, bool), outlook.outright_usd
    dear[seen.row[np.isin(seen.endpoint, [likeliest, *others])]] = True
    looked[seen.row] = True
    rows, endpoints = [], []
    for endpoint in (e for e in (likeliest, *others) if np.isfinite(usual[e])):
        held = seen.row[seen.endpoint == endpoint]
        count, price = max(FEW, len(held)), float(usual[endpoint])
        if endpoint != likeliest and (count + len(held)) * price > aside:
            continue
        free = np.ones(n, bool) if situation.allowed is None else situation.allowed[:, endpoint].copy()
        free[held] = False
        order = rng.permutation(np.flatnonzero(free))
        order = order[
            np.argsort(dear[order], kind="stable")
        ]  # beside no other rival's: one of them is served
        order = order[looked[order] | (np.cumsum(~looked[order]) <= situation.pilot - looked.sum())]
        rows.append(order[: min(count, int(left / max(price, 1e-300)))])
        endpoints.append(np.full(len(rows[-1]), endpoint, np.int32))
        left -= len(rows[-1]) * price
        dear[rows[-1]] = looked[rows[-1]] = True
    return together(rows, endpoints)
