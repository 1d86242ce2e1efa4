"""Providers that do not find for a while what they have: a batch, and what it has done, is looked for again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MemoryJournal, kinds, requests
from tests.support.scripted import Said, ScriptedProvider, completion, scripted
from thirdshift.engines.batch.anthropic import AnthropicBatches
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.core.budget import RunBudget
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import Endpoint, Mode, Price, PriceSchedule, Purpose

WORK = requests(20)
MESSAGE = {
    "type": "message",
    "content": [{"type": "text", "text": "yes"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 10, "output_tokens": 2},
}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted(lambda _: Said(completion())) as made:
        yield made


def begun(
    provider: ScriptedProvider,
    context: EngineContext,
    first_attempt: int = 1,
    barred: frozenset[int] = frozenset(),
    **options: Any,
) -> tuple[BatchEngine, Any]:
    price = PriceSchedule(Price(Decimal(100), Decimal(400)))
    model = "openai/m" if context.keep is None else "anthropic/m"
    endpoint = Endpoint("night", model, price, Mode.BATCH, api_base=provider.base, emulated=True)
    wire = None if context.keep is None else AnthropicBatches(endpoint, context.keep)
    engine = BatchEngine(
        endpoint, context, wire=wire, poll_first_seconds=0.02, poll_max_seconds=0.05, **options
    )
    shard = Shard("run", "s", "night", Purpose.MAIN, WORK, first_attempt, barred)
    return engine, engine.submit(shard, "run/s")


@pytest.mark.parametrize("what", ["/batches/", "/files/"])
def test_what_is_not_found_for_a_while_is_paid_once(provider: ScriptedProvider, what: str) -> None:
    """As Anthropic's batches and results were (anthropic-sdk-python#1432)."""
    looks, told = count(), count()
    provider.absent = lambda path: path.startswith(what) and next(looks) in (0, 2)
    provider.batch = lambda batch: {**batch, "status": "in_progress" if next(told) < 2 else "completed"}
    notes = MemoryJournal()
    engine, ticket = begun(provider, EngineContext(notes, RunBudget(None)))
    replies = {reply.row: reply for reply in engine.collect(ticket)}
    engine.close()
    assert next(looks) > 1
    assert kinds(replies) == {"answer": 20}
    assert notes.statuses == {"settled": 20}
    assert len(provider.batches) == 1


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("others", [{}, {"error_file_id": "file-gone"}])
def test_a_file_of_answers_that_is_not_named_at_once_is_asked_for_again(
    provider: ScriptedProvider, others: dict[str, str], *, named: bool
) -> None:
    looks = count()

    def told(batch: dict[str, Any]) -> dict[str, Any]:
        if named and next(looks) > 3:
            return batch
        return {**batch, "output_file_id": None, "request_counts": {"total": 20, "completed": 20}, **others}

    provider.batch = told
    notes = MemoryJournal()
    engine, ticket = begun(
        provider, EngineContext(notes, RunBudget(None)), missing_seconds=5.0 if named else 0.1
    )
    replies = {reply.row: reply for reply in engine.collect(ticket)}
    engine.close()
    assert notes.statuses == {"settled" if named else "unsettled": 20}
    assert kinds(replies) == {"answer" if named else "broken_reply": 20}
    assert len(provider.batches) == 1


@pytest.mark.parametrize("found_again", [True, False])
def test_a_batch_known_by_name_that_is_not_found_is_running_or_may_have_been_billed(
    provider: ScriptedProvider, tmp_path: Path, *, found_again: bool
) -> None:
    provider.script = lambda _: Said(MESSAGE)
    provider.batch = lambda batch: {**batch, "processing_status": "in_progress"}
    notes = MemoryJournal(across_processes=True)
    engine, ticket = begun(provider, EngineContext(notes, RunBudget(None), keep=tmp_path))
    while not provider.batches or engine.progress(ticket).in_flight < len(WORK):
        continue
    engine.close()
    looks, running = count(), 50
    """Looks that are answered: it runs for longer than what is missing is looked for."""
    asked = count()

    def absent(path: str) -> bool:
        if path.endswith("/results"):
            return not found_again or next(looks) < running
        return "msgbatch" in path and (next(asked) < 2 or not found_again)

    def told(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "processing_status": "in_progress" if next(looks) < running else "ended"}

    provider.absent, provider.batch = absent, told
    context = EngineContext(notes, RunBudget(None), keep=tmp_path)
    engine, ticket = begun(provider, context, missing_seconds=1.0 if found_again else 0.1)
    replies = {reply.row: reply for reply in engine.collect(ticket)}
    engine.close()
    assert kinds(replies) == ({"answer": 20} if found_again else {"connection": 20})
    assert notes.statuses == {"settled" if found_again else "unsettled": 20}
    assert len(provider.batches) == 1


def test_a_batch_whose_input_is_gone_may_have_cost_what_was_set_aside(provider: ScriptedProvider) -> None:
    """Nobody can tell then which requests it holds: they are sent again, and what they cost before is unsettled."""
    provider.batch = lambda batch: {**batch, "status": "in_progress"}
    notes, said = MemoryJournal(across_processes=True), list[str]()
    engine, ticket = begun(provider, EngineContext(notes, RunBudget(None)))
    while not provider.batches or engine.progress(ticket).in_flight < len(WORK):
        continue
    engine.close()
    del provider.files[next(iter(provider.batches.values()))["input_file_id"]]
    provider.batch = lambda batch: batch
    left = {entry: intent.reserved_usd for entry, intent in notes.intents.items()}
    budget = RunBudget(None)
    for amount in left.values():
        assert budget.reserve(amount)
    context = EngineContext(notes, budget, committed={"s": dict(left)}, say=said.append)
    engine, ticket = begun(provider, context, first_attempt=2, missing_seconds=0.1)
    replies = {reply.row: reply for reply in engine.collect(ticket)}
    engine.close()
    assert kinds(replies) == {"answer": 20}
    earlier = Counter(notes.outcomes[entry].status.value for entry in left)
    assert earlier == {"unsettled": 20}
    assert sum(notes.outcomes[entry].cost_usd for entry in left) == sum(left.values())
    assert budget.reserved_usd == 0
    assert "is gone" in said[0]


@pytest.mark.parametrize("made", [True, False])
def test_of_an_adopted_shard_nothing_is_sent_that_may_not_go_there_any_more(
    provider: ScriptedProvider, *, made: bool
) -> None:
    """What the provider has is taken in all the same."""
    provider.batch = lambda batch: {**batch, "status": "in_progress"}
    notes = MemoryJournal(across_processes=True)
    engine, ticket = begun(provider, EngineContext(notes, RunBudget(None)))
    while not provider.batches or engine.progress(ticket).in_flight < len(WORK):
        continue
    engine.close()
    provider.batch = lambda batch: batch
    if not made:
        provider.batches.clear()
    provider.bodies.clear()
    barred = frozenset(range(12))
    engine, ticket = begun(provider, EngineContext(notes, RunBudget(None)), 2, barred)
    replies = {reply.row: reply for reply in engine.collect(ticket)}
    engine.close()
    assert kinds(replies) == ({"answer": 20} if made else {"answer": 8, "expired": 12})
    assert len(provider.bodies) == (0 if made else 8)
