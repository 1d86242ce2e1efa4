"""The first few answers of endpoints that nobody has timed or measured: they are had before there is a plan.

Where no score is to be learnt there is no pilot, and a plan would go by a guess of how long answers are. A few requests of
those that an endpoint is to serve anyway cost nothing more, and tell its lengths and its latency. Of a model that is to
serve in batches its endpoint in real time is asked, where the job has one: a batch would take the night. That costs twice,
as does what is asked of one that may turn out dearer: of these there are fewer, the fewer the smaller the input is.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.measured.latency import timed
from thirdshift.flows.planning.planner import Decision
from thirdshift.flows.planning.tiers import same_answers
from thirdshift.router.learning.pilot import stratified
from thirdshift.router.planning.problem import NOBODY, Infeasible, Plan
from thirdshift.router.planning.solve import fallback

FEW = 24
"""Answers that tell a mean length to about a seventh: lengths spread by 0.5 to 0.7 of themselves. More are not asked."""
LOOKS = 0.25
"""Where they cost more than they would as planned, this times the root of requests and tasks: of n requests each answer
adds some n-th to the bill, and a choice by k answers loses about a seventh of it over k."""
HOPED = 0.4
"""Nobody knows what an answer costs of which none was seen; this share of what is guessed is what one in four costs at
most, so that an endpoint that may be the bargain is among those looked at."""
SEEN = 2
"""A task of which an endpoint has given fewer answers is looked at too: lengths hang on both."""
LITTLE = 60
"""Of so few requests there is little to save."""
TRIFLE = 0.01
"""This share of what an endpoint is to serve costs next to nothing."""
SHARE = 0.2
"""No more than this share of what an endpoint would serve is sent so."""


def first_answers(learner: Learner) -> list[tuple[str, NDArray[np.int64]]]:
    """Return (endpoint's name, rows) to send before the plan; nothing where all is known or nothing is to be chosen."""
    context, columns = learner.context, learner.columns
    endpoints, kind = context.endpoints, same_answers(context.endpoints)
    offered = np.unique(kind[columns.allowed.any(axis=0)])
    if context.pilots or len(offered) < 2:
        return []
    seen = _answers_seen(learner, kind)
    itself = np.array([timed(endpoint) for endpoint in endpoints])
    asked = np.where(itself, np.arange(len(endpoints)), learner.realtime_counterpart)
    unknown = (asked >= 0)[:, None] & (seen < SEEN)  # [endpoints, tasks]
    unsure = itself & (seen.sum(axis=1) < FEW)
    if not (unknown.any() or unsure.any()):
        return []
    market, task = learner.market(), columns.population.task
    cheaper = np.where(unknown[market.endpoint][:, task].T, HOPED, 1.0)
    decision = learner.decide(replace(market, cost_usd=market.cost_usd * cheaper), context.terms())
    plan = _carried_out(decision)
    if plan is None:
        return []
    target = np.where(plan.choice == NOBODY, -1, decision.market.endpoint[plan.choice])
    cost, found = market.by_endpoint(), []
    for e in np.unique(asked[unknown.any(axis=1) | unsure]).tolist():
        alike = np.isin(target, np.flatnonzero(asked == e)) & columns.allowed[:, e]
        served = np.flatnonzero(alike & unknown[e, task])
        count = _looks_worth(len(served), int(unknown[e].sum()))
        if len(served) <= LITTLE and unsure[e]:  # where more cost next to nothing, they are had too
            served, count = np.flatnonzero(alike & ~unknown[e, task]), FEW - int(seen[e].sum())
            planned = float(cost[served, target[served]].sum())
            if (float(cost[served, e].sum()) - planned) * count > TRIFLE * planned * len(served):
                continue
        if len(served) > LITTLE and count <= SHARE * len(served):
            part = columns.population.part(served, np.ones(len(served)))
            rows = np.sort(served[stratified(part, count, np.random.default_rng(0))])
            found += learner.not_held(rows, np.full(len(rows), e, np.int32))
    return found


def _looks_worth(requests: int, tasks: int) -> int:
    """How many answers are worth having before the others, of so many requests of tasks of which hardly any was seen."""
    return min(max(math.ceil(LOOKS * math.sqrt(requests * tasks)), SEEN * tasks), FEW)


def _answers_seen(learner: Learner, kind: NDArray[np.integer]) -> NDArray[np.int64]:
    """[endpoints, tasks] answers whose length is known, now and before; of one model, whatever tier gave them."""
    columns, used = learner.columns, learner.run_queries.token_usage()
    seen = np.zeros((len(kind), columns.population.tasks), np.int64)
    np.add.at(seen, (kind[used.endpoint], columns.population.task[columns.positions(used.row)]), 1)
    if learner.past is not None:
        np.add.at(seen, (kind[learner.past.lengths.endpoint], learner.past.lengths.task), 1)
    of_model: NDArray[np.int64] = seen[kind]
    return of_model


def _carried_out(decision: Decision) -> Plan | None:
    """The plan as it would be carried out: where a limit allows none by what is guessed, what can be had instead."""
    if not isinstance(decision.plan, Infeasible):
        return decision.plan
    compromise = fallback(decision.problem)
    return None if compromise is None else compromise[0]
