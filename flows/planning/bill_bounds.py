"""What a plan's bill may come to: the figure that 95 of 100 runs keep to, and what the ceilings allow at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import numpy as np

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.planner import Decision, Market
from thirdshift.router.learning.votes import ENOUGH
from thirdshift.router.lots import sent_of, total
from thirdshift.router.planning.market import cost_matrix
from thirdshift.router.planning.problem import NOBODY, Plan
from thirdshift.router.tokens.output_lengths import cost_high
from thirdshift.router.values import Endpoint

CHUNK = 100_000
"""Requests whose ceilings are reckoned at a time."""
SURE = 1.645
"""Standard deviations that 95 of 100 keep to."""


def high_usd(
    columns: RequestColumns,
    market: Market,
    endpoints: Sequence[Endpoint],
    decision: Decision,
    plan: Plan,
    spread_usd: Sequence[float],
) -> float:
    """The bill that is not exceeded in 95 of 100 runs: longer answers, more that must be sent on, never above what the
    ceilings of all that may be asked allow. `spread_usd`: of each endpoint's part, for what lengths may be."""
    by_length = (
        cost_high([plan.cost_usd], [float(np.hypot.reduce(spread_usd)) if spread_usd else 0.0])
        - plan.cost_usd
    )
    by_mending = 0.0 if decision.cascades is None else (decision.cascades.high - 1.0) * plan.cost_usd
    by_voting = SURE * float(np.hypot.reduce(_by_voting(market, plan)))
    high = plan.cost_usd + float(np.hypot.reduce([max(by_length, 0.0), by_mending, by_voting]))
    return max(min(high, ceiling_usd(columns, market, endpoints, decision, plan)), plan.cost_usd)


def _by_voting(market: Market, plan: Plan) -> list[float]:
    """For each vote what its part of the bill may be off by, as a standard deviation: how often two differ was learnt from
    few requests."""
    if not market.votes:
        return [0.0]
    spreads, usd = [0.0], market.by_endpoint()
    for place, vote in enumerate(market.votes):
        option = market.offered[market.singles + place].option
        differ = dict(option.calls)[int(np.flatnonzero(market.endpoint[: market.singles] == vote.third)[0])]
        third = market.total_usd(np.where(plan.choice == market.singles + place, usd[:, vote.third], 0.0))
        spreads.append(third * float(np.sqrt(differ * (1.0 - differ) / ENOUGH)))
    return spreads


def ceiling_usd(
    columns: RequestColumns, market: Market, endpoints: Sequence[Endpoint], decision: Decision, plan: Plan
) -> float:
    """What the answers of a plan can cost at most: all of them as long as they may be; where what fails is sent on, of
    every endpoint that is allowed. Infinite where hours are paid, which no ceiling bounds."""
    if any(usd > 0 for usd in plan.worker_hours.values()):
        return np.inf
    begins = range(0, len(columns.rows), CHUNK)
    some = (slice(begin, begin + CHUNK) for begin in begins)
    return sum(_ceiling_of(rows, columns, market, endpoints, decision, plan) for rows in some)


def _ceiling_of(
    rows: slice,
    columns: RequestColumns,
    market: Market,
    endpoints: Sequence[Endpoint],
    decision: Decision,
    plan: Plan,
) -> float:
    beside = np.array([endpoint.reasoning_tokens_max or 0 for endpoint in endpoints])
    longest = (columns.max_tokens[rows, None] + beside).astype(np.float32)
    kept = [None if cache.kept is None else cache.kept[rows] for cache in columns.caches]
    tokens = [counted[rows] for counted in columns.tokens]
    sent = sent_of(columns.sent, rows)
    most = cost_matrix(endpoints, market.offered, tokens, longest, written_tokens=kept)
    single = market.endpoint[: market.singles]
    of = np.stack(
        [most[:, np.flatnonzero(single == e)].max(axis=1, initial=0.0) for e in range(len(endpoints))], axis=1
    )
    if decision.cascades is None:
        for place, vote in enumerate(market.votes):
            most[:, market.singles + place] = of[:, astuple(vote)].sum(axis=1)
        choice = plan.choice[rows]
        own = most[np.arange(len(choice)), np.maximum(choice, 0)]
        return float(total(np.where(choice == NOBODY, 0.0, own), sent))
    return float(total((of * columns.allowed[rows]).sum(axis=1), sent))
