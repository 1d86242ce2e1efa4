"""Anthropic's message batches against the emulated provider: found again without any label at the provider."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import MemoryJournal, kinds, requests
from tests.support.servers import billed_usd, fetch
from thirdshift.engines.batch.anthropic import AnthropicBatches
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.batch.http import not_run
from thirdshift.engines.batch.local_records import BatchRecord, BatchRecords
from thirdshift.engines.batch.provider import BatchLimits
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.emulator import BatchHabits, EmulatedModel, Emulator, Trouble, stand_in, stood_in
from thirdshift.engines.errors import BadEndpointError, UnknownBatchError
from thirdshift.engines.wires.anthropic import (
    AnthropicBodies,
    conversation,
    enforceable,
    read_message,
    read_result,
)
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    Mode,
    Price,
    PriceSchedule,
    Purpose,
    Request,
    Usage,
)

PRICE = Price(Decimal(100), Decimal(400))


@contextmanager
def provider(troubles: Any = None, **habits: Any) -> Iterator[Emulator]:
    model = EmulatedModel("m", PRICE, ability=1.0, batch_price=PRICE, troubles=troubles or {})
    with Emulator([model], batches=BatchHabits(**{"turnaround_seconds": 0.2, **habits})) as emulator:
        yield emulator


class Night:
    """A shard through the engine, on Anthropic's wire; `keep` is what outlives its process."""

    def __init__(
        self, emulator: Emulator, work: Any, keep: Path, *, notes: MemoryJournal | None = None, **more: Any
    ) -> None:
        deadline, limits = more.pop("deadline", None), more.pop("limits", None)
        self.endpoint = Endpoint(
            "night", "anthropic/m", PriceSchedule(PRICE), Mode.BATCH, api_base=emulator.api_base, **more
        )
        self.endpoint = replace(self.endpoint, emulated=True)
        self.notes, self.budget = notes or MemoryJournal(across_processes=True), RunBudget(None)
        wire = AnthropicBatches(self.endpoint, keep)
        wire.limits = limits or wire.limits
        engine_context = EngineContext(self.notes, self.budget, deadline, keep=keep)
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


def at_provider(emulator: Emulator) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = fetch(f"{emulator.api_base}/messages/batches?limit=100").json["data"]
    return listed


def begun(emulator: Emulator, batches: int = 1) -> None:
    while len(at_provider(emulator)) < batches:
        time.sleep(0.02)


def test_every_request_is_answered_and_the_ledger_equals_the_providers_books(tmp_path: Path) -> None:
    with provider({Trouble.REFUSE: 0.1}, failed_share=0.1) as emulator:
        night = Night(emulator, requests(200), tmp_path, limits=BatchLimits(150, 10**9), delete_remote=True)
        counts = kinds(night.finish())
        assert counts["answer"] + counts["overloaded"] + counts["refused"] == 200
        assert min(counts["overloaded"], counts["refused"]) > 5
        assert night.notes.cost == billed_usd(emulator) == night.budget.spent_usd > 0
        assert night.notes.statuses == {"settled": 200 - counts["overloaded"], "void": counts["overloaded"]}
        assert at_provider(emulator) == [], "deleted after the harvest, as asked"


def test_a_dead_processs_batch_is_adopted_by_its_name_on_our_disk(tmp_path: Path) -> None:
    with provider(turnaround_seconds=1.0) as emulator:
        first = Night(emulator, requests(40), tmp_path)
        begun(emulator)
        first.engine.close()
        second = Night(emulator, requests(40)[10:], tmp_path, notes=first.notes)
        assert set(second.finish()) == set(range(10, 40))
        assert len(at_provider(emulator)) == 1


def test_a_batch_whose_creation_was_never_heard_of_is_known_by_its_results(tmp_path: Path) -> None:
    with provider(turnaround_seconds=0.5, lost_creates=1) as emulator:
        night = Night(emulator, requests(30), tmp_path)
        assert kinds(night.finish()) == {"answer": 30}
        assert len(at_provider(emulator)) == 1
        assert night.notes.cost == billed_usd(emulator)


def test_a_process_that_dies_between_submit_and_record_leaves_one_batch(tmp_path: Path) -> None:
    with provider(turnaround_seconds=1.0) as emulator:
        first = Night(emulator, requests(30), tmp_path)
        begun(emulator)
        first.engine.close()
        for name in (tmp_path / "batches").glob("*.name"):
            name.unlink()  # as it stands when the reply to the creation was not read any more
        second = Night(emulator, requests(30), tmp_path, notes=first.notes)
        assert kinds(second.finish()) == {"answer": 30}
        assert len(at_provider(emulator)) == 1
        assert len(emulator.books()) == 30
        assert len(second.notes.intents) == 30


