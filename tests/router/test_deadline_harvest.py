"""The moment at which a batch is cut short, and what is planned with before any was seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event

from hypothesis import given
from hypothesis import strategies as st

from tests.support.patience import PATIENCE_SECONDS
from thirdshift.engines.core.budget import RunBudget
from thirdshift.flows.dispatch.dispatcher import Dispatcher
from thirdshift.flows.dispatch.harvest import Harvest, Successor
from thirdshift.router.harvest import (
    CANCEL_SECONDS,
    CONCURRENCY,
    DAY,
    HOUR,
    LEAST_SHARE,
    SECONDS_EACH,
    harvest_at,
    requests_per_second,
    turnaround_seconds,
)
from thirdshift.router.interfaces import EngineContext, Progress, Shard, Ticket
from thirdshift.router.values import Answer, Failure, FailureKind, Limits
from thirdshift.warehouse.journal.journal import FileJournal

BEGAN = datetime(2026, 11, 22, 22, tzinfo=UTC)
HOURS = st.floats(0.01, 72)
COUNTS = st.integers(0, 10_000_000)
RATES = st.floats(0.01, 10_000)


@given(HOURS, COUNTS, RATES)
def test_a_batch_has_its_share_of_the_night_and_ends_before_the_deadline(
    h: float, left: int, rate: float
) -> None:
    deadline = BEGAN + timedelta(hours=h)
    moment = harvest_at(BEGAN, deadline, left, rate)
    assert BEGAN + LEAST_SHARE * (deadline - BEGAN) <= moment < deadline


@given(HOURS, COUNTS, COUNTS, RATES)
def test_the_more_is_left_the_earlier_it_is_cut_short(h: float, one: int, other: int, rate: float) -> None:
    deadline = BEGAN + timedelta(hours=h)
    fewer, more = sorted((one, other))
    assert harvest_at(BEGAN, deadline, more, rate) <= harvest_at(BEGAN, deadline, fewer, rate)


def test_what_is_left_and_the_cancelling_fit_before_the_deadline() -> None:
    deadline = BEGAN + timedelta(hours=8)
    moment = harvest_at(BEGAN, deadline, 36_000, 10.0)
    assert (deadline - moment).total_seconds() > CANCEL_SECONDS + 3_600


def test_a_rate_is_what_was_seen_within_what_is_allowed() -> None:
    assert requests_per_second(Limits(), None) == CONCURRENCY / SECONDS_EACH
    assert requests_per_second(Limits(concurrency=8), 2.0) == 4.0
    assert requests_per_second(Limits(rpm=60, concurrency=100), 1.0) == 1.0


def test_before_any_batch_was_seen_a_day_is_planned_unless_late_ones_are_cut_short() -> None:
    assert turnaround_seconds((), cut_short=False) == DAY
    assert turnaround_seconds((), cut_short=True) == HOUR


def test_batches_that_were_seen_replace_the_belief() -> None:
    assert turnaround_seconds([600.0] * 100, cut_short=True) == 600.0
    assert turnaround_seconds([600.0] * 200, cut_short=False) == 600.0
    assert turnaround_seconds([7200.0] * 100, cut_short=True) == 7200.0


class Late:
    """An engine whose batch is far from done."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.looked, self.cut = Event(), Event()
        self.fault = fault

    def progress(self, ticket: Ticket) -> Progress:
        self.looked.set()
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        return Progress(0, 10)

    def harvest(self, ticket: Ticket) -> None:
        self.cut.set()

    def submit(self, shard: Shard, key: str) -> Ticket:
        return Ticket(shard.shard_id, key)

    def collect(self, ticket: Ticket) -> Iterator[Answer | Failure]:
        return iter(())

    def stop(self) -> None: ...

    def close(self) -> None: ...


def test_late_batches_are_cut_short_after_the_cap_stopped_the_pilot_too(tmp_path: Path) -> None:
    with FileJournal(tmp_path) as journal:
        began = datetime.now(UTC) - timedelta(hours=2)
        harvest = Harvest(began + timedelta(hours=1), {"night": Successor("day", 1.0)})
        engine_context = EngineContext(journal, RunBudget(Decimal(1)))
        dispatcher = Dispatcher("run", tmp_path, {}, engine_context, journal, harvest=harvest)
        dispatcher.stopped[FailureKind.BUDGET] += 1
        dispatcher.unscored[FailureKind.BUDGET] += 1
        dispatcher.start_over()
        assert not dispatcher.stopped
        assert not dispatcher.unscored, "what the night serves is scored again"
        with dispatcher:
            late = Late()
            harvest.watch(late, Ticket("s", "key"), "night", began)
            assert late.cut.wait(PATIENCE_SECONDS)
            assert dispatcher.closed == {"night"}


def test_a_look_that_failed_is_followed_by_others() -> None:
    began = datetime.now(UTC) - timedelta(hours=2)
    harvest = Harvest(began + timedelta(hours=1), {"night": Successor("day", 1.0)})
    first, second = Late(OSError("a full disk")), Late()
    harvest.watch(first, Ticket("s1", "key 1"), "night", began)
    assert first.looked.wait(PATIENCE_SECONDS)
    time.sleep(0.1)
    harvest.watch(second, Ticket("s2", "key 2"), "night", began)
    assert second.cut.wait(PATIENCE_SECONDS)
    assert first.cut.is_set()
    harvest.close()
