"""What replies lead to: whose fault a failure is, when an endpoint is left alone, what is learnt, what is kept; and the
laws that hold for whatever bytes come."""

from __future__ import annotations

import gzip
import json
import os
import stat
import threading
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.engines import MemoryJournal, kinds, requests
from tests.support.scripted import Said, Script, ScriptedProvider, completion, failed, scripted
from thirdshift.engines.batch.engine import BatchEngine
from thirdshift.engines.core import health
from thirdshift.engines.core.budget import RunBudget
from thirdshift.engines.core.failures import NEXT_STEP
from thirdshift.engines.core.health import ANSWERED_IN_A_ROW
from thirdshift.engines.core.server_words import FILE
from thirdshift.engines.core.validation import judged, schema_fault
from thirdshift.engines.realtime.engine import RealtimeEngine
from thirdshift.engines.wires.anthropic import read_message, read_result
from thirdshift.engines.wires.lines import read_line
from thirdshift.engines.wires.openai import Bodies
from thirdshift.engines.wires.replies import read_reply
from thirdshift.engines.wires.schema_forms import enforceable, strict
from thirdshift.router.interfaces import Engine, EngineContext, Shard
from thirdshift.router.values import (
    Answer,
    Endpoint,
    Failure,
    FailureKind,
    LedgerStatus,
    Limits,
    Mode,
    Price,
    PriceSchedule,
    Purpose,
    Request,
    WorkerSpec,
)

PRICE = Price(Decimal(1000), Decimal(2000))


class Shift:
    """Requests through an endpoint's engine at a scripted provider."""

    def __init__(
        self,
        provider: ScriptedProvider,
        work: list[Request],
        *,
        keep: Path | None = None,
        elsewhere: bool = False,
        deadline: datetime | None = None,
        cap: str | None = None,
        patience: float = 300.0,
        **more: Any,
    ) -> None:
        self.notes, self.budget = MemoryJournal(), RunBudget(None if cap is None else Decimal(cap))
        self.words: list[str] = []
        context = EngineContext(
            self.notes, self.budget, deadline, keep=keep, elsewhere=elsewhere, say=self.words.append
        )
        made = {"price": PriceSchedule(PRICE), "api_base": provider.base, **more}
        endpoint = Endpoint("near", "openai/m", **made)
        engine: Engine = (
            BatchEngine(endpoint, context, poll_first_seconds=0.02, poll_max_seconds=0.05)
            if endpoint.mode is Mode.BATCH
            else RealtimeEngine(
                endpoint, context, backoff_first_seconds=0.001, patience_seconds=patience, seed=1
            )
        )
        ticket = engine.submit(Shard("run", "s", "near", Purpose.MAIN, work), "run/s")
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


def row_of(body: dict[str, Any]) -> int:
    return int(body["messages"][-1]["content"].split()[-1])


def answering(but: dict[int, Said]) -> Script:
    """Every row is answered, but for these."""
    return lambda body: but.get(row_of(body)) or Said(completion())


# --- whose fault ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        failed(403, "Input was flagged by moderation"),
        failed(403, "forbidden"),
        failed(404, "image not found"),
        failed(
            500,
            "image input is not supported - hint: you may need to provide the mmproj",
            type="server_error",
        ),
    ],
    ids=["moderated", "plain 403", "plain 404", "picture"],
)
def test_an_endpoint_that_answers_is_not_given_up_for_what_single_requests_meet(reply: Said) -> None:
    bad = dict.fromkeys(range(40, 60), reply)
    with scripted(answering(bad)) as provider:
        shift = Shift(provider, requests(200))
    assert shift.kinds["answer"] == 180
    assert len(provider.bodies) == 200, "each of the failing rows is asked once"
    assert shift.words == []


def test_a_servers_error_that_meets_one_request_alone_holds_up_nobody() -> None:
    with scripted(answering({5: failed(500, "cannot do this")})) as provider:
        shift = Shift(provider, requests(60))
    assert shift.kinds == {"answer": 59, "overloaded": 1}
    assert len(provider.bodies) <= 59 + NEXT_STEP[FailureKind.OVERLOADED].attempts


