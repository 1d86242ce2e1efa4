"""The real-time engine against a real HTTP server that misbehaves on demand and keeps its own books."""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from tests.support.engines import MemoryJournal, endpoint_at, requests
from tests.support.paths import ROOT
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.core.failures import NEXT_STEP, Step, backoff_seconds, ledger_status
from thirdshift.engines.core.health import ENDPOINTS_OWN
from thirdshift.engines.core.records import AttemptRecords
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.engines.realtime.http import EXCEPTIONS
from thirdshift.engines.wires.errors import meaning
from thirdshift.router.interfaces import EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    LedgerStatus,
    Limits,
    Price,
    Purpose,
    Request,
    Usage,
)

PRICE = Price(Decimal(1000), Decimal(2000))
Handler = Callable[[dict[str, Any], int], Any]
"""(body, how often this prompt has come before) → a dict to answer, an aiohttp response, or a word."""


class Provider:
    """Answers on OpenAI's wire as `handler` says; bills what it has run, whether or not the reply arrives."""

    def __init__(self, handler: Handler, port: int = 0) -> None:
        self.port = port
        self.handler = handler
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.seen: Counter[str] = Counter()
        self.billed = Decimal(0)
        self.latency = 0.0
        self.open = self.most_open = 0
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        async def begin() -> web.AppRunner:
            app = web.Application()
            app.router.add_post("/v1/chat/completions", self._chat)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            return runner

        runner = self._loop.run_until_complete(begin())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._answer(request, body)
        finally:
            self.open -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        prompt = body["messages"][-1]["content"]
        said = self.handler(body, self.seen[prompt])
        self.seen[prompt] += 1
        if self.latency:
            await asyncio.sleep(self.latency)
        if isinstance(said, web.StreamResponse):
            return said
        usage = said.get("usage") if isinstance(said, dict) else None
        if said in ("drop", "hang", "truncate") or usage is not None:
            usage = usage or {"prompt_tokens": len(prompt), "completion_tokens": body["max_tokens"]}
            self.billed += (
                usage["prompt_tokens"] * PRICE.input + usage["completion_tokens"] * PRICE.output
            ) / 10**6
        if isinstance(said, dict):
            return web.json_response(said)
        return await self._misbehave(request, said)

    async def _misbehave(self, request: web.Request, how: str) -> web.StreamResponse:
        if how == "hang":
            await asyncio.sleep(30)
        if how == "truncate":
            response = web.StreamResponse(headers={"Content-Length": "5000"})
            await response.prepare(request)
            await response.write(b'{"choices": [{"mess')
        assert request.transport is not None
        request.transport.close()
        return web.Response()


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider(lambda body, _: completion(body["messages"][-1]["content"].upper()))
    yield made
    made.close()


