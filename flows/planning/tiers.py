"""One model in two tiers: what is learnt of its answers in real time holds for its batches, and the other way round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.prediction.observations import Observations
from thirdshift.router.values import Endpoint, Mode


def realtime_counterparts(endpoints: Sequence[Endpoint]) -> NDArray[np.int32]:
    """[endpoints] for each batch tier the endpoint that gives the same model's answers in real time; -1: none."""
    found = np.full(len(endpoints), -1, np.int32)
    for e, tier in enumerate(endpoints):
        for other, endpoint in enumerate(endpoints):
            same = (endpoint.model, dict(endpoint.params)) == (tier.model, dict(tier.params))
            if tier.mode is Mode.BATCH and endpoint.mode is Mode.REALTIME and same and found[e] < 0:
                found[e] = other
    return found


def same_answers(endpoints: Sequence[Endpoint]) -> NDArray[np.int32]:
    """[endpoints] the first endpoint of the same model with the same parameters: its answers are as long, and its tokens
    are counted alike, in whatever tier."""
    first: list[int] = []
    for endpoint in endpoints:
        kind = endpoint.model, dict(endpoint.params)
        first.append(
            next(e for e, other in enumerate(endpoints) if (other.model, dict(other.params)) == kind)
        )
    return np.array(first, np.int32)


def looked_at(
    allowed: NDArray[np.bool_], cost_usd: NDArray[np.float64], realtime_counterpart: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """What a pilot may ask, and at what cost the night would use it: [leaders, endpoints] both.

    A batch takes hours; where the same model answers at once, that is asked, and stands for both at the lower price.
    """
    asked, cost = allowed.copy(), cost_usd.copy()
    for tier in np.flatnonzero(realtime_counterpart >= 0):
        live = realtime_counterpart[tier]
        both = allowed[:, tier] & allowed[:, live]
        asked[both, tier] = False
        cost[both, live] = np.minimum(cost[both, live], cost[both, tier])
    return asked, cost


def shared(seen: Observations, realtime_counterpart: NDArray[np.int32]) -> Observations:
    """The scores, and those of a model in one tier as the other's where that has none of its own for the request."""
    known = set(zip(seen.row.tolist(), seen.endpoint.tolist(), strict=True))
    other = {int(tier): int(realtime_counterpart[tier]) for tier in np.flatnonzero(realtime_counterpart >= 0)}
    back: dict[int, list[int]] = {}
    for tier, live in other.items():
        back.setdefault(live, []).append(tier)
    rows, endpoints, scores = seen.row.tolist(), seen.endpoint.tolist(), seen.score.tolist()
    for row, endpoint, score in list(zip(rows, endpoints, scores, strict=True)):
        for same in [other[endpoint]] if endpoint in other else back.get(endpoint, ()):
            if (row, same) not in known:
                known.add((row, same))
                rows.append(row)
                endpoints.append(same)
                scores.append(score)
    if len(rows) == len(seen.row):
        return seen
    return Observations(np.array(rows, np.int64), np.array(endpoints, np.int32), np.array(scores, np.float64))