@pytest.mark.parametrize(
    "reply",
    [
        failed(400, "Your credit balance is too low to access the API.", type="invalid_request_error"),
        failed(
            429, "No deployments available - crossed budget: Exceeded budget", type="internal_server_error"
        ),
        failed(422, "Budget has been exceeded!", type="budget_exceeded"),
        failed(401, "no"),
    ],
    ids=["credit", "deployment's budget", "key's budget", "key"],
)
def test_an_empty_account_gives_an_endpoint_up_though_it_has_answered(reply: Said) -> None:
    with scripted(answering(dict.fromkeys(range(3, 300), reply))) as provider:
        shift = Shift(provider, requests(300), limits=_few())
    assert shift.kinds == {"answer": 3, "auth": 297}
    assert len(provider.bodies) <= 3 + ANSWERED_IN_A_ROW + 8
    assert len(shift.words) == 1
    assert set(shift.statuses) == {"settled", "void"}


def _few() -> Any:
    from thirdshift.router.values import Limits

    return Limits(concurrency=4)


@pytest.mark.parametrize("how", ["seconds", "date"])
def test_a_wait_of_hours_sends_the_rest_elsewhere_and_says_until_when(how: str) -> None:
    hours = "7200"
    if how == "date":
        hours = format_datetime(datetime.now(UTC) + timedelta(days=900), usegmt=True)
    late = failed(429, "daily limit", {"retry-after": hours}, code="rate_limit_exceeded")
    with scripted(answering(dict.fromkeys(range(5, 50), late))) as provider:
        began = time.monotonic()
        shift = Shift(provider, requests(50), elsewhere=True, limits=_few())
    assert time.monotonic() - began < 60
    assert shift.kinds == {"answer": 5, "rate_limited": 45}
    assert len(provider.bodies) <= 5 + 4
    (words,) = shift.words
    assert "out until" in words
    assert "UTC" in words
    told = [reply.message for reply in shift.said.values() if isinstance(reply, Failure)]
    assert sum("out until" in message for message in told) >= 40, "all but those that were in flight"


def test_an_endpoint_that_was_out_is_asked_again_within_its_limits_once_its_wait_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "LONG_WAIT_SECONDS", 0.2)
    resting = threading.Event()
    resting.set()
    wait = {"retry-after": "1.5"}

    def script(_: dict[str, Any]) -> Said:
        return failed(429, "later", wait) if resting.is_set() else Said(completion())

    notes, words = MemoryJournal(), list[str]()
    with scripted(script) as provider:
        endpoint = Endpoint(
            "near", "openai/m", PriceSchedule(PRICE), api_base=provider.base, limits=Limits(concurrency=3)
        )
        context = EngineContext(notes, RunBudget(None), elsewhere=True, say=words.append)
        engine = RealtimeEngine(endpoint, context, backoff_first_seconds=0.001, seed=1)

        def shard(name: str) -> Counter[str]:
            work = Shard("run", name, "near", Purpose.MAIN, requests(30))
            return kinds({reply.row: reply for reply in engine.collect(engine.submit(work, name))})

        assert shard("first") == {"rate_limited": 30}
        sent, until = len(provider.bodies), engine.out_until
        assert sent <= 3
        assert until is not None
        resting.clear()
        assert shard("while it is out") == {"rate_limited": 30}
        assert len(provider.bodies) == sent
        time.sleep(max(0.0, until - time.time()))
        assert shard("back") == {"answer": 30}
        assert engine.out_until is None
        engine.close()
    assert len(words) == 1


def test_a_wait_beyond_the_deadline_is_not_waited_for_though_there_is_no_other_endpoint() -> None:
    late = failed(429, "later", {"retry-after": "7200"})
    deadline = datetime.now(UTC) + timedelta(minutes=30)
    with scripted(lambda _: late) as provider:
        shift = Shift(provider, requests(3), deadline=deadline)
    assert shift.kinds == {"rate_limited": 3}


def test_nothing_but_429_without_a_word_on_when_ends_where_patience_does() -> None:
    with scripted(lambda _: failed(429, "no")) as provider:
        shift = Shift(provider, requests(20), elsewhere=True, patience=0.2)
    assert shift.kinds == {"rate_limited": 20}
    assert "nothing but 429" in shift.words[0]


# --- what is learnt -------------------------------------------------------------------------------------------------


def test_a_refused_parameter_is_left_out_from_then_on() -> None:
    def script(body: dict[str, Any]) -> Said:
        if "max_tokens" in body:
            words = "Unsupported parameter: 'max_tokens' is not supported with this model."
            return failed(400, words, param="max_tokens", code="unsupported_parameter")
        if "temperature" in body:
            words = "Unsupported value: 'temperature' does not support 0 with this model."
            return failed(400, words, param="temperature", code="unsupported_value")
        return Said(completion())

    with scripted(script) as provider:
        shift = Shift(provider, requests(80), limits=_few())
    assert shift.kinds == {"answer": 80}
    assert len(provider.bodies) <= 80 + 3 * 4
    assert provider.bodies[-1]["max_completion_tokens"] == 64


