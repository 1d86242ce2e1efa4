"""The first few answers of endpoints that nobody has timed or measured: they are had before there is a plan.

Where no score is to be learnt there is no pilot, and a plan would go by a guess of how long answers are. A few requests of
those that an endpoint is to serve anyway cost nothing more, and tell its lengths and its latency. Of a model that is to
serve in batches its endpoint in real time is asked, where the job has one: a batch would take the night. That costs twice,
as does what is asked of one that may turn out dearer: of these there are fewer, the fewer the smaller the input is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.measured.latency import timed
from thirdshift.flows.planning.planner import Market
from thirdshift.flows.planning.tiers import same_answers
from thirdshift.router.planning.problem import Infeasible
from thirdshift.router.planning.solve import fallback

FEW = 24
"""Answers that tell a mean length to about a seventh: lengths spread by 0.5 to 0.7 of themselves. More are not asked."""
LOOKS = 0.5
"""Where they cost more than they would as planned, this times the root of the requests of a task: of n requests each
answer adds some n-th to the bill, and a choice by k answers loses about a seventh of it over k."""
SEEN = 2
"""So many answers of each task at least: lengths hang on both."""
HOPED, DOUBT = 0.4, 0.4
"""Nobody knows what an answer costs of which none was seen; this share of what is guessed is what one in four costs at
most, so that an endpoint that may be the bargain is among those looked at. Of k answers 1 less the second over root k."""
HUNT = 0.03
"""No more than this share of the bill is risked on one that would not serve by what is guessed."""
BARGAIN, CHANCE = 0.26, 0.25
"""What one in four of them costs in the mean, as a share of what is guessed: lengths of models on one task spread so that
HOPED is what one in four costs at most."""
NEAR = 1e-12
LITTLE = 60
"""Where an endpoint is to serve so few requests there is little to save."""
TRIFLE = 0.01
"""This share of what an endpoint is to serve costs next to nothing."""
SHARE = 0.2
"""No more than this share of what an endpoint would serve is sent so."""


def first_answers(learner: Learner) -> list[tuple[str, NDArray[np.int64]]]:
    """Return (endpoint's name, rows) to send before the plan; nothing where all is known or nothing is to be chosen."""
    context, columns = learner.context, learner.columns
    endpoints = context.endpoints
    offered = np.unique(same_answers(endpoints)[columns.allowed.any(axis=0)])
    if (context.pilots and not learner.sends_on) or len(offered) < 2:
        return []
    task, seen = lengths_seen(learner)
    itself = np.array([timed(endpoint) for endpoint in endpoints])
    asked = np.where(itself, np.arange(len(endpoints)), learner.realtime_counterpart)
    timely = np.flatnonzero((asked >= 0) & (seen.min(axis=1) < FEW))
    if not len(timely):
        return []
    market = learner.market()
    factor = np.ones(seen.shape)
    factor[timely] = hoped(seen[timely])
    by_hope = market.cost_usd * factor[market.endpoint][:, task].T
    wanted = _plan(learner, replace(market, cost_usd=by_hope))
    if wanted is None:
        return []

    @cache
    def planned() -> _Planned | None:
        return _plan(learner, market)

    @cache
    def guessed() -> _Planned:
        return planned() or replace(wanted, usd=math.inf)

    cost, found = market.by_endpoint(), []
    for e in np.unique(asked[timely]).tolist():
        same = np.flatnonzero(asked == e)
        served = np.flatnonzero(np.isin(wanted.target, same) & columns.allowed[:, e])
        if len(served) <= LITTLE:
            continue
        rows = _unseen(served, task, seen[e], times=2)
        if len(rows):
            there = np.isin(task[served], task[served[np.isin(guessed().target[served], same)]])
            most = HUNT * guessed().usd / max(float(cost[served, e].mean()), NEAR)
            hunted = _unseen(served[~there], task, seen[e], times=2)[: int(min(most, len(served)))]
            rows = np.concatenate([_unseen(served[there], task, seen[e]), hunted])
        if not len(rows) and itself[e]:
            rows = _at_no_cost(
                served, cost[served, e], cost[served, wanted.target[served]], FEW - int(seen[e].sum())
            )
        found += learner.not_held(np.sort(rows), np.full(len(rows), e, np.int32))
    unseen = [e for e in np.unique(asked[timely]).tolist() if seen[e].sum() < SEEN]
    return found or _hunted(learner, market, planned, unseen)


def _hunted(
    learner: Learner, market: Market, planned: Callable[[], _Planned | None], unknown: Sequence[int]
) -> list[tuple[str, NDArray[np.int64]]]:
    """Return a few requests of each model that nobody has seen and that would serve if it were the bargain one in four is;
    those that serve by what is guessed are known by then.

    Of what may be gained k answers find k of k + 1 parts, and each makes the night dearer if it finds nothing: most is left
    where k is about the root of the gain over that. `planned`: the plan by what is guessed; `unknown`: endpoints in
    real time."""
    kind, task = same_answers(learner.context.endpoints), learner.columns.population.task
    rng = np.random.default_rng(0)
    guessed = planned() if unknown else None
    if guessed is None or not guessed.feasible:
        return []
    found = []
    for e in unknown:
        factor = np.where(kind[market.endpoint] == kind[e], BARGAIN, 1.0)
        wanted = _plan(learner, replace(market, cost_usd=market.cost_usd * factor))
        if wanted is None or not wanted.feasible:
            continue
        would = (wanted.target >= 0) & (kind[wanted.target] == kind[e])
        served = rng.permutation(np.flatnonzero(would & learner.columns.allowed[:, e]))
        looks = served[_by_turns(task[served])][: looks_worth(len(served))]
        if len(served) <= LITTLE or wanted.usd >= guessed.usd:
            continue
        tried = _plan(learner, market.with_kept(looks, np.full(len(looks), e, np.int32)))
        if tried is None or not tried.feasible:
            continue
        each = max(tried.usd - guessed.usd, NEAR) / len(looks)
        count = math.isqrt(int(CHANCE * (guessed.usd - wanted.usd) / each))
        if count >= SEEN:
            rows = np.sort(looks[:count])
            found += learner.not_held(rows, np.full(len(rows), e, np.int32))
    return found


def _by_turns(task: NDArray[np.integer]) -> NDArray[np.intp]:
    """The order in which each task has its first request before one has its second."""
    turn = np.empty(len(task), np.intp)
    for t in np.unique(task):
        turn[task == t] = np.arange(int((task == t).sum()))
    return np.argsort(turn, kind="stable")


def hoped(seen: NDArray[np.int64]) -> NDArray[np.float64]:
    """What an answer may cost as a share of what is guessed, where so many were seen."""
    return np.where(seen > 0, 1.0 - DOUBT / np.sqrt(np.maximum(seen, 1)), HOPED)


def _unseen(
    served: NDArray[np.intp], task: NDArray[np.integer], seen: NDArray[np.int64], times: int = 1
) -> NDArray[np.intp]:
    """Some of the requests of each task of which so few answers were seen that more are worth what they cost, in random
    order. `times`: so many times as many are, a part of them after the first were seen."""
    rng, rows = np.random.default_rng(0), []
    for t in np.unique(task[served]).tolist():
        mine = served[task[served] == t]
        worth = looks_worth(len(mine))
        count = min(worth, times * worth - int(seen[t]))
        if 0 < count <= SHARE * len(mine):
            rows.append(rng.permutation(mine)[:count])
    return rng.permutation(np.concatenate(rows)) if rows else served[:0]


def _at_no_cost(
    served: NDArray[np.intp], usd: NDArray[np.float64], planned: NDArray[np.float64], count: int
) -> NDArray[np.intp]:
    """So many requests, where asking them in real time costs next to nothing beside what is planned."""
    dearer = float(usd.sum() - planned.sum())
    if not 0 < count <= SHARE * len(served) or dearer * count > TRIFLE * float(planned.sum()) * len(served):
        return served[:0]
    return np.random.default_rng(0).permutation(served)[:count]


@dataclass(frozen=True, slots=True)
class _Planned:
    target: NDArray[np.int32]
    """[leaders] the endpoint; -1: nobody."""
    usd: float
    feasible: bool


def _plan(learner: Learner, market: Market) -> _Planned | None:
    """The plan as it would be carried out: where a limit allows none by what is guessed, what can be had instead."""
    decision = learner.decide(market, learner.context.terms())
    plan = decision.plan
    feasible = not isinstance(plan, Infeasible)
    if isinstance(plan, Infeasible):
        compromise = fallback(decision.problem)
        if compromise is None:
            return None
        plan = compromise[0]
    return _Planned(decision.market.target(plan.choice), plan.cost_usd, feasible)


def looks_worth(requests: int) -> int:
    """How many answers are worth having before the others, of so many requests of one task."""
    return min(max(math.ceil(LOOKS * math.sqrt(requests)), SEEN), FEW)


def lengths_seen(learner: Learner) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """[leaders] the task of each, and [endpoints, tasks] answers whose length is known, now and before; of one model,
    whatever tier gave them. Clusters of like prompts are one task: lengths are learnt of all together."""
    columns, used = learner.columns, learner.run_queries.token_usage()
    kind, task = same_answers(learner.context.endpoints), columns.population.task
    seen = np.zeros((len(kind), columns.population.tasks), np.int64)
    np.add.at(seen, (kind[used.endpoint], columns.population.task[columns.positions(used.row)]), 1)
    if learner.past is not None:
        np.add.at(seen, (kind[learner.past.lengths.endpoint], learner.past.lengths.task), 1)
    if learner.in_kinds:
        task, seen = np.zeros_like(task), seen.sum(axis=1, keepdims=True)
    return task, seen[kind]
