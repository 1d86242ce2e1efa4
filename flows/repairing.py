"""Which requests to mend, and where, when all scores are known and their mean is below the floor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flows.deciding import Columns, Market
from flows.placing import Due, Placement
from router.predict import Observations

MOST_ROUNDS = 6
PAIRS = 10.0
"""What is believed beforehand of "right where the other was wrong" counts as so many requests tried on both."""


def worth_repairing(
    columns: Columns,
    market: Market,
    placement: Placement,
    quality: NDArray[np.float32],
    observed: Observations,
    missing: float,
) -> Due:
    """The cheapest expected way to raise the sum of scores by `missing`: requests with a low score, each to one better
    endpoint that has not tried it. `quality`: [leaders, endpoints] as predicted."""
    shape = columns.allowed.shape
    scores = np.full(shape, np.nan)
    scores[observed.row, observed.endpoint] = observed.score
    everyone = np.arange(shape[0])
    served = placement.served
    mine = np.where(served >= 0, scores[everyone, served], 0.0)
    mine = np.nan_to_num(mine, nan=1.0)  # what cannot be scored cannot be mended
    tried = placement.answered | placement.failed | (placement.not_run > 0)
    gain = (_after_failure(scores, quality, served) - mine[:, None]) * columns.weight[:, None]
    cost = market.by_endpoint()
    fit = columns.allowed & ~tried & (gain > 0.02)
    worth = np.where(fit, gain / np.maximum(cost, 1e-12), 0.0)
    best = worth.argmax(axis=1)
    order = np.argsort(-worth[everyone, best], kind="stable")
    order = order[worth[order, best[order]] > 0]
    enough = int(np.searchsorted(np.cumsum(gain[order, best[order]]), missing)) + 1
    chosen = np.sort(order[:enough])
    return Due(chosen, best[chosen].astype(np.int32))


def _after_failure(
    scores: NDArray[np.float64], quality: NDArray[np.float32], served: NDArray[np.int32]
) -> NDArray[np.float64]:
    """[leaders, endpoints] the score expected where the serving endpoint was wrong: measured on requests that both
    have answered, drawn towards half of what is predicted of any request."""
    expected = quality.astype(np.float64) / 2
    for e in np.unique(served[served >= 0]):
        wrong = scores[:, e] < 0.5
        for other in range(scores.shape[1]):
            both = scores[wrong, other]
            both = both[~np.isnan(both)]
            believed = float(quality[:, other].mean()) / 2
            rate = (both.sum() + PAIRS * believed) / (len(both) + PAIRS)
            expected[served == e, other] = rate
    return expected
