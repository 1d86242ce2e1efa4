"""What a plan's bill may come to: the figure that 95 of 100 runs keep to, and what the ceilings allow at most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thirdshift.flows.planning.planner import Decision, Market, RequestColumns
from thirdshift.router.planning.market import cost_matrix
from thirdshift.router.planning.problem import NOBODY, Plan
from thirdshift.router.tokens.output_lengths import cost_high
from thirdshift.router.values import Endpoint


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
    high = plan.cost_usd + float(np.hypot(max(by_length, 0.0), by_mending))
    return max(min(high, ceiling_usd(columns, market, endpoints, decision, plan)), plan.cost_usd)


def ceiling_usd(
    columns: RequestColumns, market: Market, endpoints: Sequence[Endpoint], decision: Decision, plan: Plan
) -> float:
    """What the answers of a plan can cost at most: all of them as long as they may be; where what fails is sent on, of
    every endpoint that is allowed. Infinite where hours are paid, which no ceiling bounds."""
    beside = np.array([endpoint.reasoning_tokens_max or 0 for endpoint in endpoints])
    longest = (columns.max_tokens[:, None] + beside).astype(np.float32)
    most = cost_matrix(endpoints, market.offered, columns.tokens, longest)
    if any(usd > 0 for usd in plan.worker_hours.values()):
        return np.inf
    if decision.cascades is None:
        served = np.flatnonzero(plan.choice != NOBODY)
        return float(most[served, plan.choice[served]].sum())
    of = [most[:, market.endpoint == e].max(axis=1, initial=0.0) for e in range(len(endpoints))]
    return float((np.stack(of, axis=1) * columns.allowed).sum())
