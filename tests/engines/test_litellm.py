"""litellm as a transport: against a real server on loopback, and its exceptions one by one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import getmembers, isclass
from typing import Any

import pytest

from tests.support.engines import MemoryJournal, endpoint_at, kinds, requests, shard
from tests.support.scripted import Said, completion, failed, scripted
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.core.failures import NEXT_STEP
from thirdshift.engines.emulator import EmulatedModel, Emulator
from thirdshift.engines.realtime.litellm import (
    EXCEPTIONS,
    LitellmEngine,
    LitellmTransport,
    load_litellm,
    translated,
)
from thirdshift.router.interfaces import EngineContext
from thirdshift.router.pricing.prices import cost_usd
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    Limits,
    Mode,
    Price,
    Request,
)
from thirdshift.world import REAL

PRICE = Price(Decimal(1), Decimal(2))
MODEL = "hosted_vllm/m"
FINE: dict[str, Any] = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m-1",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
}
GOOD = (200, json.dumps(FINE).encode())


class Script(ThreadingHTTPServer):
    """Replies from a list, in order; the last one again and again. None: the connection is dropped."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, bytes] | None] = [GOOD]
        self.bodies: list[bytes] = []
        self.base = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Script

    def do_POST(self) -> None:
        server = self.server
        server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply[1])))
        self.end_headers()
        self.wfile.write(reply[1])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(endpoint: Endpoint, count: int = 1, **options: Any) -> tuple[list[Answer | Failure], MemoryJournal]:
    notes = MemoryJournal()
    engine = LitellmEngine(
        endpoint, EngineContext(notes, RunBudget(None)), backoff_first_seconds=0.01, **options
    )
    ticket = engine.submit(shard(endpoint.name, requests(count, max_tokens=1024)), "key")
    replies = list(engine.collect(ticket))
    engine.close()
    return replies, notes


def test_an_answer_comes_through_with_its_usage(script: Script) -> None:
    (answer, *rest), notes = ask(endpoint_at(script.base, PRICE, MODEL), 3)
    assert isinstance(answer, Answer)
    assert (answer.output, len(rest)) == ("fine", 2)
    assert next(iter(notes.outcomes.values())).cost_usd == Decimal("0.000011")
    assert next(iter(notes.outcomes.values())).model_reported == "m-1"
    assert b'"max_tokens":1024' in script.bodies[0].replace(b": ", b":")


def test_limits_and_what_a_cache_was_given_are_learnt_from_a_provider_with_a_wire_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
    model = EmulatedModel("claude-opus-4-7", Price(Decimal(1), Decimal(2)), limits=Limits(600, 90_000))
    with Emulator([model]) as emulator:
        transport = LitellmTransport(endpoint_at(emulator.root, PRICE, "anthropic/claude-opus-4-7"), 20.0)
        asked = Request(0, "r", "h", "t", ({"role": "user", "content": "hi"},), 9, temperature=None)
        reply = REAL.run(transport.send(asked))
        assert reply.kind is None, reply.message
        assert reply.usage is not None
        assert reply.usage.input_tokens == emulator.books()[0]["input_tokens"]
        parts = [{"type": "text", "text": "word " * 2000, "cache_control": {"type": "ephemeral"}}]
        kept = replace(asked, messages=({"role": "system", "content": parts}, *asked.messages))
        costs = []
        for first in (True, False):
            usage = REAL.run(transport.send(kept)).usage
            assert usage is not None
            assert (usage.written_tokens > 0) == first
            costs.append(cost_usd(model.price_for(Mode.REALTIME).base, usage))
        assert [str(cost) for cost in costs] == [entry["cost_usd"] for entry in emulator.books()[1:]]
        assert costs[0] > costs[1]
    assert reply.hints is not None
    assert (reply.hints.limit_requests, reply.hints.limit_tokens) == (600, 90_000)
    assert reply.hints.reset_tokens_seconds is not None


def test_litellm_sends_once_per_attempt_and_our_table_decides_what_follows(script: Script) -> None:
    busy = (503, b'{"error": {"message": "busy"}}')
    script.replies = [busy, (429, b'{"error": {"message": "slow"}}'), None, (200, b'{"trunc'), GOOD]
    (answer,), notes = ask(endpoint_at(script.base, PRICE, MODEL))
    assert isinstance(answer, Answer)
    assert len(script.bodies) == len(notes.intents) == 5
    assert notes.statuses == {"void": 2, "unsettled": 2, "settled": 1}


