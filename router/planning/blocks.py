"""Workers whose time is paid for in whole blocks (started hours): what a plan by the second is made into.

Within the program time is paid by the second. Where it is paid by the block, each worker's share is put at a whole number
of blocks, which it then pays and may fill: those that it would have begun, or one fewer, or none at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from thirdshift.router.planning.limits import Pool
from thirdshift.router.planning.plan_building import FeasibleAssignment
from thirdshift.router.planning.problem import Problem, Workers


def in_whole_blocks(problem: Problem, result: FeasibleAssignment) -> Iterator[Problem]:
    """Yield the problem with every pool's workers at whole blocks: all as they began them, then for each one fewer, then
    for each without it."""
    pools = {
        pool.option: (pool, count)
        for pool, count in zip(result.prices.pools, result.workers, strict=True)
        if pool.spec.increment_seconds
    }
    begun = {option: _begun(pool, count, result) for option, (pool, count) in pools.items()}
    yield _with(problem, begun)
    for option, blocks in begun.items():
        if pools[option][1]:
            if blocks > 1:
                yield _with(problem, {**begun, option: blocks - 1})
            yield _with(problem, {**begun, option: 0})


def _begun(pool: Pool, count: int, result: FeasibleAssignment) -> int:
    """Return the blocks that each of a pool's workers begins; of one that is not started: its first."""
    busy = float(result.total.busy[pool.option]) / count if count else 0.0
    paid = pool.spec.paid_seconds(busy)
    return max(1, math.floor(paid / pool.spec.increment_seconds + 1e-9))


def _with(problem: Problem, blocks: dict[int, int]) -> Problem:
    options = tuple(
        replace(option, workers=_paid(option.workers, blocks[e]))
        if e in blocks and option.workers is not None
        else option
        for e, option in enumerate(problem.options)
    )
    return replace(problem, options=options)


def _paid(workers: Workers, blocks: int) -> Workers:
    """Return workers that are paid for so many blocks, and up no longer; with none they can do nothing."""
    up = blocks * workers.increment_seconds
    return replace(
        workers,
        minimum_seconds=max(workers.minimum_seconds, up) if blocks else workers.minimum_seconds,
        increment_seconds=0.0,
        most_seconds=up,
    )
