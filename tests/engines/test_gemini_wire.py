"""Gemini's wire: requests written and answers read as its reference has them; none was sent to a real provider."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.support.engines import requests
from thirdshift.engines.batch.gemini import answers_of, keyed
from thirdshift.engines.core.json import dumps
from thirdshift.engines.wires.gemini import GeminiBodies, read_result
from thirdshift.router.values import Endpoint, FailureKind, Mode, Price, PriceSchedule, Request

ENDPOINT = Endpoint(
    "g",
    "gemini/gemini-3.8-flash",
    PriceSchedule(Price(Decimal(1), Decimal(4))),
    Mode.BATCH,
    params={"reasoning_effort": "low", "top_p": 0.9, "stop": "END"},
)
TEXT = {"content": {"parts": [{"text": "think", "thought": True}, {"text": "4"}, {"text": "2"}]}}
USAGE = {
    "promptTokenCount": 20,
    "candidatesTokenCount": 5,
    "thoughtsTokenCount": 7,
    "cachedContentTokenCount": 3,
}


def request(*messages: dict[str, Any], **more: Any) -> Request:
    return replace(requests(1)[0], messages=messages, **more)


def read(response: dict[str, Any] | None = None, **item: Any) -> Any:
    return read_result(dumps(item if response is None else {"response": response, **item}))


def test_a_conversation_becomes_contents_with_the_system_text_apart() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = GeminiBodies(ENDPOINT).body(
        request(
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]},
            max_tokens=99,
            temperature=0.5,
            response_schema={"type": "object"},
        )
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert [turn["role"] for turn in body["contents"]] == ["user", "model", "user"]
    assert body["contents"][2]["parts"][1] == {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    assert body["generationConfig"] == {
        "maxOutputTokens": 99, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"],
        "thinkingConfig": {"thinkingBudget": 1024},
        "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "unwritable",
    [
        request({"role": "user", "content": "x"}, tools=({"type": "function"},)),
        request({"role": "tool", "content": "x"}),
        request(
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
        ),
        request({"role": "user", "content": [{"type": "input_audio"}]}),
    ],
)
def test_what_cannot_be_written_raises_and_is_refused_by_the_engine(unwritable: Request) -> None:
    with pytest.raises(KeyError):
        GeminiBodies(ENDPOINT).body(unwritable)


def test_thoughts_are_output_that_is_paid_and_not_answered() -> None:
    reply = read(
        {"candidates": [{**TEXT, "finishReason": "STOP"}], "usageMetadata": USAGE, "responseId": "r"}
    )
    assert (reply.text, reply.reasoning, reply.finish_reason, reply.kind) == ("42", "think", "stop", None)
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens, usage.cached_tokens) == (
        20,
        12,
        7,
        3,
    )


def test_what_a_tool_gave_the_model_to_read_is_paid_as_prompt_and_what_only_the_total_has_as_output() -> None:
    told = {**USAGE, "toolUsePromptTokenCount": 300, "totalTokenCount": 332}
    candidate = {**TEXT, "finishReason": "STOP"}
    usage = read({"candidates": [candidate], "usageMetadata": told}).usage
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (320, 12, 7)
    usage = read({"candidates": [candidate], "usageMetadata": {**told, "totalTokenCount": 340}}).usage
    assert (usage.input_tokens, usage.output_tokens) == (320, 20)


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        ({"candidates": [{"finishReason": "SAFETY"}], "usageMetadata": USAGE}, FailureKind.REFUSED),
        ({"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": USAGE}, FailureKind.REFUSED),
        ({"candidates": [{"finishReason": "MAX_TOKENS"}], "usageMetadata": USAGE}, FailureKind.CUT_EMPTY),
        ({"candidates": "odd"}, None),
        ({}, None),
    ],
)
def test_what_is_no_whole_answer_is_none(response: dict[str, Any], kind: FailureKind | None) -> None:
    reply = read(response)
    assert reply.kind is not None
    assert kind in (None, reply.kind)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, FailureKind.BAD_REQUEST),
        (8, FailureKind.RATE_LIMITED),
        (14, FailureKind.OVERLOADED),
        (429, FailureKind.RATE_LIMITED),
    ],
)
def test_an_error_in_an_item_is_of_its_kind_and_unbilled(code: int, kind: FailureKind) -> None:
    reply = read(error={"code": code, "message": "no"})
    assert reply.kind is kind
    assert reply.usage is None


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"null", b'{"response":[]}', b'{"error":"x"}', b'{"response":{"candidates":[7]}}']
)
def test_whatever_stands_in_a_line_is_read_without_raising(line: bytes) -> None:
    assert read_result(line).kind is not None


def test_answers_are_known_by_their_keys_and_by_place_only_where_none_is_missing() -> None:
    ids, plain = ["a", "b"], [{"response": {}}, {"error": {}}]
    with_keys = [{"metadata": {"key": "b"}}, {"metadata": {"key": "a"}}]
    assert [item["custom_id"] for item in keyed(with_keys, ids)] == ["b", "a"]
    assert [item["custom_id"] for item in keyed(plain, ids)] == ids
    assert [item["custom_id"] for item in keyed(plain[:1], ids)] == [None], "nobody knows whose it is"
    assert [item["custom_id"] for item in keyed([{"metadata": 3}, {}], ids)] == ids


def test_both_nestings_of_answers_are_read() -> None:
    for inlined in ([{"response": {}}], {"inlinedResponses": [{"response": {}}]}):
        assert answers_of({"response": {"inlinedResponses": inlined}}) == [{"response": {}}]
        assert answers_of({"metadata": {"output": {"inlinedResponses": inlined}}}) == [{"response": {}}]
    assert answers_of({"response": 3, "metadata": None}) == []