def test_where_nobody_listens_nothing_was_billed() -> None:
    (failure,), notes = ask(endpoint_at("http://127.0.0.1:1/v1", PRICE, MODEL), patience_seconds=0.5)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.CONNECTION
    assert set(notes.statuses) == {"void"}


def test_a_missing_key_is_one_sentence_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    (failure,), _ = ask(endpoint_at(None, PRICE, "anthropic/claude-opus-4-7"))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.AUTH
    assert "ANTHROPIC_API_KEY is not set" in failure.message


def test_every_exception_of_litellms_is_in_the_table() -> None:
    litellm = load_litellm()
    names = [name for name, *_ in EXCEPTIONS]
    for name, kind in getmembers(litellm.exceptions, isclass):
        if issubclass(kind, Exception):
            assert name in names, (
                f"litellm raises {name}; thirdshift.engines.realtime.litellm.EXCEPTIONS lacks it"
            )
    assert len(names) == len(set(names))
    assert {kind for _, kind, _ in EXCEPTIONS} <= set(NEXT_STEP)


def test_a_subclass_is_translated_before_its_parents() -> None:
    litellm = load_litellm()
    position = {name: i for i, (name, *_) in enumerate(EXCEPTIONS)}
    for name, kind in getmembers(litellm.exceptions, isclass):
        for parent in kind.__mro__[1:] if issubclass(kind, Exception) else ():
            if parent.__name__ in position and parent.__name__ != name:
                assert position[name] < position[parent.__name__], (name, parent.__name__)


def test_an_exceptions_words_are_not_repeated() -> None:
    litellm = load_litellm()
    error = litellm.exceptions.BadRequestError("sk-planted in: my secret prompt", model="m", llm_provider="p")
    reply = translated(error, "far")
    assert "secret" not in repr(reply)
    assert "planted" not in repr(reply)
    assert reply.kind is FailureKind.BAD_REQUEST


def test_what_a_provider_behind_litellm_refuses_is_left_out_from_then_on() -> None:
    def script(body: dict[str, Any]) -> Said:
        if "temperature" in body:
            words = "Unsupported value: 'temperature' does not support 0 with this model."
            return failed(400, words, param="temperature", code="unsupported_value")
        return Said(completion())

    with scripted(script) as provider:
        endpoint = endpoint_at(provider.base, PRICE, "mistral/m")
        journal = MemoryJournal()
        engine = LitellmEngine(endpoint, EngineContext(journal, RunBudget(None)), backoff_first_seconds=0.001)
        replies = {
            reply.row: reply for reply in engine.collect(engine.submit(shard("near", requests(3)), "k"))
        }
        engine.close()
    assert kinds(replies) == {"answer": 3}
    assert journal.statuses["void"] <= 3
    assert "temperature" not in provider.bodies[-1]


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("error", "partial"),
        ("insufficient_system_resource", "partial"),
        ("abort", "partial"),
        ("MALFORMED_FUNCTION_CALL", "partial"),
        ("sensitive", "refused"),
        ("model_context_window_exceeded", "context_overflow"),
        ("stop", "answer"),
        ("who_knows", "answer"),
    ],
)
@pytest.mark.parametrize("model", ["hosted_vllm/m", "mistral/m"])
def test_a_finish_reason_that_litellm_calls_stop_is_read_as_it_came(
    model: str, reason: str, kind: str
) -> None:
    def script(_: dict[str, Any]) -> Said:
        return Said(completion("a part of", reason, object="chat.completion", created=1))

    with scripted(script) as provider:
        endpoint = endpoint_at(provider.base, PRICE, model)
        engine = LitellmEngine(endpoint, EngineContext(MemoryJournal(), RunBudget(None)))
        ticket = engine.submit(shard(endpoint.name, requests(1)), "key")
        said = {reply.row: reply for reply in engine.collect(ticket)}
        engine.close()
    assert kinds(said) == {kind: 1}