def test_a_batch_that_is_named_while_it_is_looked_for_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider(turnaround_seconds=1.0) as emulator:
        first = Night(emulator, requests(30), tmp_path)
        begun(emulator)
        first.engine.close()
        (record,) = (tmp_path / "batches").glob("*.jsonl")
        record.with_suffix(".name").unlink(missing_ok=True)
        (made,) = at_provider(emulator)
        names = BatchRecords.names

        def named_just_now(records: BatchRecords, but: BatchRecord) -> set[str]:
            record.with_suffix(".name").write_text(made["id"])  # by what is left of the process before
            return names(records, but)

        monkeypatch.setattr(BatchRecords, "names", named_just_now)
        second = Night(emulator, requests(30), tmp_path, notes=first.notes)
        assert kinds(second.finish()) == {"answer": 30}
        assert len(at_provider(emulator)) == 1


@pytest.mark.parametrize("clock_set_back_seconds", [0, 7200])
def test_somebody_elses_batch_of_that_size_is_told_apart_and_ours_is_sent(
    tmp_path: Path, clock_set_back_seconds: int
) -> None:
    with provider(turnaround_seconds=0.3) as emulator:
        first = Night(emulator, requests(3), tmp_path)
        begun(emulator)
        first.finish()
        (record,) = (tmp_path / "batches").glob("*.jsonl")
        record.with_suffix(".name").unlink()
        head, *lines = record.read_bytes().splitlines(keepends=True)
        told = json.loads(head)
        told["made_at"] += clock_set_back_seconds
        record.write_bytes(json.dumps(told).encode() + b"\n" + b"".join(lines))
        (mine,) = at_provider(emulator)
        fetch(f"{emulator.api_base}/messages/batches/{mine['id']}", method="DELETE")
        params = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "theirs"}]}
        theirs = {"requests": [{"custom_id": f"x{n}", "params": params} for n in range(3)]}
        fetch(f"{emulator.api_base}/messages/batches", theirs)
        second = Night(emulator, requests(3), tmp_path)
        assert kinds(second.finish()) == {"answer": 3}
        assert [batch["request_counts"]["succeeded"] for batch in at_provider(emulator)] == [3, 3]
        assert all(batch["cancel_initiated_at"] is None for batch in at_provider(emulator))
        assert {intent.attempt for intent in second.notes.intents.values()} == {1, 2}


def test_what_may_be_ours_is_neither_cancelled_nor_sent_again_at_the_deadline(tmp_path: Path) -> None:
    with provider(turnaround_seconds=60, lost_creates=1) as emulator:
        deadline = datetime.now(UTC) + timedelta(seconds=2)
        night = Night(emulator, requests(5), tmp_path, deadline=deadline)
        with pytest.raises(UnknownBatchError, match="known when it is over"):
            night.finish()
        (batch,) = at_provider(emulator)
        assert batch["cancel_initiated_at"] is None
        assert night.notes.outcomes == {}, "unsettled: nobody knows yet"


def test_of_an_expired_batch_the_unfinished_cost_nothing(tmp_path: Path) -> None:
    with provider(stuck_at=0.5, expires_seconds=0.6) as emulator:
        night = Night(emulator, requests(20), tmp_path)
        assert kinds(night.finish()) == {"answer": 10, "expired": 10}
        assert night.notes.cost == billed_usd(emulator)


def test_a_rehearsal_takes_the_way_of_the_real_night(tmp_path: Path) -> None:
    real = Endpoint("opus@night", "anthropic/claude-opus-4-7", PriceSchedule(PRICE), Mode.BATCH)
    with Emulator([stand_in(real)]) as emulator:
        engine = BatchEngine(
            stood_in(real, emulator.root),
            EngineContext(MemoryJournal(across_processes=True), RunBudget(None), keep=tmp_path),
        )
        work = Shard("run", "s", real.name, Purpose.MAIN, requests(5))
        assert all(isinstance(reply, Answer) for reply in engine.collect(engine.submit(work, "k")))
        engine.close()
        assert len(at_provider(emulator)) == 1
        assert {entry["model"] for entry in emulator.books()} == {"opus@night"}


def test_the_key_goes_into_its_header_and_without_a_folder_no_batch_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = Endpoint("night", "anthropic/claude-opus-4-7", PriceSchedule(PRICE), Mode.BATCH)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    http = AnthropicBatches(endpoint, tmp_path)._http
    assert (http._base, http._headers["x-api-key"]) == ("http://127.0.0.1:1/v1", "sk-ant-secret")
    assert http._headers["anthropic-version"] == "2023-06-01"
    with pytest.raises(BadEndpointError, match="keeps no label"):
        AnthropicBatches(endpoint, None)