def test_a_server_that_refuses_either_name_of_the_ceiling_is_not_asked_for_ever() -> None:
    def script(body: dict[str, Any]) -> Said:
        name = "max_tokens" if "max_tokens" in body else "max_completion_tokens"
        return failed(400, "no", param=name, code="unsupported_parameter")

    with scripted(script) as provider:
        shift = Shift(provider, requests(5))
    assert shift.kinds == {"bad_request": 5}
    assert len(provider.bodies) <= 5 * 5


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "uniqueItems": True}},
    "required": ["name"],
}


def test_a_schema_that_the_server_cannot_enforce_is_sent_without_what_it_refuses_and_judged_by_the_users_own() -> (
    None
):
    def script(body: dict[str, Any]) -> Said:
        sent = json.dumps(body["response_format"])
        if "uniqueItems" in sent:
            return failed(400, 'Unimplemented keys: ["uniqueItems"]', type="BadRequestError")
        return Said(completion('{"name": "a", "tags": [1, 1]}' if row_of(body) == 0 else '{"name": "a"}'))

    with scripted(script) as provider:
        shift = Shift(provider, requests(6, response_schema=SCHEMA))
    valid = {row: reply.valid for row, reply in shift.said.items() if isinstance(reply, Answer)}
    assert valid == {0: False, 1: True, 2: True, 3: True, 4: True, 5: True}


UNSCHEMED = {
    "DeepSeek": ("json_object", "This response_format type is unavailable now"),
    "Groq": (
        "json_object",
        "'response_format.type' : value is not one of the allowed values ['text','json_object']",
    ),
    "xAI, once": (None, "The response_format parameter is unsupported at the moment. Leave it unset."),
    "DeepSeek, no word of JSON": (
        None,
        "Prompt must contain the word 'json' in some form to use 'response_format'",
    ),
}
"""Who → what of a schema it takes, and the words of its refusal: llm-exe/llm-exe#662, dzhng/deep-research#127,
BerriAI/litellm#6610, browserbase/stagehand#1204."""


@pytest.mark.parametrize("who", UNSCHEMED)
def test_a_server_that_takes_no_schema_is_asked_without_and_its_answers_are_judged_all_the_same(
    who: str,
) -> None:
    takes, words = UNSCHEMED[who]

    def script(body: dict[str, Any]) -> Said:
        wanted = body.get("response_format")
        if wanted is not None and wanted["type"] != takes:
            return failed(400, words, type="invalid_request_error")
        return Said(completion('{"name": 5}' if row_of(body) == 0 else '{"name": "a"}'))

    with scripted(script) as provider:
        shift = Shift(provider, requests(40, response_schema=SCHEMA), limits=_few())
    valid = {row: reply.valid for row, reply in shift.said.items() if isinstance(reply, Answer)}
    assert valid == {row: row != 0 for row in range(40)}
    assert len(provider.bodies) <= 40 + 1 + 2 * 4, (
        "learnt once; row 0 is asked twice, as its first answer is invalid"
    )
    assert (provider.bodies[-1].get("response_format") or {}).get("type") == takes


def test_a_schema_that_is_refused_in_every_form_leaves_the_schemas_of_other_rows_enforced() -> None:
    other = {**SCHEMA, "title": "other"}

    def script(body: dict[str, Any]) -> Said:
        sent = json.dumps(body["response_format"])
        return Said(completion('{"name": "a"}')) if "other" not in sent else failed(400, "Grammar error: no")

    def asked(first: int, schema: dict[str, Any]) -> list[Request]:
        return [replace(request, row=first + request.row) for request in requests(5, response_schema=schema)]

    with scripted(script) as provider:
        shift = Shift(provider, [*asked(0, SCHEMA), *asked(5, other)], limits=_few())
    assert shift.kinds == {"answer": 10}
    kinds = [body["response_format"]["type"] for body in provider.bodies if row_of(body) >= 0]
    assert kinds.count("json_object") == 5
    assert kinds.count("json_schema") >= 6


