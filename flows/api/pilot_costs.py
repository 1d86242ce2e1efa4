"""What a pilot ahead costs, and what it leaves of the cap."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.flows.planning.columns import RequestColumns
from thirdshift.flows.planning.paid_hours import withheld
from thirdshift.flows.planning.planner import Market
from thirdshift.flows.quality.label_budget import judging_usd_at_most
from thirdshift.flows.runs.context import RunContext
from thirdshift.router.learning.first_looks import SEED
from thirdshift.router.learning.pilot import CHECKED
from thirdshift.router.lots import mean
from thirdshift.router.planning.problem import Terms


def pilot_usd(
    context: RunContext, columns: RequestColumns, priced: Market, tried: NDArray[np.int64]
) -> tuple[float, float]:
    """What a pilot costs at most, and what of that is for a judge: each of its requests on every candidate, fewer on those
    that earlier nights know. One answer of each is kept as its result."""
    count = min(context.pilots, columns.requests)
    cost = np.where(columns.allowed, priced.by_endpoint(), np.nan)
    if not count or not np.isfinite(cost).any(axis=1).all():
        return 0.0, 0.0
    each = mean(np.where(columns.allowed, cost, 0.0), columns.sent)
    known = np.zeros(len(context.endpoints), bool)
    each[withheld(priced, columns.allowed, known, context.baseline)] = 0.0
    looks = np.where(tried >= min(SEED, count), min(CHECKED, count), count)
    judged = judging_usd_at_most(context, columns, priced, float(looks.sum()))
    asked = float(looks @ each) + judged
    cap = context.terms().cap_usd
    if cap is not None:
        asked = min(asked, max(0.0, cap - priced.total_usd(np.nanmin(cost, axis=1))))
    return asked, min(judged, asked)


def less_pilot(terms: Terms, pilot_usd: float, share: float) -> Terms:
    """What is left when the pilot is paid, for the requests that it has not answered."""
    if terms.cap_usd is None:
        return terms
    return replace(terms, cap_usd=max(terms.cap_usd - pilot_usd, 0.0) / max(1.0 - share, 1e-9))
