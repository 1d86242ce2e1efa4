"""What a batch tier can hold at a time: whole requests, and no more of them than the cap can be reserved for.

A plan counts on the turnaround that is stated, and gives what finds no room by then to the same model in real time, at
twice the price. Batches are mostly back sooner. So what real time can do in no time waits for room first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from thirdshift.router.planning.limits import BATCH_SHARE
from thirdshift.router.planning.problem import NOBODY, Choice, Option, Problem
from thirdshift.router.planning.timing import ends
from thirdshift.router.planning.usage import tally

SURE = 0.3
"""What waits for room takes real time no more than this share of the time that is left after the batches planned."""


def in_batches(option: Option, input_tokens: float, reserved_usd: float, cap_usd: float | None) -> Option:
    """Return the option with what its queue really holds. `input_tokens`, `reserved_usd`: of a request, in the mean."""
    if option.queue_tokens is not None:
        whole = option.queue_tokens - option.token_factor * input_tokens
        option = replace(option, queue_tokens=max(whole, option.queue_tokens / 2))
    if option.turnaround_seconds > 0 and cap_usd is not None and reserved_usd > 0:
        room = max(int(BATCH_SHARE * cap_usd / reserved_usd), 1)
        option = replace(option, queue_requests=room, reserved_usd=reserved_usd)
    return option


def beyond_room(posed: Problem, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """[leaders, options] which of these requests find no room in an option's batches before the deadline. The cheapest have
    it: what the others cost elsewhere decides what quality is worth."""
    beyond, seconds = np.zeros(posed.cost.shape, bool), posed.terms.seconds
    for batch, option in enumerate(posed.options):
        if option.turnaround_seconds > 0:
            cheapest = rows[np.argsort(posed.cost[rows, batch], kind="stable")]
            tokens = option.token_factor * np.cumsum(posed.input_tokens[cheapest], dtype=np.float64)
            full = np.arange(len(rows)) >= option.max_requests(seconds)
            beyond[cheapest, batch] = full | (tokens > option.max_tokens(seconds))
    return beyond


def waiting_for_room(
    posed: Problem,
    choice: Choice,
    endpoint_of: NDArray[np.int32],
    realtime_counterpart: NDArray[np.int32],
) -> Choice:
    """Return `choice` with what goes to real time only because its model's batches are full given to those batches.

    What finds no room in time is sent in real time after all, as planned. `choice`: [leaders] of the options of `posed`,
    of which those after its last one (votes) stay as they are; `endpoint_of`: [options]; `realtime_counterpart`:
    [endpoints], -1: none.
    """
    seconds, moved = posed.terms.seconds, choice.copy()
    pairs = list(_same_models(posed, endpoint_of, realtime_counterpart))
    if seconds is None or not pairs:
        return moved
    alone = np.where(choice < posed.width, choice, NOBODY).astype(choice.dtype)
    total = tally(posed, alone)
    done = ends(posed, total, {})
    for batch, realtime in pairs:
        if total.count[batch] and done[realtime] <= SURE * (seconds - done[batch]):
            waits = (alone == realtime) & (posed.cost[:, batch] < posed.cost[:, realtime])
            moved[waits] = batch
    return moved


def _same_models(
    posed: Problem, endpoint_of: NDArray[np.int32], realtime_counterpart: NDArray[np.int32]
) -> Iterator[tuple[int, int]]:
    """Yield each option of batches that can be full, with that of the same model in real time."""
    for batch, option in enumerate(posed.options):
        full = option.queue_tokens is not None or option.queue_requests is not None
        same = np.flatnonzero(endpoint_of[: posed.width] == realtime_counterpart[endpoint_of[batch]])
        # a price that changes before the deadline is no price to wait with
        if full and len(same) == 1 and not posed.options[same[0]].windows:
            yield batch, int(same[0])