def test_openais_strict_mode_gets_closed_objects_and_its_nulls_are_taken_out() -> None:
    form = strict(SCHEMA)
    assert form is not None
    assert form["required"] == ["name", "tags"]
    assert form["additionalProperties"] is False
    assert form["properties"]["tags"]["type"] == ["array", "null"]
    assert strict(form) == form
    text, valid, note = judged(SCHEMA, '{"name": "a", "tags": null}')
    assert (json.loads(text), valid) == ({"name": "a"}, True)
    assert note is not None
    assert strict({"type": "object", "additionalProperties": {"type": "string"}}) is None
    assert "pattern" not in enforceable({"type": "string", "pattern": "^(?=a)"})


def test_a_worker_gets_the_schema_without_what_its_grammars_refuse() -> None:
    schema = {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 3},
            "code": {"type": "string", "pattern": "^(?!x)", "format": "my-own"},
        },
        "not": {"required": ["x"]},
        "required": ["tags"],
    }
    workers = WorkerSpec("cpu", 1, "python")
    bodies = Bodies(Endpoint("house", "qwen", PriceSchedule(PRICE), workers=workers))
    (work,) = requests(1, response_schema=schema)
    sent = bodies.body(work)["response_format"]["json_schema"]["schema"]
    assert sent == {
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            "code": {"type": "string"},
        },
        "required": ["tags"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{"name": "a"}', True),
        ('```json\n{"name": "a"}\n```', True),
        ('<think>perhaps {"name": "b"}?</think>\n{"name": "a"}', True),
        ('so {"name": "b"}\n</think>\n\n{"name": "a"}', True),
        ('Here it is: {"name": "a"}. Anything else?', True),
        ('{"name": "a"} or {"name": "b"}', False),
        ("I cannot", False),
        ('{"name": 5}', False),
        ('See [1] and {x}: {"name": "a"}', True),
        ('{"of": {"name": "a"}, "name": "b', False),
        ('{"of": {"name": "a"}, "name": ', False),
        ('{"of": {"name": "a"}\n```', False),
        ('{"of": {"name": "a"}, "share": NaN}', False),
        ('{"of": "a\n{}", "in": {"name": "a"}, "share": 1e400}', False),
        ('[{"name": "a"}, {"name"', False),
        ('{"name": "b"} or rather {"name": "a', False),
    ],
)
def test_json_is_recovered_where_that_is_no_guess(text: str, valid: bool) -> None:
    found, holds, note = judged(SCHEMA, text)
    assert holds is valid
    assert (note is not None) == (valid and found != text)
    assert not valid or json.loads(found) == {"name": "a"}


DEEP = '{"a":' * 400 + "{}" + "}" * 400


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"properties": {"a": {"$ref": "#"}}}, DEEP),
        ({"properties": {"a": {"$ref": "#"}}}, f"Sure: {DEEP}"),
        ({"properties": {"a": {"multipleOf": 0.01}}}, 'Sure: {"a": 1%s}' % ("0" * 400)),
        ({"properties": {"a": {"type": ["number", "null"]}}}, 'Sure: {"a": 1e400}'),
        ({"properties": {"a": {"type": ["number", "null"]}}}, 'Sure: {"a": NaN}'),
        ({"$ref": "#"}, "{}"),
    ],
)
def test_what_a_schema_cannot_judge_is_invalid_and_stays_as_it_was_said(
    schema: dict[str, Any], text: str
) -> None:
    assert judged(schema, text) == (text, False, None)


def test_a_schema_of_no_dialect_is_none() -> None:
    assert schema_fault({"$schema": 5}) is not None


# --- money ----------------------------------------------------------------------------------------------------------


def test_a_provider_that_bills_more_than_its_ceiling_is_stopped_and_named() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 1500}
    with scripted(lambda _: Said(completion(usage=usage))) as provider:
        shift = Shift(provider, requests(300), cap="100", limits=_few())
    billed = len(provider.bodies) * (20 * PRICE.input + 1480 * PRICE.output) / 10**6
    assert sum(outcome.cost_usd for outcome in shift.notes.outcomes.values()) == billed
    assert shift.kinds["budget"] >= 290
    assert "near billed" in shift.words[0]
    assert "reasoning_tokens_max" in shift.words[0]


def test_a_slot_is_free_only_once_the_money_of_the_request_that_had_it_is_settled() -> None:
    """100 tokens in at 1,000 USD a million and 20 out at 2,000 are 0.14 USD; one request at a time."""
    known: list[Decimal] = []

    def script(_: dict[str, Any]) -> Said:
        known.append(shift.budget.spent_usd)
        return Said(completion())

    with scripted(script) as provider:
        shift = Shift.__new__(Shift)
        shift.__init__(provider, requests(12), limits=Limits(concurrency=1))  # type: ignore[misc]
    assert known == [n * Decimal("0.14") for n in range(12)], (
        "each is sent with all that came before on the books"
    )


