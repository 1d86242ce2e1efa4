"""Batches at providers that say what nobody expects: each file, each line and each batch of a list stands alone."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.engines import MemoryJournal, kinds, requests
from tests.support.scripted import Said, ScriptedProvider, completion, failed, result_line, scripted
from thirdshift.engines.batch.anthropic import AnthropicBatches
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.batch.provider import CallError
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.engines.realtime.litellm import LitellmEngine
from thirdshift.engines.server.process import answers
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
    night = Night(provider)
    assert night.kinds == {"answer": 20}
    assert night.statuses == {"settled": 20}


def test_where_the_output_is_gone_nothing_is_taken_for_unbilled(provider: ScriptedProvider) -> None:
    provider.batch = told(output_file_id="file-gone")
    night = Night(provider)
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


# --- redirects ------------------------------------------------------------------------------------------------------


@contextmanager
def redirecting() -> Iterator[tuple[str, list[str]]]:
    """(a server that sends everybody to another host, what came to that other one)."""
    came: list[str] = []
    import asyncio

    loop = asyncio.new_event_loop()
    ready = threading.Event()
    bases: list[str] = []

    async def begin() -> list[web.AppRunner]:
        async def take(request: web.Request) -> web.Response:
            came.append(f"{request.method} {request.path} {dict(request.headers)}")
            return web.json_response(completion())

        async def send_on(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(f"{bases[0]}{request.path}")

        runners = []
        for handler in (take, send_on):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            bases.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
            runners.append(runner)
        return runners

    def run() -> None:
        runners = loop.run_until_complete(begin())
        ready.set()
        loop.run_forever()
        for runner in runners:
            loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield bases[1], came
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def asked(engine: Any) -> None:
    try:
        list(engine.collect(engine.submit(Shard("run", "s", "e", Purpose.MAIN, requests(1)), "run/s")))
    except CallError:
        pass
    finally:
        engine.close()


CLIENTS: dict[str, Callable[[str, Path], None]] = {
    "real time": lambda base, keep: asked(
        RealtimeEngine(_endpoint("openai/m", f"{base}/v1"), _context(keep), backoff_first_seconds=0.001)
    ),
    "litellm, OpenAI's wire": lambda base, keep: asked(
        LitellmEngine(_endpoint("mistral/m", f"{base}/v1"), _context(keep), backoff_first_seconds=0.001)
    ),
    "litellm, Anthropic's wire": lambda base, keep: asked(
        LitellmEngine(_endpoint("anthropic/m", base), _context(keep), backoff_first_seconds=0.001)
    ),
    "OpenAI's batches": lambda base, keep: asked(
        BatchEngine(_endpoint("openai/m", f"{base}/v1", Mode.BATCH), _context(keep))
    ),
    "Anthropic's batches": lambda base, keep: asked(
        BatchEngine(
            _endpoint("anthropic/m", f"{base}/v1", Mode.BATCH),
            _context(keep),
            wire=AnthropicBatches(_endpoint("anthropic/m", f"{base}/v1", Mode.BATCH), keep),
        )
    ),
    "a server's health": lambda base, _: _health(f"{base}/health"),
}
"""Every client that we make."""


def _health(url: str) -> None:
    assert not answers(url, any_reply=False)


def _context(keep: Path) -> EngineContext:
    return EngineContext(MemoryJournal(), RunBudget(None), keep=keep)


def _endpoint(model: str, base: str, mode: Mode = Mode.REALTIME) -> Endpoint:
    return Endpoint("e", model, PriceSchedule(PRICE), mode, api_base=base, api_key_env="REDIRECT_TEST_KEY")


@pytest.mark.parametrize("name", CLIENTS)
def test_no_client_follows_a_redirect(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIRECT_TEST_KEY", "sk-planted")
    with redirecting() as (base, came):
        CLIENTS[name](base, tmp_path)
    assert came == []
