"""What a dead process left of a batch shard, taken up again: real journal, real engine, emulated provider."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.engines import endpoint_at
from tests.support.servers import billed_usd, fetch
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.batch.openai import OpenAIBatches
from thirdshift.engines.batch.parts import BatchParts, RequestFeed
from thirdshift.engines.core.budget import RunBudget, SubBudget
from thirdshift.engines.core.records import AttemptRecords
from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator
from thirdshift.engines.wires.openai import Bodies
from thirdshift.flows.dispatch.recovery import Orphans, find_orphans
from thirdshift.flows.dispatch.work import rows_file
from thirdshift.flows.execution.plan import keep_earlier
from thirdshift.flows.planning.assignment import Assignment
from thirdshift.flows.planning.measured.run_queries import FinalReplies
from thirdshift.flows.quality.scoring import judges_limit
from thirdshift.flows.runs.folder import mark_of
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    LedgerStatus,
    Mode,
    Outcome,
    Price,
    Purpose,
    Request,
)
from thirdshift.warehouse.journal.journal import FileJournal, attempts, recover
from thirdshift.world import REAL

PRICE = Price(Decimal(100), Decimal(400))
SHARD_ID = "00001-main-night"
KEY = f"run/{SHARD_ID}"
REQUESTS = [Request(i, f"r{i}", f"h{i}", "t", ({"role": "user", "content": f"{i}?"},), 8) for i in range(20)]
NO_REPLIES = FinalReplies(
    np.zeros(0, np.int64), np.zeros(0, np.int32), *(np.zeros(0, bool) for _ in range(4))
)
SHARD = Shard("run", SHARD_ID, "night", Purpose.MAIN, REQUESTS)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    model = EmulatedModel("m", PRICE, ability=1.0, batch_price=PRICE)
    with Emulator([model], batches=BatchHabits(turnaround_seconds=0.2)) as running:
        yield running


def die_before_the_batch_is_made(folder: Path, endpoint: Endpoint) -> Decimal:
    """Intents on disk, nothing at the provider; what they set aside."""
    place = rows_file(folder, SHARD_ID)
    place.parent.mkdir(parents=True)
    np.save(place, np.arange(len(REQUESTS)))
    budget, bodies = RunBudget(None), Bodies(endpoint)
    with FileJournal(folder) as journal:
        parts = BatchParts(
            EngineContext(journal, budget),
            AttemptRecords(endpoint, bodies.extra_bytes),
            OpenAIBatches(endpoint, bodies),
        )
        parts.cut(SHARD, KEY, RequestFeed(REQUESTS), folder / "part.jsonl", 1)
    return budget.reserved_usd


def booked_usd(folder: Path) -> Decimal:
    """What the open journal has outcomes of."""
    made = attempts(folder, SHARD_ID)
    return sum((outcome.cost_usd for _, outcome in made if outcome is not None), Decimal(0))


def go_on(
    folder: Path, endpoint: Endpoint, cap: Decimal, deadline: datetime | None = None
) -> tuple[Orphans, RunBudget, list[Answer | Failure]]:
    orphans = find_orphans(folder, [endpoint])
    recover(folder, adopt=orphans.shard_ids)
    budget = RunBudget(cap, booked_usd(folder))
    with FileJournal(folder) as journal:
        engine = BatchEngine(
            endpoint,
            EngineContext(journal, budget, deadline, orphans.set_aside(budget)),
            poll_first_seconds=0.05,
        )
        work = orphans.shards[0]
        still = set(work.unanswered.tolist())
        left = [request for request in REQUESTS if request.row in still]
        shard = Shard("run", SHARD_ID, "night", Purpose.MAIN, left, work.first_attempt)
        replies = list(engine.collect(engine.submit(shard, KEY)))
        engine.close()
    return orphans, budget, replies


def test_what_was_written_down_and_never_sent_is_sent_with_the_money_set_aside_for_it(
    tmp_path: Path, emulator: Emulator
) -> None:
    endpoint = endpoint_at(emulator.api_base, PRICE, name="night", mode=Mode.BATCH)
    cap = die_before_the_batch_is_made(tmp_path, endpoint)  # room for it once, not twice
    _, budget, said = go_on(tmp_path, endpoint, cap)
    assert len(said) == len(REQUESTS)
    assert all(isinstance(reply, Answer) for reply in said)
    assert len(fetch(f"{emulator.api_base}/batches").json["data"]) == 1
    assert (budget.spent_usd, budget.reserved_usd) == (billed_usd(emulator), 0)
    assert all(outcome is not None for _, outcome in attempts(tmp_path, SHARD_ID))


def test_what_was_refused_before_a_death_is_sent_again_as_an_attempt_of_its_own(
    tmp_path: Path, emulator: Emulator
) -> None:
    """Under the number that was refused, what the provider bills would be taken for the refusal, and be in no book."""
    endpoint = endpoint_at(emulator.api_base, PRICE, name="night", mode=Mode.BATCH)
    die_before_the_batch_is_made(tmp_path, endpoint)
    (refused, _), *_ = attempts(tmp_path, SHARD_ID)
    queue_full = Outcome(refused.entry_id, LedgerStatus.VOID, Decimal(0), datetime.now(UTC), final=False)
    with FileJournal(tmp_path) as journal:
        journal.settled([queue_full])
    _, budget, said = go_on(tmp_path, endpoint, Decimal(10))
    assert all(isinstance(reply, Answer) for reply in said)
    assert booked_usd(tmp_path) == budget.spent_usd == billed_usd(emulator)
    outcomes = {intent.entry_id: outcome for intent, outcome in attempts(tmp_path, SHARD_ID)}
    assert outcomes[refused.entry_id] == queue_full


def test_what_was_never_sent_and_is_not_sent_now_is_void_and_its_money_free(
    tmp_path: Path, emulator: Emulator
) -> None:
    endpoint = endpoint_at(emulator.api_base, PRICE, name="night", mode=Mode.BATCH)
    cap = die_before_the_batch_is_made(tmp_path, endpoint)
    _, budget, said = go_on(tmp_path, endpoint, cap, datetime.now(UTC) - timedelta(seconds=1))
    assert all(isinstance(reply, Failure) for reply in said)
    assert (budget.spent_usd, budget.reserved_usd) == (0, 0)
    statuses = {outcome.status.value for _, outcome in attempts(tmp_path, SHARD_ID) if outcome is not None}
    assert statuses == {"void"}


def lose_the_last_outcomes(folder: Path, count: int) -> None:
    """Leave the open journal as if the process had died before it settled the last so many."""
    journal = folder / "journal" / f"{SHARD_ID}.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-count]))


def test_what_the_open_journal_has_answers_for_is_spent_and_not_asked_again(
    tmp_path: Path, emulator: Emulator
) -> None:
    endpoint = endpoint_at(emulator.api_base, PRICE, name="night", mode=Mode.BATCH)
    die_before_the_batch_is_made(tmp_path, endpoint)
    go_on(tmp_path, endpoint, Decimal(10))
    lose_the_last_outcomes(tmp_path, 5)
    booked = booked_usd(tmp_path)
    orphans, budget, said = go_on(tmp_path, endpoint, Decimal(10))
    assert len(orphans.shards[0].unanswered) == len(said) == 5
    assert booked > 0
    assert budget.spent_usd == billed_usd(emulator)
    assert len(fetch(f"{emulator.api_base}/batches").json["data"]) == 1


def test_what_a_dead_process_has_booked_of_a_batch_is_not_sent_again_while_the_rest_is_awaited(
    tmp_path: Path, emulator: Emulator
) -> None:
    endpoint = endpoint_at(emulator.api_base, PRICE, name="night", mode=Mode.BATCH)
    die_before_the_batch_is_made(tmp_path, endpoint)
    go_on(tmp_path, endpoint, Decimal(10))
    lose_the_last_outcomes(tmp_path, 5)
    orphans = find_orphans(tmp_path, [endpoint])
    run: Any = SimpleNamespace(
        queries=SimpleNamespace(replies=lambda: NO_REPLIES),  # nothing is sealed
        orphans_of=lambda _: orphans.shards,
        endpoint_names=["night"],
        context=SimpleNamespace(folder=tmp_path, world=REAL),
    )
    rows = np.arange(len(REQUESTS))
    columns: Any = SimpleNamespace(rows=rows, positions=lambda some: np.searchsorted(rows, some))
    only = np.zeros(len(REQUESTS), np.int32)  # all for the one endpoint
    assignment = Assignment(only, np.zeros(len(REQUESTS)), np.full(1, -1, np.int32))
    keep_earlier(run, columns, assignment)
    assert assignment.in_flight.all()
    assert len(orphans.shards[0].unanswered) == 5


def test_a_shard_of_another_tier_is_sealed_not_adopted(tmp_path: Path, emulator: Emulator) -> None:
    endpoint = endpoint_at(emulator.api_base, PRICE, name="night", mode=Mode.BATCH)
    die_before_the_batch_is_made(tmp_path, endpoint)
    assert find_orphans(tmp_path, []).shards == ()
    assert recover(tmp_path) == [SHARD_ID]


def test_a_run_keeps_its_mark_and_one_of_the_same_name_elsewhere_has_another(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert mark_of(here) == mark_of(here) != mark_of(there)


def test_what_a_judges_batch_can_cost_yet_counts_toward_what_judging_may_cost() -> None:
    judged, other = "00002-judge-night", "00003-main-night"
    held = Decimal("0.8")
    limit = judges_limit(Decimal(1), Decimal("0.05"), {judged: {"e0": held}, other: {"e3": Decimal(5)}})
    assert (limit.spent_usd, limit.reserved_usd) == (Decimal("0.05"), held)
    whole = RunBudget(Decimal(10))
    assert whole.reserve(held)
    within = SubBudget(whole, limit)
    within.settle(held, Decimal("0.7"))
    while within.reserve(Decimal("0.1")):
        within.settle(Decimal("0.1"), Decimal("0.1"))
    assert limit.reserved_usd == whole.reserved_usd == 0
    assert Decimal("0.9") < limit.spent_usd <= 1
    assert whole.spent_usd == limit.spent_usd - Decimal("0.05")
