"""Batches at providers that say what nobody expects: each file, each line and each batch of a list stands alone."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.support.engines import MemoryJournal, kinds, requests
from tests.support.scripted import Said, ScriptedProvider, completion, failed, result_line, scripted
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.batch.provider import CallError
from thirdshift.engines.core.budget import RunBudget
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    LedgerStatus,
    Mode,
    Price,
    PriceSchedule,
    Purpose,
    Request,
)

PRICE = Price(Decimal(100), Decimal(400))


class Night:
    """A shard through the batch engine, to its end."""

    def __init__(
        self,
        provider: ScriptedProvider,
        count: int = 20,
        *,
        deadline: datetime | None = None,
        work: list[Request] | None = None,
        harvest_after: float | None = None,
        **options: Any,
    ) -> None:
        self.notes, self.budget, self.words = MemoryJournal(), RunBudget(None), list[str]()
        endpoint = Endpoint("night", "openai/m", PriceSchedule(PRICE), Mode.BATCH, api_base=provider.base)
        context = EngineContext(self.notes, self.budget, deadline, say=self.words.append)
        engine = BatchEngine(endpoint, context, poll_first_seconds=0.02, poll_max_seconds=0.05, **options)
        ticket = engine.submit(Shard("run", "s", "night", Purpose.MAIN, work or requests(count)), "run/s")
        if harvest_after is not None:
            time.sleep(harvest_after)
            engine.harvest(ticket)
        try:
            self.said = {reply.row: reply for reply in engine.collect(ticket)}
        finally:
            engine.close()

    @property
    def kinds(self) -> Counter[str]:
        return kinds(self.said)

    @property
    def statuses(self) -> Counter[str]:
        return self.notes.statuses


def told(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda batch: {**batch, **changes}


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with scripted(lambda _: Said(completion())) as made:
        yield made


@pytest.mark.parametrize("error_file", ["", "file-gone", None, 7])
def test_an_error_file_that_is_none_or_gone_takes_no_answer_away(
    provider: ScriptedProvider, error_file: Any
) -> None:
    provider.batch = told(error_file_id=error_file)
    night = Night(provider, missing_seconds=0.1)
    assert night.kinds == {"answer": 20}
    assert night.statuses == {"settled": 20}


def test_where_the_output_is_gone_nothing_is_taken_for_unbilled(provider: ScriptedProvider) -> None:
    provider.batch = told(output_file_id="file-gone")
    night = Night(provider, missing_seconds=0.1)
    assert night.kinds == {"broken_reply": 20}
    assert night.statuses == {"unsettled": 20}


HOSTILE_LINES = {
    "status abc": lambda i: json.dumps(
        {"custom_id": i, "response": {"status_code": "abc", "body": completion()}}
    ),
    "a part that is no text": lambda i: json.dumps(
        {
            "custom_id": i,
            "response": {"status_code": 200, "body": completion([{"type": "text", "text": 5}, 7])},
        }
    ),
    "a body as a text": lambda i: json.dumps(
        {"custom_id": i, "response": {"status_code": "200", "body": json.dumps(completion())}}
    ),
    "a list": lambda i: json.dumps({"custom_id": i, "response": [1]}),
    "half a line": lambda i: '{"custom_id": "' + i,
    "a huge figure": lambda i: json.dumps(
        {"custom_id": i, "response": {"status_code": 200, "body": completion(usage=(10**40, 5))}}
    ),
    "half a surrogate pair": lambda i: (
        '{"custom_id": "'
        + i
        + '", "response": {"status_code": 200, "body": '
        + json.dumps(completion("\ud83d"))
        + "}}"
    ),
}


@pytest.mark.parametrize("name", HOSTILE_LINES)
def test_one_hostile_line_costs_the_others_nothing(provider: ScriptedProvider, name: str) -> None:
    def line(custom_id: str, reply: Said) -> bytes:
        if custom_id.endswith("-3"):
            return HOSTILE_LINES[name](custom_id).encode() + b"\n"
        return result_line(custom_id, reply)

    provider.line = line
    night = Night(provider)
    assert all(isinstance(reply, Answer) for row, reply in night.said.items() if row != 3)
    assert set(night.said) == set(range(20))
    odd = next(
        outcome
        for outcome in night.notes.outcomes.values()
        if outcome.reply is not None and outcome.reply.row == 3
    )
    intent = night.notes.intents[odd.entry_id]
    assert odd.status is LedgerStatus.SETTLED or odd.cost_usd == intent.reserved_usd


STRANGERS = [
    {
        "id": "x1",
        "errors": [{"code": "a"}, 5],
        "created_at": "yesterday",
        "metadata": ["a"],
        "status": "failed",
    },
    {"id": "x2", "errors": {"data": "no"}, "created_at": "2026-11-28T00:00:00Z", "request_counts": [1]},
    {"id": "x3", "status": None, "metadata": "text", "created_at": 10**30, "input_file_id": 5},
    {"status": "completed"},
    "a text",
    None,
]


def test_strangers_batches_in_the_list_are_passed_over(provider: ScriptedProvider) -> None:
    provider.strangers = STRANGERS
    assert Night(provider).kinds == {"answer": 20}


def test_a_batch_of_an_unknown_status_is_not_waited_for_for_ever(provider: ScriptedProvider) -> None:
    provider.batch = told(status="hibernating", output_file_id=None)
    night = Night(provider, unknown_seconds=0.2)
    assert night.kinds == {"timeout": 20}
    assert night.statuses == {"unsettled": 20}
    assert "hibernating" in night.words[0]


@pytest.mark.parametrize("status", ["COMPLETED", "SUCCESS", "done"])
def test_a_batch_that_has_results_is_over_whatever_it_calls_that(
    provider: ScriptedProvider, status: str
) -> None:
    provider.batch = told(status=status)
    assert Night(provider).kinds == {"answer": 20}


def test_a_batch_that_stays_cancelling_does_not_hold_the_run(provider: ScriptedProvider) -> None:
    provider.batch = told(status="cancelling", output_file_id=None)
    began = time.monotonic()
    night = Night(provider, deadline=datetime.now(UTC) + timedelta(seconds=5), harvest_after=0.2)
    assert time.monotonic() - began < 5
    assert night.kinds == {"timeout": 20}
    assert night.statuses == {"unsettled": 20}


def test_what_a_batch_was_refused_for_is_left_out_of_the_next_one(provider: ScriptedProvider) -> None:
    def script(body: dict[str, Any]) -> Said:
        if "max_tokens" in body:
            return failed(400, "no", param="max_tokens", code="unsupported_parameter")
        return Said(completion())

    provider.script = script
    night = Night(provider)
    assert night.kinds == {"answer": 20}
    assert night.statuses == {"void": 20, "settled": 20}
    assert len(provider.batches) == 2


def test_a_server_that_cannot_list_batches_is_named_with_the_remedy_and_nothing_is_spent(
    provider: ScriptedProvider, capfd: pytest.CaptureFixture[str]
) -> None:
    import stamina

    provider.listing = failed(500, "Internal server error")
    stamina.set_testing(True, attempts=3)
    try:
        with pytest.raises(CallError, match=r"GET /v1/batches.* answers status 500.*mode: realtime"):
            Night(provider)
    finally:
        stamina.set_testing(False)
    assert provider.bodies == []
    assert "stamina" not in capfd.readouterr().err
    assert logging.getLogger("stamina").handlers
