"""What waits for room in batches, and what goes to real time at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thirdshift.flows.planning.batch_room import beyond_room, in_batches, waiting_for_room
from thirdshift.router.planning import Option, Plan, Problem, Terms, solve
from thirdshift.router.planning.limits import SPARE
from thirdshift.router.planning.problem import NOBODY

HOUR = 3600.0
REALTIME, BATCH, OTHER = range(3)
OF, COUNTERPARTS = np.arange(3, dtype=np.int32), np.array([-1, REALTIME, -1], np.int32)
CHOICE = np.array([REALTIME] * 5 + [BATCH] * 10 + [OTHER, NOBODY, 3], np.int16)
"""3 is a vote."""


def problem(seconds: float | None = 11 * HOUR, *, queue: float | None = 1000.0, rate: float = 1.0) -> Problem:
    count = len(CHOICE)
    options = (
        Option("m", "m", "a", requests_per_second=rate),
        Option("m-batch", "m-batch", "a", turnaround_seconds=6 * HOUR, queue_tokens=queue),
        Option("other", "other", "b"),
    )
    return Problem(
        options,
        ("t",),
        np.zeros(count, np.int32),
        np.ones(count, np.int64),
        np.tile([2.0, 1.0, 3.0], (count, 1)),
        np.full((count, 3), 0.8, np.float32),
        np.full(count, 100.0),
        np.full((count, 3), 10.0),
        terms=Terms(seconds=seconds),
    )


def moved(posed: Problem) -> list[int]:
    return np.flatnonzero(waiting_for_room(posed, CHOICE, OF, COUNTERPARTS) != CHOICE).tolist()


def test_what_goes_to_real_time_because_batches_are_full_waits_for_room() -> None:
    chosen = waiting_for_room(problem(), CHOICE, OF, COUNTERPARTS)
    assert chosen.tolist() == [BATCH] * 15 + [OTHER, NOBODY, 3]


def test_the_cheapest_requests_have_the_room_that_there_is_in_batches_before_the_deadline() -> None:
    posed, rows = problem(), np.arange(1, len(CHOICE))
    cost = posed.cost.copy()
    cost[:5, BATCH] = 0.5
    posed, tier = replace(posed, cost=cost), posed.options[BATCH]

    def left(seconds: float | None, **limits: int) -> list[int]:
        options = (posed.options[0], replace(tier, **limits), posed.options[2])
        beyond = beyond_room(replace(posed, options=options, terms=Terms(seconds=seconds)), rows)
        assert not beyond[:, [REALTIME, OTHER]].any()
        return rows[~beyond[rows, BATCH]].tolist()

    assert left(11 * HOUR) == list(range(1, 11)), "1,000 tokens are enqueued at a time"
    assert left(12 * HOUR) == rows.tolist()
    assert left(11 * HOUR, queue_requests=4) == [1, 2, 3, 4]
    assert left(5 * HOUR) == []
    assert left(None, queue_requests=4) == rows.tolist()


@pytest.mark.parametrize(("hours", "batched"), [(7, 80), (13, 160)])
def test_batches_of_several_tiers_share_what_the_cap_can_be_reserved_for(hours: int, batched: int) -> None:
    """80 requests can wait at a time, of whichever tier; in thirteen hours a batch comes back twice."""
    count, tokens = 200, np.full(200, 100, np.int32)
    tiers = [Option(name, name, "a", turnaround_seconds=6 * HOUR) for name in ("m-batch", "n-batch")]
    options = (Option("m", "m", "a"), *(in_batches(tier, 100.0, 0.01, 1.0) for tier in tiers))
    posed = Problem(
        options, ("t",), np.zeros(count, np.int32), np.ones(count, np.int64), np.tile([4e-3, 1e-3, 1.5e-3], (count, 1)),
        np.full((count, 3), 0.8, np.float32), tokens, np.full((count, 3), 10.0),
        terms=Terms(cap_usd=1.0, seconds=hours * HOUR),
    )  # fmt: skip
    plan = solve(posed)
    assert isinstance(plan, Plan)
    live, first, second = np.bincount(plan.choice, minlength=3).tolist()
    assert first == batched
    assert second <= SPARE * batched
    assert live == count - first - second


def test_an_answer_that_is_held_is_not_asked_for_again() -> None:
    posed = problem()
    cost = posed.cost.copy()
    cost[:2, REALTIME] = 0.0
    assert moved(replace(posed, cost=cost)) == [2, 3, 4]


@pytest.mark.parametrize(
    ("case", "posed"),
    [
        ("without a deadline batches take all", problem(None)),
        ("a queue without limit is not full", problem(queue=None)),
        ("real time would need the hours that are left after the batches", problem(rate=5 / (4 * HOUR))),
        ("no time is left after the batches", problem(6 * HOUR)),
    ],
)
def test_real_time_is_not_waited_with_where(case: str, posed: Problem) -> None:
    assert moved(posed) == [], case


def test_a_price_that_rises_before_the_deadline_is_taken_now() -> None:
    posed = problem()
    now, *others = posed.options
    assert moved(replace(posed, options=(replace(now, windows=((0.0, HOUR),)), *others))) == []
