"""The cheapest assignment at every quality: each request climbs from its cheapest endpoint, the best bargain first.

For one request only the endpoints on the lower convex hull of (quality, cost) are ever worth paying for; the steps between
them, sorted over all requests by what a point of quality costs, are a path of assignments, each the cheapest of its quality
but for one request. `router.planning` solves the problem with capacities, windows and shares; this path is what learning
needs many times over: what would one more point cost, given what we believe now?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
AnyFloats = NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ladder:
    start: NDArray[np.int32]
    """Shape (n,): the cheapest endpoint of each request; -1 where none is allowed."""
    row: NDArray[np.int64]
    """The steps in the order of their price, one column each."""
    to: NDArray[np.int32]
    cost_usd: Floats
    """What a step adds."""
    quality: Floats
    """What a step adds."""

    def __len__(self) -> int:
        return len(self.row)

    def at(self, steps: int) -> NDArray[np.int32]:
        """The assignment after so many steps. A request's later step stands above its earlier one."""
        choice = self.start.copy()
        choice[self.row[:steps]] = self.to[:steps]  # NumPy keeps the last of repeated rows
        return choice


def climb(cost_usd: AnyFloats, quality: AnyFloats, allowed: NDArray[np.bool_] | None = None) -> Ladder:
    """Columns of shape (n, endpoints). Ties go to the endpoint that comes first, then to the request that does."""
    cost = np.where(allowed, cost_usd, np.inf) if allowed is not None else np.asarray(cost_usd)
    n = len(cost)
    everyone = np.arange(n)
    lowest = cost.min(axis=1)
    at = np.where(cost <= lowest[:, None], quality, -np.inf).argmax(axis=1)  # the best of the cheapest
    start = np.where(np.isfinite(lowest), at, -1).astype(np.int32)
    rows, tos, costs, gains, active = [], [], [], [], everyone[start >= 0]
    while len(active):
        more = cost[active] - cost[active, at[active]][:, None]
        better = quality[active] - quality[active, at[active]][:, None]
        price = np.divide(more, better, out=np.full(more.shape, np.inf), where=better > 1e-9)
        to = price.argmin(axis=1)
        line = np.arange(len(active))
        up = np.isfinite(price[line, to])
        rows.append(active[up])
        tos.append(to[up])
        costs.append(more[line, to][up])
        gains.append(better[line, to][up])
        active, to = active[up], to[up]
        at[active] = to
    return _sorted(start, rows, tos, costs, gains)


def _sorted(
    start: NDArray[np.int32],
    rows: list[NDArray[np.int64]],
    tos: list[NDArray[np.int64]],
    costs: list[Floats],
    gains: list[Floats],
) -> Ladder:
    if not rows:
        empty = np.zeros(0)
        return Ladder(start, np.zeros(0, np.int64), np.zeros(0, np.int32), empty, empty)
    row, to, cost, gain = (
        np.concatenate(rows),
        np.concatenate(tos),
        np.concatenate(costs),
        np.concatenate(gains),
    )
    order = np.argsort(cost / gain, kind="stable")  # a request's steps grow dearer, so they keep their order
    return Ladder(start, row[order], to[order].astype(np.int32), cost[order], gain[order])
