"""When a batch that is still running must be cut short, so that what it leaves undone is answered in real time.

Nothing is gained by cutting a batch short early: its answers cost half. So the moment is the last one at which real
time can still do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from thirdshift.router.values import Limits

CANCEL_SECONDS = 600.0
"""OpenAI's documentation: a batch may be `cancelling` for up to ten minutes before its results are there."""
MARGIN = 1.25
"""Real time takes longer than its rates say: requests wait for each other, some are sent twice."""
LEAST_SHARE = 0.5
"""The share of the time from a batch's beginning to the deadline that it is given in any case:
otherwise a short night would cut every batch short at once."""

SECONDS_EACH = 10.0
"""How long a call takes where the ledger has none: a few hundred tokens at 30 to 50 a second."""
CONCURRENCY = 32
"""In flight where the endpoint states nothing: what most providers allow a new account."""

HOUR, DAY = 3600.0, 24 * 3600.0
PRIOR_SECONDS = (*(HOUR,) * 9, DAY)
"""Batches believed to have been seen before any was: nine of ten done within an hour, one stuck until it expires."""
USUAL_SHARE = 0.8
"""The share of batches that are back within what is planned with where the late ones are cut short."""
SURE_SHARE = 0.95
"""The share of batches that are back within what is planned with where late ones are not cut short."""


def harvest_at(began: datetime, deadline: datetime, left: int, per_second: float) -> datetime:
    """When to cancel, if `left` requests are then to be answered in real time at `per_second` before the deadline."""
    needed = timedelta(seconds=MARGIN * (CANCEL_SECONDS + left / per_second))
    return max(deadline - needed, began + LEAST_SHARE * (deadline - began))


def requests_per_second(limits: Limits, seen_seconds: float | None) -> float:
    """What an endpoint can do in real time. `seen_seconds`: how long its calls took, None where none was seen."""
    at_once = limits.concurrency or CONCURRENCY
    rate = at_once / max(seen_seconds or SECONDS_EACH, 1e-3)
    return rate if limits.rpm is None else min(rate, limits.rpm / 60)


def turnaround_seconds(seen: Sequence[float], *, cut_short: bool, window: float = DAY) -> float:
    """How long to plan for a batch of an endpoint that states no turnaround, from the latencies of those in the ledger.

    `cut_short`: late ones are harvested and their rest is sent in real time, so that the usual will do. `window`: what
    the tier gives a batch.
    """
    share = USUAL_SHARE if cut_short else SURE_SHARE
    prior = (*(min(seconds, window) for seconds in PRIOR_SECONDS[:-1]), window)
    return float(np.quantile([*prior, *seen], share, method="higher"))
