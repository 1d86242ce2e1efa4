"""What the chance that a batch is late or lost costs: a stated prior, and what earlier batches of the tier came to.

A request that its batch leaves undone is answered in real time, where the same model is to be had so, else in another
batch. Where the tier keeps what is done, only what was undone is paid elsewhere; where it loses everything, or nobody
says that it does not, the lost batch is booked as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.harvest import CANCEL_SECONDS, DAY, HOUR, LEAST_SHARE, MARGIN
from thirdshift.router.tiers import BatchHistory, BatchTier, Expiry
from thirdshift.router.values import Endpoint, Mode

LATER = ((0.0, 1.0), (7 * 60.0, 0.5), (HOUR, 0.1), (DAY, 0.02))
"""Seconds and the share of batches that take longer: 230,000 batches at OpenRouter, the only figures that are published
(half done in 7 minutes, 90 % in an hour); 2 % beyond a day."""
LATE = LATER[-1][1]
LOST = 0.05
"""Believed of a tier that loses everything, or of which nobody says what it keeps: one batch in twenty."""
PRIOR_BATCHES = 20.0
"""The prior weighs as much as so many batches that were seen."""
SHARE_AT_RISK = 0.05
"""A batch holds no more of what goes to a tier that keeps nothing when a batch expires."""
FEWEST_AT_RISK = 100


def keeps(tier: BatchTier | None) -> bool:
    """Whether a batch that ends before its time leaves what is done, and charges no more than that."""
    if tier is None:
        return True
    return tier.expiry is Expiry.KEEPS or (tier.expiry is Expiry.NEVER and tier.cancel == "keeps")


def keeps_on_cancel(tier: BatchTier | None) -> bool:
    """Whether a batch that is cancelled leaves what is done."""
    return tier is None or tier.cancel == "keeps"


def window_seconds(tier: BatchTier | None) -> float:
    """The time within which a batch is to be done; a day where that is not told."""
    window = None if tier is None or tier.window is None else tier.window.hours
    return HOUR * (window or 24.0)


def requests_at_risk(requests: int, most: int) -> int:
    """Requests of one batch at a tier that keeps nothing: losing one loses little."""
    return min(most, max(FEWEST_AT_RISK, -(-requests // round(1 / SHARE_AT_RISK))))


def undone_chance(tier: BatchTier | None, history: BatchHistory, seconds: float | None) -> float:
    """The chance that a batch has not done its work after so many seconds; None: as long as the tier gives it."""
    prior = LATE if keeps(tier) else LOST
    if seconds is not None and not history.stated and seconds < window_seconds(tier):
        prior = max(prior, _later(seconds))
    longer = sum(took > (inf if seconds is None else seconds) or took == inf for took in history.seconds)
    return (PRIOR_BATCHES * prior + longer) / (PRIOR_BATCHES + len(history.seconds))


def _later(seconds: float) -> float:
    """The share of batches that take longer, as the prior has it."""
    for (start, before), (end, after) in pairwise(LATER):
        if seconds < end:
            if not start:
                return before + (after - before) * seconds / end
            way = log(seconds / start) / log(end / start)
            return before * float((after / before) ** way)
    return LATE


def waiting_seconds(now: datetime, deadline: datetime | None) -> float | None:
    """How long a batch sent now can be waited for, if real time is to answer after it what it leaves."""
    if deadline is None:
        return None
    left = max(0.0, (deadline - now).total_seconds())
    return max(left - MARGIN * CANCEL_SECONDS, LEAST_SHARE * left)


def expected_losses(
    endpoints: Sequence[Endpoint],
    endpoint: NDArray[np.int32],
    cost_usd: NDArray[np.float64],
    realtime_counterpart: NDArray[np.int32],
    *,
    now: datetime,
    deadline: datetime | None,
) -> NDArray[np.float64]:
    """USD [n, options] that a request at a batch tier costs besides its price, on average, for what is left undone.

    `endpoint`: [options] whose each is; `cost_usd`: [n, options]; `realtime_counterpart`: [endpoints], -1: none.
    """
    losses = np.zeros_like(cost_usd)
    seconds = waiting_seconds(now, deadline)
    for option, e in enumerate(endpoint.tolist()):
        offered = endpoints[e]
        if offered.mode is not Mode.BATCH:
            continue
        history = offered.batches or BatchHistory(stated=offered.turnaround_seconds is not None)
        chance = undone_chance(offered.tier, history, seconds)
        same = (
            np.flatnonzero(endpoint == realtime_counterpart[e]) if realtime_counterpart[e] >= 0 else [option]
        )
        again = cost_usd[:, same].min(axis=1)
        saved = cost_usd[:, option] if keeps(offered.tier) else 0.0
        losses[:, option] = chance * np.maximum(again - saved, 0.0)
    return losses