def test_what_is_billed_above_its_ceiling_leaves_no_money_for_the_next_slot() -> None:
    """A request can cost 0.15 USD by its ceiling and costs 3.05; with a cap of 1 USD and four slots, four are sent."""
    usage = {"prompt_tokens": 50, "completion_tokens": 10, "total_tokens": 1550}
    with scripted(lambda _: Said(completion(usage=usage))) as provider:
        shift = Shift(provider, requests(40), cap="1", limits=Limits(concurrency=4))
    assert len(provider.bodies) <= 4
    assert shift.budget.spent_usd == len(provider.bodies) * Decimal("3.05")
    assert shift.kinds["budget"] == 40 - len(provider.bodies)


@pytest.mark.parametrize(
    "details",
    [
        {"prompt_tokens_details": {"cached_tokens": 2000}},
        {"completion_tokens_details": {"reasoning_tokens": 2000}},
    ],
)
@pytest.mark.parametrize("mode", [Mode.REALTIME, Mode.BATCH])
def test_figures_that_contradict_each_other_are_no_bill_and_beyond_the_ceiling_stop_the_endpoint(
    details: dict[str, Any], mode: Mode
) -> None:
    """The parts add up to the total; what is told to be among one of them is more than all of it."""
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30} | details
    with scripted(lambda _: Said(completion(usage=usage))) as provider:
        shift = Shift(provider, requests(300), cap="100", limits=_few(), mode=mode)
    sent = [outcome for outcome in shift.notes.outcomes.values() if outcome.cost_usd]
    assert {outcome.status for outcome in sent} == {LedgerStatus.UNSETTLED}
    assert min(outcome.cost_usd for outcome in sent) > (20 * PRICE.input + 10 * PRICE.output) / 10**6
    assert "near tells figures that contradict each other, and may have billed" in shift.words[0]
    assert shift.kinds["budget"] >= 290 or mode is Mode.BATCH


def test_a_wild_counter_is_no_bill_and_its_figure_is_kept() -> None:
    with scripted(lambda _: Said(completion(usage=(10, 10**15)))) as provider:
        shift = Shift(provider, requests(1))
    (outcome,) = shift.notes.outcomes.values()
    (intent,) = shift.notes.intents.values()
    assert outcome.status is LedgerStatus.UNSETTLED
    assert outcome.cost_usd == intent.reserved_usd
    assert outcome.note is not None
    assert "1000000000000000" in outcome.note
    assert shift.kinds == {"answer": 1}


def test_a_surcharge_that_only_the_reply_tells_is_booked() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "inference_geo": "us", "speed": "standard"}
    with scripted(lambda _: Said(completion(usage=usage))) as provider:
        shift = Shift(provider, requests(1), surcharges={"us": Decimal("1.1"), "fast": Decimal(2)})
    (outcome,) = shift.notes.outcomes.values()
    assert outcome.cost_usd == (20 * PRICE.input + 10 * PRICE.output) * Decimal("1.1") / 10**6


def test_a_tier_without_a_known_price_is_unsettled_at_the_most_it_can_be() -> None:
    with scripted(lambda _: Said(completion(service_tier="default"))) as provider:
        shift = Shift(provider, requests(1), mode=Mode.FLEX)
    (outcome,) = shift.notes.outcomes.values()
    assert outcome.status is LedgerStatus.UNSETTLED
    assert outcome.cost_usd >= 2 * (100 * PRICE.input + 20 * PRICE.output) / 10**6
    assert outcome.service_tier == "default"


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_a_servers_words_are_kept_whole_for_the_owner_alone(tmp_path: Path) -> None:
    words = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set; you said secret'
    with scripted(lambda _: failed(400, words, type="BadRequestError")) as provider:
        shift = Shift(provider, requests(1), keep=tmp_path)
    (failure,) = shift.said.values()
    assert isinstance(failure, Failure)
    assert "start vLLM with --enable-auto-tool-choice" in failure.message
    assert "secret" not in failure.message
    line = json.loads((tmp_path / FILE).read_text())
    assert words in json.loads(line["said"])["error"]["message"]
    assert line["request_id"] == "r0"
    assert stat.S_IMODE(os.stat(tmp_path / FILE).st_mode) == 0o600