def completion(
    text: str | None, finish: str = "stop", tokens: tuple[int, int] = (10, 3), **message: Any
) -> Any:
    return {
        "id": "chatcmpl-1",
        "model": "m-2026",
        "choices": [{"message": {"content": text, **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]},
    }


def error(status: int, code: str | None = None, message: str = "no", **headers: str) -> web.Response:
    body = {"error": {"code": code, "message": message}}
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return web.json_response(body, status=status, headers=named)


class Night:
    """One shard through one engine, to its end."""

    def __init__(
        self,
        endpoint: Endpoint,
        work: list[Request],
        *,
        cap: str | None = None,
        deadline: datetime | None = None,
        first_attempt: int = 1,
        **options: Any,
    ) -> None:
        self.notes = MemoryJournal()
        self.budget = RunBudget(None if cap is None else Decimal(cap))
        self.engine = RealtimeEngine(
            endpoint, EngineContext(self.notes, self.budget, deadline), seed=1, **options
        )
        shard = Shard("run", "shard", endpoint.name, Purpose.MAIN, work, first_attempt)
        self.ticket = self.engine.submit(shard, "key")

    def finish(self) -> dict[int, Answer | Failure]:
        try:
            replies = list(self.engine.collect(self.ticket))
        finally:
            self.engine.close()
        assert len({s.row for s in replies}) == len(replies)
        return {s.row: s for s in replies}


def run(endpoint: Endpoint, work: list[Request], **options: Any) -> tuple[dict[int, Answer | Failure], Night]:
    night = Night(endpoint, work, **options)
    return night.finish(), night


def only(replies: dict[int, Answer | Failure]) -> Answer | Failure:
    assert len(replies) == 1
    return replies[0]


# --- the way of an answer ---------------------------------------------------------------------------------


def test_every_request_is_answered_once_and_the_ledger_equals_the_providers_books(provider: Provider) -> None:
    replies, night = run(endpoint_at(provider.base, PRICE), requests(500))
    assert {r: s.output for r, s in replies.items() if isinstance(s, Answer)} == {
        i: f"QUESTION {i}" for i in range(500)
    }
    assert night.notes.cost == provider.billed == night.budget.spent_usd
    assert night.notes.statuses == {"settled": 500}
    assert night.budget.reserved_usd == 0
    assert night.engine.progress(night.ticket).finished


def test_the_body_carries_what_the_row_and_the_endpoint_say_and_nothing_else(provider: Provider) -> None:
    schema = {"type": "object"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    work = requests(
        1, max_tokens=77, temperature=None, response_schema=schema, tools=(tool,), sampling={"top_p": 0.5}
    )
    run(endpoint_at(provider.base, PRICE, params={"reasoning_effort": "low"}), work)
    assert provider.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "question 0"}],
        "max_tokens": 77,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": schema},
        },
        "tools": [tool],
        "top_p": 0.5,
        "reasoning_effort": "low",
    }


def test_the_intent_is_written_before_the_request_arrives(provider: Provider) -> None:
    notes_at_arrival: list[int] = []
    night: list[Night] = []

    def handler(_: Any, __: int) -> Any:
        notes_at_arrival.append(len(night[0].notes.intents) if night else -1)
        return completion("x")

    provider.handler, provider.latency = handler, 0.0
    night.append(Night(endpoint_at(provider.base, PRICE, limits=Limits(concurrency=1)), requests(5)))
    night[0].finish()
    assert notes_at_arrival in ([1, 2, 3, 4, 5], [-1, 2, 3, 4, 5])


def test_submitting_twice_with_one_key_is_one_lot_of_work(provider: Provider) -> None:
    night = Night(endpoint_at(provider.base, PRICE), requests(20))
    shard = Shard("run", "shard", "near", Purpose.MAIN, requests(20))
    assert night.engine.submit(shard, "key") == night.ticket
    night.finish()
    assert len(provider.bodies) == 20


