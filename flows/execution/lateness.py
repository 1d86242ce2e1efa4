"""A run with a deadline is served in slices, so that what turns out late is planned anew while there is time.

Only real-time requests are: a batch is the provider's once it is sent, and a worker shares its requests out as it goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thirdshift.flows.execution.plan import PlannedRun
from thirdshift.flows.planning.assignment import PendingRows
from thirdshift.flows.planning.measured.latency import ENOUGH, timed
from thirdshift.flows.planning.planner import Market, problem
from thirdshift.router.harvest import CONCURRENCY
from thirdshift.router.planning.problem import NOBODY, Problem
from thirdshift.router.planning.solve import best_within, cheapest

SURE = 0.3
"""What takes no more than this share of the time left is sent whole."""
LEAVES = 0.9
"""What is planned anew is planned for this share of the time left: slices begin and end."""
SLICE, FIRST_SLICE = 0.35, 0.1
"""The share of the time left that a slice should take; and before the endpoint's latency was measured in this run."""


def on_time(planned: PlannedRun, pending: PendingRows) -> PendingRows:
    """Return what of `pending` to send now; what cannot be answered before the deadline is given other endpoints first."""
    context, assignment = planned.run.context, planned.assignment
    endpoints = [context.endpoints[e] for e in np.unique(pending.endpoint)]
    left = context.terms().seconds
    if left is None or not left or assignment.ordered or not all(map(timed, endpoints)):
        return pending
    market = planned.prepared.learner.market()
    paces = _paces(planned, market)
    counts = np.bincount(pending.endpoint)
    if any(count > pace.most(left) for count, pace in zip(counts.tolist(), paces, strict=False)):
        late = [e for e, pace in enumerate(paces) if not pace.most(LEAVES * left)]
        pending = _planned_anew(planned, market, pending, late)
    sent = np.ones(len(pending), bool)
    for e in np.unique(pending.endpoint).tolist():
        pace, mine = paces[e], np.flatnonzero(pending.endpoint == e)
        most = pace.rate * left
        if len(mine) > SURE * most:
            share = SLICE if pace.seconds else FIRST_SLICE
            waves = max(math.ceil(share * most / pace.lanes), math.ceil(ENOUGH / pace.lanes))
            sent[mine[waves * pace.lanes :]] = False
    return PendingRows(pending.position[sent], pending.endpoint[sent])


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast an endpoint answers: so many requests a second, so many at once, and what each takes in this run."""

    rate: float
    lanes: int
    seconds: float
    """0: this run has not measured it."""

    def most(self, left: float) -> float:
        """Return how many requests it answers in so many seconds; what is begun and not over by then is none."""
        whole = self.lanes * math.floor(left / self.seconds) if self.seconds else math.inf
        return min(self.rate * left, whole)


def _paces(planned: PlannedRun, market: Market) -> list[_Pace]:
    """Return the pace of each endpoint; of one that is not on offer any more nobody asks."""
    context, measured = planned.run.context, planned.run.queries.calls()
    seconds = {
        e: took
        for e, took, answers in zip(
            measured.endpoint.tolist(), measured.seconds.tolist(), measured.answers.tolist(), strict=True
        )
        if answers >= ENOUGH
    }
    rates = {offer.endpoint: offer.option.requests_per_second or math.inf for offer in market.offered}
    return [
        _Pace(rates.get(e, math.inf), endpoint.limits.concurrency or CONCURRENCY, seconds.get(e, 0.0))
        for e, endpoint in enumerate(context.endpoints)
    ]


def _planned_anew(
    planned: PlannedRun, market: Market, pending: PendingRows, late: Sequence[int]
) -> PendingRows:
    """Give the pending requests the endpoints that answer them in time, as good as planned where that can be had.

    `late`: endpoints, by number, that answer nothing more in time.
    """
    run, assignment, rows = planned.run, planned.assignment, pending.position
    posed = _problem(planned, market, pending, late)
    plan = cheapest(posed) or best_within(posed)
    if plan is None:
        return pending
    target = np.where(plan.choice == NOBODY, assignment.target[rows], market.endpoint[plan.choice])
    moved = int((target != assignment.target[rows]).sum())
    if moved:
        run.console.say(f"answers come later than planned: {moved:,} requests are given another endpoint")
    assignment.target[rows] = target
    return PendingRows(rows, target.astype(np.int32))


def _problem(planned: PlannedRun, market: Market, pending: PendingRows, late: Sequence[int]) -> Problem:
    """The plan of what is pending, from now on: the quality that it was planned with, what is left of cap and time."""
    before, run, rows = planned.singles, planned.run, pending.position
    quality = np.zeros(market.output_tokens.shape, np.float32)
    for option, endpoint in enumerate(planned.market.endpoint.tolist()):
        quality[:, endpoint] = before.quality[:, option]
    floor = None
    if before.terms.floor is not None:
        planned_quality = quality[rows, pending.endpoint]
        floor = float(np.average(planned_quality, weights=before.weight[rows]))
    terms = run.context.terms(spent_usd=run.budget.spent_usd)
    terms = replace(terms, floor=floor, per_task=False, seconds=LEAVES * (terms.seconds or 0.0))
    posed = problem(planned.prepared.columns, market, quality, terms)
    assignment = planned.assignment
    unable = (assignment.failed | (assignment.out_until > run.context.world.time()))[:, market.endpoint]
    unable = unable | np.isin(market.endpoint, late)
    return replace(posed, cost=np.where(unable, np.inf, posed.cost)).part(rows)