def test_a_request_without_a_key_fails_and_says_which_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    endpoint = Endpoint("night", "anthropic/m", PriceSchedule(PRICE), Mode.BATCH)
    engine = BatchEngine(
        endpoint, EngineContext(MemoryJournal(across_processes=True), RunBudget(None), keep=tmp_path)
    )
    (reply,) = engine.collect(engine.submit(Shard("run", "s", "night", Purpose.MAIN, requests(1)), "k"))
    engine.close()
    assert isinstance(reply, Failure)
    assert (reply.kind, "ANTHROPIC_API_KEY" in reply.message) == (FailureKind.AUTH, True)


# --- the wire ---------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0}, "minimum": {"oneOf": [{"type": "null"}]}},
    "required": ["age"],
}


def body(model: str, params: Any = None, **fields: Any) -> dict[str, Any]:
    endpoint = Endpoint("e", f"anthropic/{model}", PriceSchedule(PRICE), Mode.BATCH, params=params or {})
    asked = Request(0, "r", "h", "t", ({"role": "user", "content": "hi"},), 9, **fields)
    return AnthropicBodies(endpoint).body(asked)


def test_a_conversation_is_told_as_anthropic_wants_it() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    system, turns = conversation(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "what?"}, image]},
            {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "c2"}]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": "2"},
        ]
    )
    assert system == "Be brief.\n\nBe kind."
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    assert turns[0]["content"][1] == {"type": "image", "source": source}
    assert turns[1]["content"][0] == {"type": "tool_use", "id": "c1", "name": "look", "input": {"x": 1}}
    assert [block["tool_use_id"] for block in turns[2]["content"]] == ["c1", "c2"]
    assert len(turns) == 3


def test_a_schema_is_asked_for_as_the_model_can_and_kept_to_what_it_enforces() -> None:
    wanted = body("claude-opus-4-7", response_schema=SCHEMA, temperature=None)["output_config"]["format"]
    assert wanted["schema"]["properties"] == {
        "age": {"type": "integer"},
        "minimum": {"anyOf": [{"type": "null"}]},
    }
    assert wanted["schema"]["additionalProperties"] is False
    assert enforceable(SCHEMA) == wanted["schema"]
    older = body("claude-3-haiku-20240307", response_schema=SCHEMA)
    assert older["tool_choice"] == {"type": "tool", "name": older["tools"][0]["name"]}
    assert older["temperature"] == 0.0


def test_parameters_go_under_anthropics_names() -> None:
    tool = {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
    }
    said = body(
        "claude-opus-4-7",
        {"reasoning_effort": "low", "top_k": 3},
        tools=(tool,),
        sampling={"stop": "END", "user": "u", "tool_choice": "required", "parallel_tool_calls": False},
    )
    assert said["output_config"] == {"effort": "low"}
    assert said["thinking"]["type"] == "adaptive"
    assert said["tools"] == [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]
    assert said["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert (said["stop_sequences"], said["metadata"], said["top_k"]) == (["END"], {"user_id": "u"}, 3)
    assert said["max_tokens"] == 9


def test_a_message_is_read_with_its_thinking_its_calls_and_what_the_cache_took() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 25, "ephemeral_1h_input_tokens": 5},
        "output_tokens": 7,
    }
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]
    data = {"id": "m1", "model": "claude", "stop_reason": "end_turn", "usage": usage, "content": blocks}
    reply = read_message(data)
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("yes", "hm", "stop")
    assert reply.usage == Usage(60, 7, 20, 0, 30, 5)
    called = {"type": "tool_use", "id": "c", "name": "f", "input": {"x": 1}}
    reply = read_message(data | {"content": [called], "stop_reason": "tool_use"})
    assert json.loads(reply.text)[0]["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert read_message(data | {"stop_reason": "refusal"}).kind is FailureKind.REFUSED
    assert read_message(data | {"content": [], "stop_reason": "max_tokens"}).kind is FailureKind.CUT_EMPTY
    assert read_message(data | {"usage": None}).usage is None


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ({"type": "expired"}, FailureKind.EXPIRED),
        ({"type": "canceled"}, FailureKind.EXPIRED),
        ({"type": "errored", "error": {"error": {"type": "overloaded_error"}}}, FailureKind.OVERLOADED),
        (
            {"type": "errored", "error": {"error": {"type": "invalid_request_error", "message": "prompt is too long"}}},
            FailureKind.CONTEXT_OVERFLOW,
        ),
        ({"type": "errored", "error": {"error": {"type": "invalid_request_error"}}}, FailureKind.BAD_REQUEST),
        ({}, FailureKind.BROKEN_REPLY),
    ],
)  # fmt: skip
def test_a_result_without_a_message_says_why(result: Any, kind: FailureKind) -> None:
    reply = read_result(json.dumps({"custom_id": "a-1", "result": result}).encode(), not_run)
    assert reply.kind is kind
