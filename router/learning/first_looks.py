"""The first looks of a pilot: every endpoint on a few requests, and on the fewer the dearer it is.

What every endpoint is tried on is wasted but for one of them. So a small input, or one in which a single endpoint costs as
much as all others together, is not tried on everything: each endpoint may cost the same small share of the dearest one's
whole bill, and what is known of it then decides on more.

Where a score has its own price, it is mostly dearer than the answers: all endpoints are tried on the same requests, where
one verdict tells of all that answer alike, and on as many as the bill is worth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEED = 80
"""Requests on which an endpoint is tried at most before anything is weighed."""
MOST = 0.2
"""The share of a small input on which an endpoint is tried first at most."""
PRICED = 0.005
"""The share of the requests on which an endpoint is tried whose price nobody knows."""
SHARE = 0.0075
"""The share of the dearest endpoint's whole bill that the first looks at each endpoint may cost."""
UNKNOWN = 3.0
"""What n looks leave unknown is taken to cost so many times the dearest endpoint's whole bill / sqrt(n): a margin of 1.65
standard deviations (0.3 of a score each), where the dearest endpoint is better than a cheap one by 0.1 to 0.2."""


def first_counts(cost_usd: Floats, rows: int, score_usd: float = 0.0) -> NDArray[np.int64]:
    """[endpoints] on how many requests each is tried first. `cost_usd`: [n, endpoints], NaN where nobody knows;
    `score_usd`: what a score costs besides its answer."""
    least = min(SEED, max(1, round(PRICED * rows)))
    known = ~np.isnan(cost_usd).all(axis=0)
    counts = np.full(cost_usd.shape[1], least, np.int64)
    if known.any() and score_usd > 0.0:
        most = max(least, min(SEED, MOST * rows))
        counts[known] = np.clip(worth_looking(cost_usd[:, known], rows, score_usd), least, most).astype(
            np.int64
        )
    elif known.any():
        usual = np.nanmean(cost_usd[:, known], axis=0)
        affordable = SHARE * rows * usual.max() / np.maximum(usual, 1e-300)
        counts[known] = np.clip(affordable, least, max(least, min(SEED, MOST * rows))).astype(np.int64)
    return counts


def worth_looking(cost_usd: Floats, rows: int, score_usd: float) -> int:
    """The number of requests on which all endpoints are worth trying, where a score has its own price: the looks cost
    n times their price, what they leave unknown costs UNKNOWN x bill / sqrt(n), and both together are least there."""
    usual = np.nanmean(cost_usd, axis=0)
    each = float((usual + score_usd).sum())
    return int((UNKNOWN * rows * float(usual.max()) / (2.0 * each)) ** (2.0 / 3.0))
