"""The plan of a night whose scores are free: what each request is expected to cost and score in the end, by who goes first.

The planner keeps its columns, one for each endpoint: a column's cost is the whole expected bill of a request that goes
there first and is sent on as long as that pays, its quality what it scores in the end. So floors, caps, capacities and
vendors' shares hold of the sequence as they do of single answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import quantiles

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.learning.cascades import DEPTH, NONE_BARRED, Barred, Cascades, cascades, in_worlds
from thirdshift.router.learning.free_scores import NEAR, Road, absolute_floor, road_of
from thirdshift.router.learning.quality_target import QualityTarget
from thirdshift.router.lots import requests, sent_of
from thirdshift.router.prediction.observations import Observations, Population
from thirdshift.router.prediction.predict import Predictor

Floats = NDArray[np.float64]

SAMPLE = 20_000
"""Requests on which the price of quality is found."""
CHUNK = 50_000
"""Requests at a time for which columns are made."""
POINTS = 20
"""Floors on the frontier."""
WORLDS = 40
"""Worlds drawn from belief to tell how large the bill may become."""
WORLD_ROWS = 1_000
"""Requests that stand for all in each of them."""
ENTRIES = 1 << 20
"""So many of requests times worlds times orders of endpoints are reckoned at a time, about 30 MB."""
DEAREST_OF = 20
"""The dearest of so many worlds is told, the 95 % figure."""
TILT, TILTS = 1e-6, 64
"""Prices are told apart by such a share at most, at so many levels: of requests alike, as many are sent on as are needed,
where otherwise it were all or none."""
FEW_KINDS = 256
"""Where there are more kinds of requests, none is so large that it matters whether all of it is sent on."""
HELD_FIRST = 1e-6
"""By this share an answer that is held is preferred to asking at once who would mend it."""


@dataclass(frozen=True, slots=True)
class CascadeColumns:
    """Columns by endpoint, of shape (n, endpoints)."""

    cost_usd: Floats = field(repr=False)
    """The expected bill of a request that goes there first; infinite where it may not."""
    quality: NDArray[np.float32] = field(repr=False)
    """What it is expected to score in the end."""
    follower: NDArray[np.int8] = field(repr=False)
    """Who is asked where that fails; -1: nobody."""
    floor: float
    """In absolute terms, as believed."""
    points: tuple[tuple[float, float], ...]
    """(floor, USD): what each floor is expected to cost; empty where there is nothing to choose."""
    prices: Floats = field(repr=False)
    """[tasks] USD per point of quality at the floor."""
    high: float
    """What the bill is in the worst of twenty worlds, as a share of what is expected."""


@dataclass(frozen=True)
class _Given:
    predictor: Predictor
    population: Population
    observations: Observations
    cost_usd: Floats
    """Infinite where not allowed."""
    aim: QualityTarget
    per_task: bool
    rng: np.random.Generator
    barred: Barred

    @cached_property
    def tilt(self) -> Floats:
        """[n] factors by which prices are told apart that are the same."""
        level = np.random.default_rng(0).permutation(len(self.population)) % TILTS
        return 1.0 + TILT * level / TILTS

    @property
    def weight(self) -> Floats:
        weight = self.population.weight
        return np.ones(len(self.population)) if weight is None else weight

    def score(self, rows: NDArray[np.int64]) -> Floats:
        """[rows, endpoints] scores seen. `rows` ascend."""
        found = np.full((len(rows), self.cost_usd.shape[1]), np.nan)
        seen = self.observations
        place = np.searchsorted(rows, seen.row)
        here = (place < len(rows)) & (rows[np.minimum(place, len(rows) - 1)] == seen.row)
        found[place[here], seen.endpoint[here]] = seen.score[here]
        return found

    def parts(self, rows: NDArray[np.int64]) -> list[Cascades]:
        some = self.population.part(rows, np.ones(len(rows)))
        cost = self.cost_usd[rows] * self.tilt[rows, None]
        score, may = self.score(rows), np.isfinite(cost)
        return list(cascades(self.predictor, some, score, cost, may, self.rng, barred=self.barred))

    def roads(self, rows: NDArray[np.int64]) -> list[Road]:
        """The way of these rows, which stand for all: of each task where the floor holds for each, else of all."""
        return self.roads_of(rows, self.parts(rows), self.predictor)

    def roads_in(self, worlds: int, rows: NDArray[np.int64]) -> list[list[Road]]:
        """Return the way of these rows in each of so many worlds drawn from belief."""
        some = self.population.part(rows, np.ones(len(rows)))
        cost, drawn = self.cost_usd[rows], []

        def draw() -> Iterator[Predictor]:
            for _ in range(worlds):
                drawn.append(_one_world(self.predictor, self.requests, self.rng))
                yield drawn[-1]

        score, may = self.score(rows), np.isfinite(cost)
        parts = in_worlds(draw(), some, score, cost, may, self.rng, self.barred)
        return [self.roads_of(rows, mine, world) for mine, world in zip(parts, drawn, strict=True)]

    def roads_of(self, rows: NDArray[np.int64], parts: list[Cascades], world: Predictor) -> list[Road]:
        if not parts:
            return []
        best = np.nan_to_num(self.score(rows)).max(axis=1)
        task, weight = self.population.task[rows], self.weight[rows] * self.stands_for(rows)
        sent = sent_of(self.population.sent, rows)
        groups = [task == t for t in np.unique(task)] if self.per_task else [np.ones(len(rows), bool)]
        found = []
        for group in groups:
            everyone = (
                np.isin(self.population.task, task[group])
                if self.per_task
                else np.ones(len(self.population), bool)
            )
            floor = absolute_floor(world, self.population, self.aim, everyone)
            found.append(road_of(parts, weight, best, group, floor, sent))
        return found

    @cached_property
    def requests(self) -> float:
        return requests(len(self.population), self.population.sent)

    def stands_for(self, rows: NDArray[np.int64]) -> float:
        """How many times their requests all are."""
        return self.requests / max(requests(len(rows), sent_of(self.population.sent, rows)), 1.0)


def cascade_columns(
    predictor: Predictor,
    population: Population,
    observations: Observations,
    cost_usd: Floats,
    aim: QualityTarget,
    rng: np.random.Generator,
    *,
    per_task: bool = False,
    told: bool = True,
    barred: Barred = NONE_BARRED,
) -> CascadeColumns:
    """`cost_usd`: [n, endpoints] what an answer costs, infinite where it may not be asked for; 0 where it is held.
    `told`: reckon the frontier and the high figure too. `barred`: who may not go first, or not after others."""
    given = _Given(predictor, population, observations, cost_usd, aim, per_task, rng, barred)
    sample = np.sort(rng.permutation(len(population))[:SAMPLE])
    roads = given.roads(sample)
    prices = _prices(given, roads, sample)
    cost, quality = cost_usd.copy(), np.ones(cost_usd.shape, np.float32)
    follower = np.full(cost_usd.shape, -1, np.int8)
    for begin in range(0, len(population), CHUNK):
        rows = np.arange(begin, min(begin + CHUNK, len(population)))
        distinct, kind = _distinct(given, rows)
        _columns(given, rows[distinct], prices, cost, quality, follower)
        for column in (cost, quality, follower):
            column[rows] = column[rows[distinct]][kind]
    floor = absolute_floor(predictor, population, aim, np.ones(len(population), bool))
    scale = given.stands_for(sample)
    return CascadeColumns(
        cost,
        quality,
        follower,
        floor,
        _frontier(roads, scale) if told else (),
        prices,
        _high(given) if told else 1.0,
    )


def _distinct(given: _Given, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in `rows` of requests that differ in what decides, ascending, and for each row which of them it is like.
    All of few: there is nothing to be saved. Of a million tickets of a few hundred lengths some thousand are left."""
    everyone = np.arange(len(rows))
    if len(given.population) <= SAMPLE or given.population.text.shape[1]:
        return everyone, everyone
    told = np.column_stack([given.population.task[rows], given.cost_usd[rows], given.score(rows)])
    distinct, kind = _alike(told)
    if len(distinct) > FEW_KINDS:
        return distinct, kind
    return _alike(np.column_stack([told, given.tilt[rows]]))


