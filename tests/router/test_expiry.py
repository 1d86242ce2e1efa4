"""What it costs, on average, that a batch is late or lost: priors, what was seen, and what a plan makes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thirdshift.engines.registry import tier_rows
from thirdshift.router.expiry import (
    LATE,
    LOST,
    expected_losses,
    keeps,
    keeps_on_cancel,
    requests_at_risk,
    undone_chance,
    waiting_seconds,
)
from thirdshift.router.harvest import DAY, HOUR, turnaround_seconds
from thirdshift.router.planning.shards import BATCH_SHARD_REQUESTS, BATCH_SHARDS, batch_cutting
from thirdshift.router.tiers import BatchHistory, BatchTier, Expiry
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule

NOW = datetime(2026, 11, 29, 22, tzinfo=UTC)
NOTHING = BatchHistory()


def row(name: str) -> BatchTier:
    tier = tier_rows().named(name)
    assert tier is not None
    return tier


KEEPS, LOSES, NEVER, UNTOLD = row("openai"), row("gemini"), row("azure"), row("groq")


def endpoint(name: str, usd: int, tier: BatchTier | None = None, **facts: object) -> Endpoint:
    price = PriceSchedule(Price(Decimal(usd), Decimal(usd)))
    mode = Mode.REALTIME if tier is None else Mode.BATCH
    return replace(Endpoint(name, "openai/m", price, mode, tier=tier), **facts)  # type: ignore[arg-type]


def losses(night: Endpoint, hours: float | None = None, day_usd: float = 2.0) -> float:
    """What a request of 1 USD in a batch costs besides, where real time asks `day_usd` for it."""
    deadline = None if hours is None else NOW + timedelta(hours=hours)
    there, counterpart = np.array([0, 1], np.int32), np.array([1, -1], np.int32)
    cost = np.array([[1.0, day_usd]])
    lost = expected_losses((night, endpoint("day", 2)), there, cost, counterpart, now=NOW, deadline=deadline)
    assert lost[0, 1] == 0.0, "real time is neither late nor lost"
    return float(lost[0, 0])


def test_the_three_kinds_of_expiry_are_priced_by_what_they_leave() -> None:
    assert losses(endpoint("n", 1, KEEPS)) == pytest.approx(LATE * (2 - 1)), (
        "the undone is paid elsewhere only"
    )
    assert losses(endpoint("n", 1, LOSES)) == pytest.approx(LOST * 2), "the lost batch is booked as well"
    assert losses(endpoint("n", 1, NEVER)) == pytest.approx(LATE * (2 - 1)), (
        "cancelled, it keeps what is done"
    )
    assert losses(endpoint("n", 1, UNTOLD)) == pytest.approx(LOST * 2), "nobody says that it keeps anything"


def test_each_row_is_of_one_kind_and_what_is_not_told_is_taken_to_be_lost() -> None:
    for tier in tier_rows().tiers:
        assert keeps(tier) == (
            tier.expiry is Expiry.KEEPS or (tier.expiry, tier.cancel) == (Expiry.NEVER, "keeps")
        )
        assert keeps_on_cancel(tier) == (tier.cancel == "keeps")


def test_the_nearer_the_deadline_the_dearer_is_what_may_be_late() -> None:
    by_hours = [losses(endpoint("n", 1, KEEPS), hours) for hours in (0.5, 1, 2, 6, 12, 30)]
    assert by_hours == sorted(by_hours, reverse=True)
    assert by_hours[-1] == pytest.approx(LATE)


@given(st.floats(0, 3 * DAY), st.floats(0, 3 * DAY), st.lists(st.floats(0, 2 * DAY)))
def test_more_time_never_makes_it_likelier_that_work_is_undone(
    one: float, other: float, seen: list[float]
) -> None:
    less, more = sorted((one, other))
    history = BatchHistory(tuple(seen))
    for tier in (KEEPS, LOSES, None):
        assert 0 < undone_chance(tier, history, more) <= undone_chance(tier, history, less) <= 1


def test_what_was_seen_replaces_the_prior() -> None:
    assert undone_chance(LOSES, BatchHistory((600.0,) * 400), None) < LOST / 10
    assert undone_chance(LOSES, BatchHistory((600.0,) * 50 + (inf,) * 50), None) == pytest.approx(
        0.43, abs=0.02
    )
    assert undone_chance(KEEPS, BatchHistory((3 * HOUR,) * 100), 2 * HOUR) > 0.8


def test_within_a_turnaround_that_the_job_states_a_batch_is_not_late() -> None:
    assert undone_chance(KEEPS, BatchHistory(stated=True), 60.0) == pytest.approx(LATE)
    assert losses(endpoint("n", 1, KEEPS, turnaround_seconds=600.0), 0.5) == pytest.approx(LATE)


def test_without_real_time_what_is_undone_goes_into_another_batch() -> None:
    there, nobody, cost = np.array([0], np.int32), np.array([-1], np.int32), np.array([[1.0]])
    kept = expected_losses((endpoint("n", 1, KEEPS),), there, cost, nobody, now=NOW, deadline=None)
    lost = expected_losses((endpoint("n", 1, LOSES),), there, cost, nobody, now=NOW, deadline=None)
    assert (kept[0, 0], lost[0, 0]) == (0.0, pytest.approx(LOST))


def test_a_batch_is_waited_for_until_real_time_must_begin() -> None:
    assert waiting_seconds(NOW, None) is None
    assert waiting_seconds(NOW, NOW + timedelta(hours=8)) == 8 * HOUR - 750
    assert waiting_seconds(NOW, NOW + timedelta(minutes=10)) == 300


def test_a_window_of_one_hour_is_planned_with_an_hour() -> None:
    assert turnaround_seconds((), cut_short=False, window=HOUR) == HOUR
    assert turnaround_seconds((), cut_short=False, window=48 * HOUR) == 48 * HOUR
    assert undone_chance(row("doubleword").with_window("1h"), NOTHING, HOUR) == pytest.approx(LOST)


def test_jobs_are_small_where_everything_can_be_lost() -> None:
    assert requests_at_risk(100_000, 50_000) == 5_000
    assert requests_at_risk(150, 50_000) == 100
    assert batch_cutting(LOSES.with_limits(requests=50_000), 20_000).most_requests == 1_000
    assert batch_cutting(KEEPS, 20_000).most_requests == 50_000


def test_shards_are_cut_to_what_a_batch_of_the_row_holds() -> None:
    small = KEEPS.with_limits(requests=5_000, bytes=100_000_000)
    assert batch_cutting(small, 40_000).most_requests == 5_000
    many = batch_cutting(small, 1_000_000)
    assert many.most_requests % 5_000 == 0, "whole batches"
    assert 1_000_000 / many.most_requests <= BATCH_SHARDS
    assert many.most_bytes == 100_000_000 * many.most_requests / 5_000
    huge = batch_cutting(KEEPS.with_limits(requests=5_000_000), 10_000_000)
    assert huge.most_requests == 2 * BATCH_SHARD_REQUESTS
