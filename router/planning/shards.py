"""A plan cut into shards: alike in work, shared prefixes side by side, longest first, so that workers end
together.

A task run costs 20 ms or so of Prefect (FACTS), so a shard is 256 to 2,000 requests or half a minute of work,
and a flow has no more than a few hundred of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.expiry import keeps, requests_at_risk
from thirdshift.router.planning.coefficients import Real, Rows
from thirdshift.router.planning.problem import Choice, Option
from thirdshift.router.tiers import BatchTier, TierLimits


@dataclass(frozen=True, slots=True)
class Cutting:
    """How an option's requests are cut. The defaults are for real-time calls and for workers."""

    lanes: int = 1
    """Shards that run at the same time: workers, or streams to an API."""
    least_requests: int = 256
    most_requests: int = 2_000
    least_seconds: float = 30.0
    most_tokens: float = math.inf
    most_bytes: float = math.inf
    seconds_per_request: float = 0.0
    """With everything in flight; added where rates say nothing."""


BATCH_SHARDS = 32
"""Shards of a batch tier under way at once: each is a thread that waits; above that, a shard is several batches."""
BATCH_BYTES = 200_000_000
BATCH_SHARD_REQUESTS = 50_000
"""A shard's journal is sealed in one piece, and each of its requests is held until its batch is over."""

MOST_SHARDS = 300
"""Shards of one option; beyond that they grow past `most_requests`."""


PER_LANE = 4
"""Shards for every lane where there is work enough: the last to end is then late by an eighth of the time on
average."""


def batch_cutting(tier: BatchTier | None, requests: int) -> Cutting:
    """How so many requests at a batch tier are cut: to what one batch may hold, or a whole number of batches. The engine
    cuts a shard to batches again, by bytes and tokens exactly."""
    limits = TierLimits() if tier is None else tier.limits
    batch = min(limits.requests or BATCH_SHARD_REQUESTS, 2 * BATCH_SHARD_REQUESTS)
    if not keeps(tier):
        batch = requests_at_risk(requests, batch)
    several = min(math.ceil(requests / batch / BATCH_SHARDS), BATCH_SHARD_REQUESTS // batch)
    most = batch * max(1, several)
    most_bytes = float(limits.bytes or BATCH_BYTES) * max(1, several)
    return Cutting(least_requests=most, most_requests=most, least_seconds=math.inf, most_bytes=most_bytes)


@dataclass(frozen=True, slots=True)
class ShardPlan:
    option: int
    """Position in `Problem.options`."""
    endpoint: str
    rows: NDArray[np.int64] = field(repr=False)
    """In the order in which they are sent."""
    tokens: float
    expected_seconds: float


def cut(
    choice: Choice,
    options: tuple[Option, ...],
    *,
    input_tokens: Real,
    output_tokens: Real,
    cuttings: Mapping[str, Cutting] | None = None,
    prefix: NDArray[np.integer] | None = None,
    sizes: NDArray[np.integer] | None = None,
) -> list[ShardPlan]:
    """Every row with an option in exactly one shard, longest shards first.

    `output_tokens` [n] are of the chosen option. `prefix` [n]: rows with one value share a long beginning.
    `sizes` [n]: bytes. `cuttings` by the option's name.
    """
    shards: list[ShardPlan] = []
    for e, option in enumerate(options):
        rows = np.flatnonzero(choice == e)
        if not rows.size:
            continue
        cutting = (cuttings or {}).get(option.name, Cutting())
        tokens = input_tokens[rows] * option.token_factor + output_tokens[rows]
        seconds = _seconds(option, cutting, input_tokens[rows] * option.token_factor, output_tokens[rows])
        order = _order(rows, seconds, None if prefix is None else prefix[rows])
        weights = None if sizes is None else np.asarray(sizes[rows], dtype=np.float64)[order]
        for part in _parts(tokens[order], seconds[order], weights, cutting):
            members = order[part]
            busy = float(seconds[members].sum())
            shards.append(ShardPlan(e, option.endpoint, rows[members], float(tokens[members].sum()), busy))
    return sorted(shards, key=lambda s: (-s.expected_seconds, s.option, int(s.rows[0])))


def _seconds(option: Option, cutting: Cutting, inputs: Real, outputs: Real) -> Real:
    """[m] how long each request holds up the lane it is in."""
    seconds = np.full(len(inputs), cutting.seconds_per_request)
    if option.workers is not None:
        seconds = np.maximum(seconds, option.workers.seconds(inputs, outputs))
    if option.requests_per_second:
        seconds = np.maximum(seconds, cutting.lanes / option.requests_per_second)
    if option.tokens_per_second:
        seconds = np.maximum(seconds, cutting.lanes * (inputs + outputs) / option.tokens_per_second)
    return seconds


def _order(rows: Rows, seconds: Real, prefix: NDArray[np.integer] | None) -> NDArray[np.int64]:
    """Longest first; those that share a prefix together, at the place of their longest."""
    if prefix is None:
        return np.lexsort((rows, -seconds))
    _, group = np.unique(prefix, return_inverse=True)
    longest = np.zeros(int(group.max()) + 1)
    np.maximum.at(longest, group, seconds)
    return np.lexsort((rows, -seconds, group, -longest[group]))


def _parts(tokens: Real, seconds: Real, sizes: Real | None, cutting: Cutting) -> list[slice]:
    """Consecutive stretches of equal work, shorter where a limit of `cutting` comes first."""
    n = len(tokens)
    most = cutting.most_requests
    if cutting.most_bytes == math.inf:
        most = max(most, math.ceil(n / MOST_SHARDS))
    weights = seconds if seconds.any() else np.ones(n)
    work, middles = np.cumsum(weights), np.cumsum(weights) - weights / 2
    number = _number(n, float(seconds.sum()), most, cutting)
    sums = [(np.cumsum(tokens), cutting.most_tokens)]
    if sizes is not None:
        sums.append((np.cumsum(sizes), cutting.most_bytes))
    parts: list[slice] = []
    start = 0
    while start < n:
        done = float(work[start - 1]) if start else 0.0
        fair = done + (float(work[-1]) - done) / max(1, number - len(parts)) * (1 + 1e-9)
        ends = [
            int(np.searchsorted(s, (s[start - 1] if start else 0.0) + limit, "right")) for s, limit in sums
        ]
        end = max(start + 1, min(n, start + most, int(np.searchsorted(middles, fair, "right")), *ends))
        parts.append(slice(start, end))
        start = end
    return parts


def _number(n: int, seconds: float, most: int, cutting: Cutting) -> int:
    """How many shards: a few for every lane, the same for each, as far as they stay worth a task of their
    own."""
    worth_it = max(1, n // cutting.least_requests, int(seconds // cutting.least_seconds))
    needed = math.ceil(n / most)
    number = max(needed, min(worth_it, PER_LANE * cutting.lanes))
    evened = math.ceil(number / cutting.lanes) * cutting.lanes
    return evened if evened <= max(worth_it, needed) else number