def _alike(told: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first of each kind of rows that are the same, ascending, and for each row its kind."""
    mixed = np.zeros(len(told), np.uint64)
    for column in np.ascontiguousarray(told.T).view(np.uint64):
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    _, first, kind = np.unique(mixed, return_index=True, return_inverse=True)
    order = np.argsort(first)
    distinct, kind = first[order], np.argsort(order)[kind]
    if not np.array_equal(told[distinct][kind], told, equal_nan=True):  # two that differ were mixed alike
        return np.arange(len(told)), np.arange(len(told))
    return distinct, kind


def _prices(given: _Given, roads: list[Road], sample: NDArray[np.int64]) -> Floats:
    """[tasks] USD per point of quality at the floor."""
    found = np.zeros(given.population.tasks)
    task = given.population.task[sample]
    for road in roads:
        at = min(road.steps, len(road.ladder)) - 1
        price = 0.0 if at < 0 else float(road.ladder.cost_usd[at] / road.ladder.quality[at])
        found[task[road.row]] = price
    return found


def _columns(
    given: _Given,
    rows: NDArray[np.int64],
    prices: Floats,
    cost: Floats,
    quality: NDArray[np.float32],
    follower: NDArray[np.int8],
) -> None:
    """For each request and endpoint the best cascade that begins there, at the price that quality has."""
    score = given.score(rows)
    tried = ~np.isnan(score)
    for part in given.parts(rows):
        here, price = rows[part.row], prices[given.population.task[rows[part.row]]]
        net = part.cost_usd - price[:, None] * part.quality
        line = np.arange(len(here))
        for endpoint in range(cost.shape[1]):
            had = bool(tried[part.row[0], endpoint])  # it is left as it is, or sent on
            begun = (endpoint,) if had else ()
            whole = [begun + order for order in part.steps]
            columns = np.array([
                c for c, order in enumerate(whole)
                if order[:1] == (endpoint,) and given.barred.allows(order, begun=had)
            ], np.intp)  # fmt: skip
            if not len(columns):  # not allowed
                cost[here, endpoint] = np.inf
                continue
            best = columns[net[:, columns].argmin(axis=1)]
            held = 1.0 if had else 1.0 + HELD_FIRST
            cost[here, endpoint] = np.where(
                np.isfinite(cost[here, endpoint]), part.cost_usd[line, best] * held, np.inf
            )
            quality[here, endpoint] = part.quality[line, best]
            follower[here, endpoint] = np.array([(*order, -1, -1)[1] for order in whole], np.int8)[best]
    own = np.nan_to_num(score, nan=-1.0)
    done = own.max(axis=1) >= 1.0 - NEAR
    cost[rows[done]] = np.where(tried[done], 0.0, cost[rows[done]])


def _frontier(roads: list[Road], scale: float) -> tuple[tuple[float, float], ...]:
    """What each floor costs, where one floor holds for all."""
    if len(roads) != 1 or not len(roads[0].ladder):
        return ()
    (road,) = roads
    floors = np.linspace(float(road.reached[0]), float(road.reached[-1]), POINTS)
    return tuple((float(floor), scale * road.cost_of(float(floor))) for floor in floors)


def _high(given: _Given) -> float:
    """How much dearer the night is in the worst of twenty worlds than it is expected to be."""
    rows = np.sort(given.rng.permutation(len(given.population))[:WORLD_ROWS])
    expected = sum(road.cost_of(road.floor) for road in given.roads(rows))
    if expected <= 0.0:
        return 1.0
    at_once = max(1, ENTRIES // (len(rows) * given.cost_usd.shape[1] ** DEPTH))
    bills: list[float] = []
    while len(bills) < WORLDS:
        worlds = given.roads_in(min(at_once, WORLDS - len(bills)), rows)
        bills += [sum(_reachable(road) for road in roads) for roads in worlds]
    return max(1.0, quantiles(bills, n=DEAREST_OF, method="inclusive")[-1] / expected)


def _reachable(road: Road) -> float:
    """What the floor costs, or all that can be done where it is beyond reach."""
    return float(road.spent[min(road.steps, len(road.spent) - 1)])


def _one_world(predictor: Predictor, count: float, rng: np.random.Generator) -> Predictor:
    """What is not known of the endpoints is drawn, and how lucky each is in the mean of so many requests: of a few hundred
    one night's are easier than another's."""
    world = predictor.posterior.drawn(rng)
    luck = rng.multivariate_normal(
        np.zeros(world.common.shape[1]), predictor.covariances.residual / count, check_valid="ignore"
    )
    common = np.vstack([world.common[:1] + luck, world.common[1:]])
    return replace(predictor, posterior=replace(world, common=common))
