"""The first few answers of endpoints that nobody has timed or measured: they are had before there is a plan.

Where no score is to be learnt there is no pilot, and a plan would go by a guess of how long answers are. A few requests of
those that an endpoint is to serve anyway cost nothing more, and tell its lengths and its latency.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.latency import timed
from thirdshift.flows.planning.learner import Learner
from thirdshift.flows.planning.tiers import same_answers
from thirdshift.router.learning.pilot import stratified
from thirdshift.router.planning.problem import NOBODY, Infeasible

FEW = 24
"""Answers that tell a mean length to about a seventh: lengths spread by 0.5 to 0.7 of themselves."""
HOPED = 0.6
"""Nobody knows what an answer costs of which none was seen; this share of what is guessed is what one in four costs at
most, so that an endpoint that may be the bargain is among those looked at."""
SHARE = 0.2
"""No more than this share of what an endpoint would serve is sent so: of less there is little to save."""


def first_answers(learner: Learner) -> list[tuple[str, NDArray[np.int64]]]:
    """Return (endpoint's name, rows) to send before the plan; nothing where all is known or nothing is to be chosen."""
    context, columns = learner.context, learner.columns
    endpoints, kind = context.endpoints, same_answers(context.endpoints)
    offered = np.unique(kind[columns.allowed.any(axis=0)])
    if context.pilots or len(offered) < 2:
        return []
    known = np.concatenate(
        [learner.run_queries.token_usage().endpoint, learner.past.lengths.endpoint if learner.past else []]
    ).astype(np.int64)
    unknown = [e for e, one in enumerate(endpoints) if timed(one) and kind[e] not in kind[known]]
    if not unknown:
        return []
    market = learner.market()
    cheaper = np.where(np.isin(market.endpoint, unknown), HOPED, 1.0)
    decision = learner.decide(replace(market, cost_usd=market.cost_usd * cheaper), context.terms())
    plan = decision.plan
    if isinstance(plan, Infeasible):
        return []
    target = np.where(plan.choice == NOBODY, -1, decision.market.endpoint[plan.choice])
    rng = np.random.default_rng(0)
    found = []
    for e in unknown:
        served = np.flatnonzero(target == e)
        if SHARE * len(served) >= FEW:
            part = columns.population.part(served, np.ones(len(served)))
            found.append((endpoints[e].name, columns.rows[np.sort(served[stratified(part, FEW, rng)])]))
    return found