@pytest.mark.parametrize("thought", [None, "hm"])
def test_what_is_said_beside_tool_calls_is_kept_and_takes_no_call_away(
    provider: Provider, thought: str | None
) -> None:
    """Claude says what it will do before it calls a tool for it."""
    calls = [{"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    provider.handler = lambda _body, _n: completion(
        "I will look.", "tool_calls", tool_calls=calls, reasoning_content=thought
    )
    replies, _ = run(endpoint_at(provider.base, PRICE), requests(1))
    answer = only(replies)
    assert isinstance(answer, Answer)
    assert json.loads(answer.output) == calls
    assert answer.reasoning == ("I will look." if thought is None else "hm\n\nI will look.")


def test_tool_calls_reasoning_log_probabilities_and_cached_tokens_come_through(provider: Provider) -> None:
    def handler(body: dict[str, Any], _: int) -> Any:
        reply = completion(None, "tool_calls", tool_calls=[{"id": "1"}], reasoning_content="hm")
        likely = {"token": "a", "logprob": -0.5, "bytes": [97]}
        reply["choices"][0]["logprobs"] = {"content": [{**likely, "top_logprobs": [likely]}]}
        reply["usage"] = {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        }
        return reply

    provider.handler = handler
    replies, night = run(endpoint_at(provider.base, PRICE), requests(1))
    answer = only(replies)
    assert isinstance(answer, Answer)
    assert (answer.output, answer.reasoning, answer.finish_reason) == ('[{"id":"1"}]', "hm", "tool_calls")
    assert answer.logprobs == '[{"token":"a","logprob":-0.5,"top_logprobs":[{"token":"a","logprob":-0.5}]}]'
    (outcome,) = night.notes.outcomes.values()
    assert outcome.usage == Usage(10, 5, 4, 2)
    assert (outcome.model_reported, outcome.provider_ref) == ("m-2026", "chatcmpl-1")


def test_attempt_numbers_go_on_where_earlier_shards_ended(provider: Provider) -> None:
    provider.handler = lambda _, seen: error(503) if seen == 0 else completion("x")
    _, night = run(endpoint_at(provider.base, PRICE), requests(1), first_attempt=4)
    assert sorted(i.attempt for i in night.notes.intents.values()) == [4, 5]


# --- failures ---------------------------------------------------------------------------------------------


def test_an_endpoint_that_never_says_anything_but_errors_is_given_up_early(provider: Provider) -> None:
    provider.handler = lambda _body, _seen: error(500)
    replies, _ = run(endpoint_at(provider.base, PRICE), requests(100), backoff_first_seconds=0.05)
    assert all(
        isinstance(reply, Failure) and reply.kind is FailureKind.OVERLOADED for reply in replies.values()
    )
    assert any("given up" in reply.message for reply in replies.values() if isinstance(reply, Failure))
    assert len(provider.bodies) < 100 * NEXT_STEP[FailureKind.OVERLOADED].attempts


MISBEHAVIOURS: dict[str, tuple[Any, dict[str, int]]] = {
    "500": (lambda: error(500), {"void": 1, "settled": 1}),
    "503": (lambda: error(503), {"void": 1, "settled": 1}),
    "408": (lambda: error(408), {"void": 1, "settled": 1}),
    "429": (lambda: error(429, retry_after="0"), {"void": 1, "settled": 1}),
    "dropped": (lambda: "drop", {"unsettled": 1, "settled": 1}),
    "hung": (lambda: "hang", {"unsettled": 1, "settled": 1}),
    "truncated": (lambda: "truncate", {"unsettled": 1, "settled": 1}),
    "no json": (lambda: web.Response(text="<html>busy</html>"), {"unsettled": 1, "settled": 1}),
    "no choices": (lambda: web.json_response({"id": "x"}), {"unsettled": 1, "settled": 1}),
    "error in a 200": (lambda: web.json_response({"error": {"code": 503}}), {"void": 1, "settled": 1}),
    "cut empty": (lambda: completion("", "length"), {"settled": 2}),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_each_misbehaviour_is_survived_and_booked_as_the_contract_says(provider: Provider, name: str) -> None:
    misbehave, statuses = MISBEHAVIOURS[name]
    provider.handler = lambda _, seen: misbehave() if seen == 0 else completion("fine")
    replies, night = run(endpoint_at(provider.base, PRICE), requests(1, max_tokens=5), timeout_seconds=0.5)
    answer = only(replies)
    assert isinstance(answer, Answer), answer
    assert night.notes.statuses == statuses
    first, last = night.notes.outcomes.values()
    assert (first.final, last.final) == (False, True)
    if first.status is LedgerStatus.UNSETTLED:
        assert first.cost_usd == next(iter(night.notes.intents.values())).reserved_usd
    assert night.notes.cost >= provider.billed
    assert night.budget.reserved_usd == 0


@pytest.mark.parametrize(
    ("reply", "kind", "status"),
    [
        (lambda: error(400, "context_length_exceeded"), FailureKind.CONTEXT_OVERFLOW, "void"),
        (lambda: error(400, None, "maximum context length is 5"), FailureKind.CONTEXT_OVERFLOW, "void"),
        (lambda: error(413), FailureKind.CONTEXT_OVERFLOW, "void"),
        (lambda: error(400, "content_policy_violation"), FailureKind.REFUSED, "void"),
        (lambda: error(400, "unsupported_value"), FailureKind.BAD_REQUEST, "void"),
        (lambda: error(401), FailureKind.AUTH, "void"),
        (lambda: error(429, "insufficient_quota"), FailureKind.AUTH, "void"),
        (lambda: error(404, "model_not_found"), FailureKind.NOT_FOUND, "void"),
        (lambda: web.Response(status=302, headers={"Location": "/elsewhere"}), FailureKind.NOT_FOUND, "void"),
        (lambda: completion("I can't", refusal="no"), FailureKind.REFUSED, "settled"),
        (lambda: completion("", "content_filter"), FailureKind.REFUSED, "settled"),
    ],
)
def test_what_this_endpoint_will_not_answer_is_asked_once(
    provider: Provider, reply: Any, kind: FailureKind, status: str
) -> None:
    provider.handler = lambda _, __: reply()
    replies, night = run(endpoint_at(provider.base, PRICE), requests(1))
    failure = only(replies)
    assert isinstance(failure, Failure)
    assert failure.kind is kind
    assert night.notes.statuses == {status: 1}
    assert len(provider.bodies) == 1


def test_an_answer_cut_before_its_first_word_is_asked_once_more_with_a_larger_budget(
    provider: Provider,
) -> None:
    provider.handler = lambda _, __: completion(None, "length")
    replies, night = run(endpoint_at(provider.base, PRICE), requests(1, max_tokens=50))
    assert [b["max_tokens"] for b in provider.bodies] == [50, 200]
    failure = only(replies)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CUT_EMPTY
    first = next(iter(night.notes.outcomes.values()))
    assert isinstance(first.reply, Failure)
    assert "max_tokens 200" in first.reply.message


def test_an_answer_invalid_by_its_schema_is_paid_for_and_tried_once_more(provider: Provider) -> None:
    schema = {"type": "object", "required": ["a"]}
    provider.handler = lambda body, seen: completion('{"a": 1}' if seen else "{}")
    replies, night = run(endpoint_at(provider.base, PRICE), requests(1, response_schema=schema))
    answer = only(replies)
    assert isinstance(answer, Answer)
    assert answer.valid is True
    assert night.notes.statuses == {"settled": 2}
    provider.handler = lambda body, seen: completion("not json")
    replies, night = run(endpoint_at(provider.base, PRICE), requests(1, response_schema=schema))
    answer = only(replies)
    assert isinstance(answer, Answer)
    assert answer.valid is False
    assert len(night.notes.outcomes) == 2


def test_a_schema_that_is_none_is_never_sent(provider: Provider) -> None:
    replies, night = run(endpoint_at(provider.base, PRICE), requests(1, response_schema={"type": "nonsense"}))
    failure = only(replies)
    assert isinstance(failure, Failure)
    assert (failure.kind, provider.bodies) == (FailureKind.BAD_REQUEST, [])
    assert night.notes.statuses == {"void": 1}


def test_retry_after_is_obeyed_by_the_whole_endpoint(provider: Provider) -> None:
    arrivals: list[float] = []

    def handler(_: Any, __: int) -> Any:
        arrivals.append(time.monotonic())
        return error(429, retry_after="1") if len(arrivals) == 1 else completion("x")

    provider.handler = handler
    replies, _ = run(endpoint_at(provider.base, PRICE, limits=Limits(concurrency=1)), requests(3))
    assert all(isinstance(s, Answer) for s in replies.values())
    assert arrivals[1] - arrivals[0] >= 1.0


def test_without_a_key_that_the_endpoint_names_nothing_is_sent(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    replies, _ = run(endpoint_at(provider.base, PRICE, api_key_env="THE_KEY"), requests(2))
    assert {s.kind for s in replies.values() if isinstance(s, Failure)} == {FailureKind.AUTH}
    assert "THE_KEY" in str(replies[0])
    assert provider.bodies == []


def test_a_key_goes_into_the_header_and_nowhere_else(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEY", "sk-planted-0123456789")
    provider.handler = lambda _, __: error(401, "sk-planted-0123456789", "bad key sk-planted-0123456789")
    replies, night = run(endpoint_at(provider.base, PRICE, api_key_env="THE_KEY"), requests(1))
    assert provider.headers[0]["Authorization"] == "Bearer sk-planted-0123456789"
    assert "planted" not in repr((replies, night.notes.intents, night.notes.outcomes))
    assert "question" not in repr((replies, night.notes.intents, night.notes.outcomes))


def test_after_three_refusals_of_the_key_no_more_is_sent(provider: Provider) -> None:
    provider.handler = lambda _, __: error(401)
    replies, night = run(endpoint_at(provider.base, PRICE, limits=Limits(concurrency=1)), requests(50))
    assert len(provider.bodies) == 3
    assert len(replies) == 50
    assert night.notes.statuses == {"void": 50}


def test_an_endpoint_where_nobody_listens_is_given_up(provider: Provider) -> None:
    endpoint = endpoint_at(provider.base, PRICE)
    provider.close()
    began = time.monotonic()
    replies, night = run(endpoint, requests(30), patience_seconds=1.0)
    assert {s.kind for s in replies.values() if isinstance(s, Failure)} == {FailureKind.CONNECTION}
    assert night.notes.cost == 0
    assert time.monotonic() - began < 10


def test_once_given_up_an_endpoint_keeps_nobody_waiting(provider: Provider) -> None:
    endpoint = endpoint_at(provider.base, PRICE)
    provider.close()
    began = time.monotonic()
    replies, _ = run(endpoint, requests(300), patience_seconds=3.0)
    assert len(replies) == 300
    assert time.monotonic() - began < 12, "300 requests, and each pause would be a second"


def test_an_endpoint_that_comes_back_is_waited_for(provider: Provider) -> None:
    endpoint, port = endpoint_at(provider.base, PRICE), int(provider.base.split(":")[2].split("/")[0])
    provider.close()
    night = Night(endpoint, requests(20), backoff_first_seconds=0.02)
    time.sleep(1.0)
    again = Provider(lambda _, __: completion("back"), port)
    replies = night.finish()
    again.close()
    assert all(isinstance(s, Answer) for s in replies.values())
    assert night.notes.statuses["settled"] == 20
    assert night.notes.statuses["unsettled"] == 0


def test_shards_of_one_endpoint_share_its_limits(provider: Provider) -> None:
    provider.latency = 0.02
    night = Night(endpoint_at(provider.base, PRICE, limits=Limits(concurrency=5)), requests(60))
    others = [
        night.engine.submit(Shard("run", f"s{i}", "near", Purpose.AUDIT, requests(60)), f"k{i}")
        for i in range(4)
    ]
    for ticket in others:
        assert len(list(night.engine.collect(ticket))) == 60
    night.finish()
    assert provider.most_open == 5
    assert len(provider.bodies) == 300


def test_params_may_not_change_what_a_call_can_cost(provider: Provider) -> None:
    with pytest.raises(BadEndpointError, match=r"near: params may not set n"):
        run(endpoint_at(provider.base, PRICE, params={"n": 3}), requests(1))
    replies, _ = run(endpoint_at(provider.base, PRICE), requests(1, sampling={"n": 3}))
    assert provider.bodies == []
    failure = only(replies)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.BAD_REQUEST


def test_all_misbehaviours_together_leave_no_request_without_an_end(provider: Provider) -> None:
    rng = random.Random(7)
    quick = [m for name, (m, _) in MISBEHAVIOURS.items() if name != "hung"]

    def handler(body: dict[str, Any], _: int) -> Any:
        if rng.random() < 0.35:
            return quick[rng.randrange(len(quick))]()
        return completion("fine")

    provider.handler = handler
    endpoint = endpoint_at(provider.base, PRICE)
    replies, night = run(
        endpoint, requests(300, max_tokens=5), timeout_seconds=2.0, backoff_first_seconds=0.1
    )
    assert len(replies) == 300
    assert sum(isinstance(s, Answer) for s in replies.values()) >= 290
    assert night.notes.intents.keys() == night.notes.outcomes.keys()
    assert night.notes.cost >= provider.billed
    assert night.budget.reserved_usd == 0


# --- stopping ---------------------------------------------------------------------------------------------


def test_stop_sends_nothing_more_and_lets_what_is_in_flight_finish(provider: Provider) -> None:
    provider.latency = 0.3
    night = Night(endpoint_at(provider.base, PRICE, limits=Limits(concurrency=8)), requests(200))
    while len(provider.bodies) < 8:
        time.sleep(0.01)
    night.engine.stop()
    replies = night.finish()
    answered = sum(isinstance(s, Answer) for s in replies.values())
    assert answered == len(provider.bodies) == 8
    assert Counter(s.kind for s in replies.values() if isinstance(s, Failure)) == {FailureKind.CANCELLED: 192}


def test_after_the_deadline_nothing_is_sent(provider: Provider) -> None:
    provider.latency = 0.1
    deadline = datetime.now(UTC) + timedelta(seconds=0.8)
    night = Night(endpoint_at(provider.base, PRICE, limits=Limits(rpm=600)), requests(500), deadline=deadline)
    replies = night.finish()
    kinds = Counter(s.kind if isinstance(s, Failure) else "answer" for s in replies.values())
    assert kinds["answer"] == len(provider.bodies) > 0
    assert kinds[FailureKind.DEADLINE] == 500 - len(provider.bodies)
    assert datetime.now(UTC) < deadline + timedelta(seconds=2)


def test_closing_in_flight_leaves_the_attempts_unsettled_and_the_money_booked(provider: Provider) -> None:
    provider.latency = 5.0
    night = Night(endpoint_at(provider.base, PRICE, limits=Limits(concurrency=4)), requests(4))
    while len(provider.bodies) < 4:
        time.sleep(0.01)
    night.engine.close()
    assert night.notes.statuses == {"unsettled": 4}
    assert night.budget.reserved_usd == 0
    assert night.budget.spent_usd == sum(i.reserved_usd for i in night.notes.intents.values())


def test_a_journal_that_cannot_be_written_stops_the_shard_before_anything_is_sent(provider: Provider) -> None:
    class Full(MemoryJournal):
        def sent(self, intents: Any) -> None:
            raise OSError(28, "No space left on device")

    budget = RunBudget(Decimal(100))
    engine = RealtimeEngine(endpoint_at(provider.base, PRICE), EngineContext(Full(), budget))
    ticket = engine.submit(Shard("run", "shard", "near", Purpose.MAIN, requests(50)), "key")
    with pytest.raises(OSError, match="No space left"):
        list(engine.collect(ticket))
    engine.close()
    assert provider.bodies == []
    assert budget.reserved_usd == 0


# --- money ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_cap_is_never_passed_by_the_providers_books(provider: Provider, seed: int) -> None:
    rng = random.Random(seed)

    def handler(body: dict[str, Any], _: int) -> Any:
        if rng.random() < 0.1:
            return "drop"
        size = len(json.dumps(body))
        return completion("x", tokens=(rng.randint(1, size), rng.randint(1, body["max_tokens"])))

    provider.handler, provider.latency = handler, 0.01
    work = requests(400, max_tokens=100)
    endpoint = endpoint_at(provider.base, PRICE, limits=Limits(concurrency=100))
    most = AttemptRecords(endpoint).worst_case(work[-1])
    cap = most * 150
    replies, night = run(endpoint, work, cap=str(cap))
    assert provider.billed <= night.notes.cost <= cap
    assert night.notes.cost > cap - most
    assert any(isinstance(s, Failure) and s.kind is FailureKind.BUDGET for s in replies.values())


def test_under_a_cap_requests_are_served_in_order_until_the_stop(provider: Provider) -> None:
    endpoint = endpoint_at(provider.base, PRICE)
    provider.handler = lambda _, __: completion("x", tokens=(200, 90))
    work = requests(60, max_tokens=100)
    replies, night = run(endpoint, work, cap=str(AttemptRecords(endpoint).worst_case(work[0]) * 3))
    served = [row for row in range(60) if isinstance(replies[row], Answer)]
    assert 3 <= len(served) < 60
    assert served == list(range(len(served)))
    assert len(night.notes.intents) == len(served)


# --- the tables -------------------------------------------------------------------------------------------


def test_the_outcome_table_is_whole() -> None:
    assert set(NEXT_STEP) == set(FailureKind)
    for kind, rule in NEXT_STEP.items():
        assert rule.attempts >= 1, kind
        assert (rule.attempts > 1) == (rule.step is Step.SAME_ENDPOINT), kind
        assert rule.ledger in (LedgerStatus.VOID, LedgerStatus.UNSETTLED), kind


def test_the_page_on_dispatch_has_the_outcome_table_as_it_is() -> None:
    text = (ROOT / "docs" / "design" / "dispatch.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| ([^|]+) \| (\d+) \| (\w+) \|$", text, re.MULTILINE)
    told = {FailureKind(kind): (next_, int(attempts), ledger) for kind, next_, attempts, ledger in rows}
    assert set(told) == set(FailureKind) - {FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED}
    for kind, (next_, attempts, ledger) in told.items():
        rule = NEXT_STEP[kind]
        assert (attempts, ledger) == (rule.attempts, rule.ledger), kind
        assert next_.startswith("here") is (rule.step is Step.SAME_ENDPOINT), kind
        assert ("at once" not in next_) is rule.wait, kind
        assert ("all slow down" in next_) is rule.congestion, kind
        assert ("three in a row" in next_) is (kind in ENDPOINTS_OWN), kind


def test_every_http_error_has_a_meaning() -> None:
    for status in range(300, 600):
        assert meaning(status, (), "")[0] in FailureKind


def test_told_usage_settles_whatever_the_reply_was_worth() -> None:
    for kind in (None, *FailureKind):
        assert ledger_status(kind, Usage(1, 1)) is LedgerStatus.SETTLED
        assert ledger_status(kind, None, unbilled=True) is LedgerStatus.VOID
    assert ledger_status(None, None) is LedgerStatus.UNSETTLED


def test_waits_grow_and_what_the_provider_asks_for_comes_first() -> None:
    rng = random.Random(0)
    waits = [backoff_seconds(n, None, rng) for n in range(1, 12)]
    assert 0.5 <= waits[0] <= 1.0
    assert all(30.0 <= w <= 60.0 for w in waits[7:])
    assert 7.0 <= backoff_seconds(1, 7.0, rng) <= 7.5
    assert max(backoff_seconds(n, 0.0, rng) for n in range(1, 4)) <= 0.25
    patience = sum(
        backoff_seconds(n, 0.0, rng) for n in range(1, NEXT_STEP[FailureKind.RATE_LIMITED].attempts)
    )
    assert patience > 600, "a limit by the minute is outlived, whatever is said of it"


def test_every_client_error_of_aiohttp_is_translated() -> None:
    import aiohttp

    for name in dir(aiohttp):
        thing = getattr(aiohttp, name)
        if isinstance(thing, type) and issubclass(thing, aiohttp.ClientError):
            assert any(issubclass(thing, known) for known, *_ in EXCEPTIONS), name
