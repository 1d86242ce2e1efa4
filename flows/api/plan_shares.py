"""What each endpoint gets of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.planner import Market
from thirdshift.router.lots import sent_of, total
from thirdshift.router.planning.options import of_endpoint
from thirdshift.router.planning.problem import Plan, Problem
from thirdshift.router.planning.usage import tally
from thirdshift.router.values import Endpoint


@dataclass(frozen=True, slots=True)
class Share:
    """What one endpoint gets of a plan."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    cost_sd_usd: float


def shares_of(
    plan: Plan, problem: Problem, columns: RequestColumns, market: Market, endpoints: Sequence[Endpoint]
) -> dict[str, Share]:
    """Return by endpoint's name what it gets, where it gets anything."""
    used = tally(problem, plan.choice)
    endpoint = market.target(plan.choice)
    shares = {}
    for e, value in enumerate(endpoints):
        rows = np.flatnonzero(endpoint == e)
        if not rows.size:
            continue
        sent = sent_of(columns.sent, rows)
        length = market.lengths.total(columns.population.task[rows], columns.max_tokens[rows], e, sent=sent)
        shares[value.name] = Share(
            requests=int(columns.weight[rows].sum()),
            input_tokens=round(float(total(columns.tokens[e][rows], sent))),
            output_tokens=int(length.mean),
            cost_usd=float(used.cost[market.endpoint == e].sum()),
            cost_sd_usd=_sd_usd(market, plan, e, value, length.sd),
        )
    return shares


def _sd_usd(market: Market, plan: Plan, endpoint: int, value: Endpoint, tokens_sd: float) -> float:
    """What an endpoint's part of the bill may be off by: for lengths, and where hours are paid for speeds."""
    workers = next(offer.option.workers for offer in market.offered if offer.endpoint == endpoint)
    if workers is None:
        return tokens_sd * float(value.price.base.output) / 1e6
    paid = workers.usd_per_hour * sum(of_endpoint(value, plan.worker_hours))
    written = tokens_sd / workers.decode_tokens_per_second * workers.usd_per_hour / 3600
    return float(np.hypot(workers.speed_sd * paid, written))
