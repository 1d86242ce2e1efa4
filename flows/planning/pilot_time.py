"""The pilot's time: what a round takes, and whether the deadline leaves enough after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.paid_hours import withheld
from thirdshift.flows.planning.planner import Decision, Market, problem
from thirdshift.flows.planning.tiers import realtime_counterparts
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.learning.first_looks import SEED
from thirdshift.router.learning.pilot import CHECKED
from thirdshift.router.lots import mean
from thirdshift.router.planning.problem import NOBODY, Infeasible, Terms
from thirdshift.router.planning.solve import cheapest


def seconds_of_round(market: Market, counts: NDArray[np.integer]) -> float:
    """Return how long it takes until all endpoints have answered `counts` ([endpoints]) requests side by side."""
    ends = [0.0]
    for offer in market.offered:
        option, count = offer.option, float(counts[offer.endpoint])
        if not count or option.starts_seconds:
            continue
        work = count / option.requests_per_second if option.requests_per_second else 0.0
        if option.workers is not None:
            rate = option.workers.usd_per_hour / 3600
            busy = (
                float(mean(market.hours_usd[:, market.offered.index(offer)], market.sent)) / rate
                if rate
                else 0.0
            )
            work = max(work, option.workers.startup_seconds + count * busy)
        ends.append(work + option.turnaround_seconds)
    return max(ends)


def in_time(columns: RequestColumns, market: Market, terms: Terms, seconds: float) -> bool:
    """Whether everything can be answered before the deadline after `seconds` of a pilot, whatever that costs."""
    if terms.seconds is None:
        return True
    quality = np.zeros(market.output_tokens.shape, np.float32)
    left = replace(terms, floor=None, cap_usd=None, seconds=max(terms.seconds - seconds, 0.0))
    return cheapest(problem(columns, market, quality, left)) is not None


def falls_in(decision: Decision) -> float | None:
    """Return in how many seconds the price falls that a plan waits for with every request; None where some can be sent."""
    if isinstance(decision.plan, Infeasible):
        return None
    used = np.unique(decision.plan.choice[decision.plan.choice != NOBODY])
    first = min((decision.problem.options[k].starts_seconds for k in used), default=0.0)
    return first if first > 0 else None


def first_looks(
    context: RunContext, columns: RequestColumns, priced: Market, tried: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[endpoints] requests that the first round of a pilot tries on each."""
    count = min(context.pilots, columns.requests, SEED)
    looks = np.where(tried >= count, min(CHECKED, count), count)
    counterpart = realtime_counterparts(context.endpoints)
    looks[(counterpart >= 0) | ~columns.allowed.any(axis=0)] = 0
    known = np.zeros(len(context.endpoints), bool)
    looks[withheld(priced, columns.allowed, known, context.baseline)] = 0
    return looks