# --- size -----------------------------------------------------------------------------------------------------------


def test_a_reply_longer_than_anything_asked_for_is_broken_and_never_held_in_memory() -> None:
    bomb = gzip.compress(b'{"choices": "' + b" " * 300_000_000)
    with scripted(lambda _: Said(bomb, 200, {"content-encoding": "gzip"})) as provider:
        before = _peak()
        shift = Shift(provider, requests(1))
    assert shift.kinds == {"broken_reply": 1}
    assert set(shift.statuses) == {"unsettled"}
    assert _peak() - before < 60_000_000


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_compressed_reply_is_read() -> None:
    body = gzip.compress(json.dumps(completion("packed")).encode())
    with scripted(lambda _: Said(body, 200, {"content-encoding": "gzip"})) as provider:
        shift = Shift(provider, requests(1))
    (answer,) = shift.said.values()
    assert isinstance(answer, Answer)
    assert answer.output == "packed"


# --- laws -----------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["stop", "length", "error", "429", "auth", "flex", "default"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "message", "content", "finish_reason", "usage", "error", "code", "type", "prompt_tokens",
             "completion_tokens", "total_tokens", "base_resp", "status_code", "response", "body", "result",
             "service_tier", "prompt_tokens_details", "cached_tokens", "text", "tool_calls", "logprobs", "refusal"]
        )
        | st.text(max_size=4),
        inner,
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


def shaped(value: Any) -> Any:
    """The same where a completion has it."""
    return {"choices": [{"message": value, "finish_reason": value}], "usage": value, "error": value}


BODIES = st.one_of(
    st.binary(max_size=60),
    VALUES.map(lambda value: json.dumps(value).encode()),
    VALUES.map(lambda value: json.dumps(shaped(value)).encode()),
)
WAITING = st.dictionaries(
    st.sampled_from(
        ["message", "details", "retry_after", "retryDelay", "resets_in_seconds", "estimated_time"]
    ),
    VALUES
    | st.sampled_from(
        ["26s", "retry in 9s", "resets at 9999-12-31T23:59:59Z", "resets at 2026-13-41 99:99z"]
    ),
).map(lambda error: json.dumps({"error": {**error, "details": [error.get("details"), error]}}).encode())
"""Errors that say, or seem to say, how long to wait."""
STATUSES = st.sampled_from(
    [200, 201, 204, 302, 400, 401, 403, 404, 405, 413, 422, 429, 451, 498, 500, 503, 504, 524, 529]
)


@settings(max_examples=400)
@given(STATUSES, BODIES | WAITING)
@example(200, b"[" * 100_000)
@example(200, b'{"choices":[],"data":' * 400 + b"{}" + b"}" * 400)
@example(200, b'{"choices":[{"message":{"content":"a","tool_calls":{}},"finish_reason":[]}],"usage":[]}')
def test_whatever_comes_is_read_without_raising(status: int, body: bytes) -> None:
    for reply in (
        read_reply(status, {}, body),
        read_line(body),
        read_line(b'{"custom_id": "a-1", "response": {"status_code": %d, "body": %s}}' % (status, body)),
        read_result(body, lambda _: read_line(b"")),
    ):
        assert reply.kind is not None or reply.text
        reply.text.encode()
        if reply.usage is not None:
            assert reply.usage.input_tokens > 0
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        assert read_message(value) is not None


@settings(max_examples=40)
@given(st.lists(BODIES, min_size=1, max_size=6), STATUSES)
def test_whatever_single_requests_meet_others_are_answered_and_nothing_is_booked_too_low(
    bodies: list[bytes], status: int
) -> None:
    """Rows that get anything at all, among rows that are answered: these are, and no attempt without a usage that makes
    sense, or a complete error, costs less than its reservation."""
    odd = {3 * n + 1: Said(body, status) for n, body in enumerate(bodies)}
    with scripted(answering(odd)) as provider:
        shift = Shift(provider, requests(24), limits=_few(), elsewhere=True, patience=0.2)
    assert all(isinstance(shift.said[row], Answer) for row in range(24) if row not in odd)
    for outcome in shift.notes.outcomes.values():
        intent = shift.notes.intents[outcome.entry_id]
        if outcome.status is LedgerStatus.UNSETTLED and outcome.usage is None:
            assert outcome.cost_usd >= intent.reserved_usd
        assert outcome.status is not LedgerStatus.VOID or isinstance(outcome.reply, Failure)
        assert outcome.status is not LedgerStatus.SETTLED or outcome.usage is not None
