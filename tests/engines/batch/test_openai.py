"""The batch tier against the emulated provider, whose books say what was really billed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from tests.support.engines import MemoryJournal, kinds, requests
from tests.support.servers import billed_usd
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.batch.labels import entry_id
from thirdshift.engines.batch.openai import OpenAIBatches
from thirdshift.engines.batch.parts import UNDONE_MOST, BatchPart, BatchParts, RequestFeed
from thirdshift.engines.batch.provider import BatchLimits, Remote, RemoteState
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.core.records import AttemptRecords
from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.wires.openai import Bodies
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    Limits,
    Mode,
    Price,
    PriceSchedule,
    Purpose,
    Request,
)
from thirdshift.world import REAL

PRICE = Price(Decimal(100), Decimal(400))


@contextmanager
def provider(**habits: Any) -> Iterator[Emulator]:
    model = EmulatedModel("m", PRICE, ability=1.0, batch_price=PRICE)
    with Emulator([model], batches=BatchHabits(**{"turnaround_seconds": 0.2, **habits})) as emulator:
        yield emulator


class Night:
    """A shard through the batch engine."""

    def __init__(
        self,
        emulator: Emulator,
        work: Any,
        *,
        notes: MemoryJournal | None = None,
        cap: Decimal | None = None,
        limits: BatchLimits | None = None,
        stated: Limits = Limits(),  # noqa: B008 - a value
        deadline: datetime | None = None,
        elsewhere: bool = False,
        **more: Any,
    ) -> None:
        self.endpoint = Endpoint(
            "night",
            "openai/m",
            PriceSchedule(PRICE),
            Mode.BATCH,
            api_base=emulator.api_base,
            limits=stated,
            **more,
        )
        self.notes, self.budget = notes or MemoryJournal(across_processes=True), RunBudget(cap)
        wire = OpenAIBatches(self.endpoint, Bodies(self.endpoint))
        if limits is not None:
            wire.limits = limits
        self.told: list[str] = []
        engine_context = EngineContext(
            self.notes, self.budget, deadline, elsewhere=elsewhere, say=self.told.append
        )
        self.engine = BatchEngine(
            self.endpoint, engine_context, wire=wire, poll_first_seconds=0.05, poll_max_seconds=0.2
        )
        self.ticket = self.engine.submit(Shard("run", "s", "night", Purpose.MAIN, work), "run/s")

    def finish(self) -> dict[int, Answer | Failure]:
        try:
            replies = list(self.engine.collect(self.ticket))
        finally:
            self.engine.close()
        assert len({s.row for s in replies}) == len(replies)
        return {s.row: s for s in replies}


def at_provider(night: Night) -> list[Remote]:
    async def look() -> list[Remote]:
        wire = OpenAIBatches(night.endpoint, Bodies(night.endpoint))
        found = [remote async for remote in wire.find("")]
        await wire.close()
        return found

    return REAL.run(look())


def test_every_request_is_answered_and_the_ledger_equals_the_providers_books() -> None:
    with provider() as emulator:
        night = Night(emulator, requests(300))
        replies = night.finish()
        assert kinds(replies) == {"answer": 300}
        assert night.notes.statuses == {"settled": 300}
        assert night.notes.cost == billed_usd(emulator) == night.budget.spent_usd > 0
        assert night.budget.reserved_usd == 0
        assert len(at_provider(night)) == 1
        assert night.engine.progress(night.ticket).done == 300


@pytest.mark.parametrize("limits", [BatchLimits(70, 10**9), BatchLimits(50_000, 12_000)])
def test_a_shard_is_split_by_what_one_batch_may_hold(limits: BatchLimits) -> None:
    with provider(max_requests=limits.requests, max_bytes=limits.bytes + 2_000) as emulator:
        night = Night(emulator, requests(200), limits=limits)
        assert kinds(night.finish()) == {"answer": 200}
        assert len(at_provider(night)) >= 3
        assert night.notes.cost == billed_usd(emulator)


def test_a_batch_whose_creation_was_never_heard_of_is_found_and_not_made_again() -> None:
    with provider(lost_creates=1) as emulator:
        night = Night(emulator, requests(50))
        assert kinds(night.finish()) == {"answer": 50}
        assert len(at_provider(night)) == 1
        assert len(emulator.books()) == 50


def test_a_process_that_dies_leaves_a_batch_that_the_next_one_adopts() -> None:
    with provider(turnaround_seconds=1.5) as emulator:
        first = Night(emulator, requests(120), limits=BatchLimits(100, 10**9))
        while first.engine.progress(first.ticket).in_flight < 120:
            time.sleep(0.02)
        first.engine.close()
        assert first.notes.outcomes == {}
        second = Night(emulator, requests(120), notes=first.notes)
        assert kinds(second.finish()) == {"answer": 120}
        assert len(at_provider(second)) == 2
        assert second.notes.cost == billed_usd(emulator)
        assert len(second.notes.intents) == len(emulator.books()) == 120


def test_a_resumed_shard_with_fewer_requests_adopts_those() -> None:
    with provider(turnaround_seconds=0.5) as emulator:
        first = Night(emulator, requests(40))
        while not at_provider(first):
            time.sleep(0.02)
        first.engine.close()
        second = Night(emulator, requests(40)[25:], notes=first.notes)
        replies = second.finish()
        assert set(replies) == set(range(25, 40))
        assert len(at_provider(second)) == 1


def test_of_an_expired_batch_only_the_unfinished_are_without_an_answer_and_cost_nothing() -> None:
    with provider(stuck_at=0.5, expires_seconds=1.0) as emulator:
        night = Night(emulator, requests(100))
        replies = night.finish()
        assert kinds(replies) == {"answer": 50, "expired": 50}
        assert night.notes.statuses == {"settled": 50, "void": 50}
        assert night.notes.cost == billed_usd(emulator)


def test_a_tier_whose_batches_give_nothing_is_sent_no_more_after_the_third_and_each_request_says_why() -> (
    None
):
    with provider(stuck_at=0.0, expires_seconds=0.2) as emulator:
        night = Night(emulator, requests(12), limits=BatchLimits(1, 10**9, batches=1))
        replies = night.finish()
        # the fourth was waiting for its room already
        assert kinds(replies) == {"expired": UNDONE_MOST + 1, "timeout": 11 - UNDONE_MOST}
        assert len(at_provider(night)) == UNDONE_MOST + 1
        given_up = [reply.message for reply in replies.values() if kinds({0: reply}) == {"timeout": 1}]
        assert set(given_up) == {"not sent: the last 3 batches of this endpoint ended without one answer"}
        assert night.told == [
            "endpoint night: 3 batches in a row ended without one answer; it is sent no more"
        ]
        assert night.notes.statuses == {"void": 12}
        assert night.budget.reserved_usd == night.budget.spent_usd == 0


def test_a_batch_that_gives_one_answer_is_no_sign_that_the_tier_gives_none() -> None:
    with provider(stuck_at=0.5, expires_seconds=0.2) as emulator:
        night = Night(emulator, requests(12), limits=BatchLimits(2, 10**9, batches=1))
        assert kinds(night.finish()) == {"answer": 6, "expired": 6}


def test_harvest_collects_what_is_finished_and_the_rest_is_free_to_go_elsewhere() -> None:
    with provider(turnaround_seconds=0.3, cancel_seconds=0.2, stuck_at=0.9) as emulator:
        night = Night(emulator, requests(100))
        while night.engine.progress(night.ticket).done < 90:
            time.sleep(0.02)
        night.engine.harvest(night.ticket)
        assert kinds(night.finish()) == {"answer": 90, "expired": 10}
        assert night.notes.cost == billed_usd(emulator)
        assert len(emulator.books()) == 90
        assert night.budget.reserved_usd == 0


def test_at_the_deadline_what_is_finished_is_harvested() -> None:
    with provider(turnaround_seconds=1.0, stuck_at=0.8) as emulator:
        deadline = datetime.now(UTC) + timedelta(seconds=4.0)  # starting the provider may take as long
        night = Night(emulator, requests(50), deadline=deadline)
        assert kinds(night.finish()) == {"answer": 40, "expired": 10}
        assert datetime.now(UTC) >= deadline
        assert night.notes.cost == billed_usd(emulator)


def test_requests_that_fail_within_a_batch_are_failures_one_by_one() -> None:
    with provider(failed_share=0.2) as emulator:
        night = Night(emulator, requests(200))
        counts = kinds(night.finish())
        assert counts["answer"] + counts["overloaded"] == 200
        assert counts["overloaded"] > 10
        assert night.notes.statuses["void"] == counts["overloaded"]
        assert night.notes.cost == billed_usd(emulator)


def test_a_full_queue_is_waited_for_in_smaller_batches() -> None:
    with provider(enqueued_tokens=600) as emulator:
        night = Night(emulator, requests(100))
        assert kinds(night.finish()) == {"answer": 100}
        assert night.notes.cost == billed_usd(emulator)
        assert len(emulator.books()) == 100
        assert night.budget.reserved_usd == 0


def test_what_may_wait_at_the_provider_is_kept_to_where_it_is_stated() -> None:
    with provider(enqueued_tokens=600) as emulator:
        night = Night(emulator, requests(100), stated=Limits(enqueued_tokens=500))
        assert kinds(night.finish()) == {"answer": 100}
        found = at_provider(night)
        assert len(found) >= 2
        assert all(remote.state is RemoteState.ENDED for remote in found), "none was refused"


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_would_be_back_after_the_deadline_is_left_to_others_where_there_are_others(
    elsewhere: bool,
) -> None:
    soon, stated = datetime.now(UTC) + timedelta(minutes=30), Limits(enqueued_tokens=500)
    with provider(enqueued_tokens=600) as emulator:
        night = Night(
            emulator,
            requests(100),
            stated=stated,
            deadline=soon,
            elsewhere=elsewhere,
            turnaround_seconds=3600.0,
        )
        replies = kinds(night.finish())
        assert len(at_provider(night)) == 1 or not elsewhere
        assert replies["answer"] == len(emulator.books())
        assert replies.get("expired", 0) == 100 - replies["answer"]
        assert (replies["answer"] < 100) == elsewhere
        assert night.notes.cost == billed_usd(emulator)
        assert night.budget.reserved_usd == 0


def test_remote_files_are_removed_where_that_is_asked() -> None:
    with provider() as emulator:
        night = Night(emulator, requests(20), delete_remote=True)
        night.finish()
        with urlopen(f"{emulator.api_base}/files") as response:  # noqa: S310 - loopback
            assert json.load(response)["data"] == []


def test_the_cap_holds_for_batches_and_the_tail_is_served_from_what_returns() -> None:
    work = requests(60, "word " * 600)
    with provider(turnaround_seconds=0.05) as emulator:
        endpoint = Endpoint("night", "openai/m", PriceSchedule(PRICE), Mode.BATCH)
        most = AttemptRecords(endpoint).worst_case(work[-1])
        night = Night(emulator, work, cap=most * 6)
        replies = night.finish()
        assert billed_usd(emulator) == night.notes.cost <= most * 6
        assert night.notes.cost > most * 5
        served = [row for row, s in replies.items() if isinstance(s, Answer)]
        assert sorted(served) == list(range(len(served)))
        assert kinds(replies)["budget"] == 60 - len(served) > 0


def test_a_request_that_must_not_be_sent_does_not_spoil_its_batch() -> None:
    work = requests(10)
    work[3] = requests(4, sampling={"n": 2})[3]
    with provider() as emulator:
        night = Night(emulator, work)
        assert kinds(night.finish()) == {"answer": 9, "bad_request": 1}


def test_stop_sends_no_further_part() -> None:
    with provider() as emulator:
        night = Night(emulator, [], limits=BatchLimits(10, 10**9))
        night.finish()
        night = Night(emulator, requests(5))
        night.engine.stop()
        assert sum(kinds(night.finish()).values()) == 5


def test_results_that_cannot_be_read_leave_the_attempt_unsettled(tmp_path: Path) -> None:
    endpoint = Endpoint(
        "night", "openai/m", PriceSchedule(PRICE), Mode.BATCH, api_base="http://127.0.0.1:1/v1"
    )
    notes, budget = MemoryJournal(across_processes=True), RunBudget(Decimal(100))
    wire = OpenAIBatches(endpoint, Bodies(endpoint))
    parts = BatchParts(EngineContext(notes, budget), AttemptRecords(endpoint), wire)
    shard = Shard("run", "s", "night", Purpose.MAIN, requests(3))
    part = parts.cut(shard, "key", RequestFeed(requests(3)), tmp_path / "in", 1)
    assert isinstance(part, BatchPart)
    assert list(notes.intents) == [entry_id("key", row, 1) for row in range(3)]
    (tmp_path / "out").write_bytes(
        b'{"custom_id": "1", "response": {"status_code": 500, "body": {}}}\n{"cust'
    )
    remote = Remote("b", part.label, RemoteState.ENDED, notes.intents[entry_id("key", 0, 1)].started_at, True)
    replies: list[Any] = []
    parts.settle(part, [tmp_path / "out"], remote, replies.extend)
    assert {s.row: s.kind for s in replies} == {
        0: FailureKind.BROKEN_REPLY,
        1: FailureKind.OVERLOADED,
        2: FailureKind.BROKEN_REPLY,
    }
    assert notes.statuses == {"unsettled": 2, "void": 1}
    assert budget.reserved_usd == 0


def test_a_provider_whose_batches_we_cannot_speak_is_named_before_anything_is_sent() -> None:
    endpoint = Endpoint("far", "bedrock/m", PriceSchedule(PRICE), Mode.BATCH)
    with pytest.raises(BadEndpointError, match=r"far: batch does not work yet for Bedrock: .* role of yours"):
        BatchEngine(endpoint, EngineContext(MemoryJournal(across_processes=True), RunBudget(None)))


class Made:
    """Requests that exist only while they are looked at."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Request]:
        for i in range(self.count):
            content = {"role": "user", "content": f"{i}" + "x" * self.size}
            yield Request(i, f"r{i}", "h", "t", (content,), 16)


class Forgetful(MemoryJournal):
    """Counts, and keeps nothing."""

    sent_count = settled_count = 0

    def sent(self, intents: Any) -> None:
        self.sent_count += len(list(intents))

    def settled(self, outcomes: Any) -> None:
        self.settled_count += len(list(outcomes))


def test_memory_stays_flat_however_long_the_shard_is() -> None:
    process = psutil.Process()
    notes = Forgetful()
    with provider() as emulator:
        Night(emulator, requests(100)).finish()
        before = process.memory_info().rss
        night = Night(emulator, Made(6_000, 10_000), notes=notes, limits=BatchLimits(3_000, 10**9))
        most = answers = 0
        for number, reply in enumerate(night.engine.collect(night.ticket)):
            answers += isinstance(reply, Answer)
            if number % 500 == 0:
                most = max(most, process.memory_info().rss)
        night.engine.close()
    assert answers == notes.sent_count == notes.settled_count == 6_000
    assert most - before < 30e6, f"{(most - before) / 1e6:.0f} MB for 60 MB of requests"
