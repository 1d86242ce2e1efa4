"""OpenAI's chat wire on the server's side: bodies read into requests, answers written as bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thirdshift.engines.core.json import dumps
from thirdshift.engines.emulator.answer_key import content_text, last_user_text, messages_key, text_key
from thirdshift.engines.emulator.answers import MESSAGE_TOKENS, WireRequest, tokens_of
from thirdshift.engines.emulator.models import Trouble
from thirdshift.engines.emulator.provider import BilledAnswer, ErrorResponse


class BadBody(Exception):
    """What a provider answers 400 to; the text says which key."""


def read_chat(body: Any) -> WireRequest:
    """Read a body. Raises BadBody."""
    if not isinstance(body, dict):
        raise BadBody("the body is no JSON object")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadBody("messages: a list of at least one object")
    if body.get("stream"):
        raise BadBody("stream: not emulated")
    if body.get("n", 1) != 1:
        raise BadBody("n: only 1 is emulated")
    ceilings = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if not all(isinstance(value, int) and value > 0 for value in ceilings):
        raise BadBody("max_tokens: a whole number above 0")
    extra = tokens_of(dumps(body["tools"]).decode()) if body.get("tools") else 0
    return asked_of(
        str(body.get("model")),
        messages,
        min(ceilings, default=None),
        schema=_schema(body.get("response_format")),
        request_id=_request_id(body),
        extra_tokens=extra,
        flex=body.get("service_tier") == "flex",
    )


def asked_of(
    model: str,
    messages: list[dict[str, Any]],
    max_tokens: int | None,
    *,
    schema: Mapping[str, Any] | None = None,
    request_id: str | None = None,
    extra_tokens: int = 0,
    flex: bool = False,
) -> WireRequest:
    """Make a request of a conversation, whatever wire it came on, with its keys and counts."""
    prompt = last_user_text(messages)
    texts = [content_text(message.get("content")) for message in messages]
    prefix = sum(tokens_of(text) + MESSAGE_TOKENS for text in texts[:-1])
    return WireRequest(
        model=model,
        messages_key=messages_key(messages),
        prompt_key=text_key(prompt),
        prompt=prompt,
        input_tokens=prefix + tokens_of(texts[-1]) + 2 * MESSAGE_TOKENS + extra_tokens,
        prefix_tokens=prefix,
        prefix_key=text_key("\0".join(texts[:-1])) if prefix else 0,
        max_tokens=max_tokens,
        schema=schema,
        request_id=request_id,
        flex=flex,
    )


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    schema = (wanted.get("json_schema") or {}).get("schema")
    return schema if isinstance(schema, dict) else None


def _request_id(body: Mapping[str, Any]) -> str | None:
    metadata = body.get("metadata")
    given = metadata.get("request_id") if isinstance(metadata, dict) else None
    return given if isinstance(given, str) else body.get("user")


def completion(billed_answer: BilledAnswer) -> dict[str, Any]:
    """Write an answer as a chat completion."""
    answer, usage = billed_answer.answer, billed_answer.answer.usage
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if billed_answer.trouble is Trouble.REFUSE:
        message.update(content=None, refusal=answer.text)
    return {
        "id": billed_answer.ref,
        "object": "chat.completion",
        "created": int(billed_answer.at),
        "model": f"emulated/{billed_answer.model}",
        "choices": [
            {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        ],
        "usage": {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        },
    }


def error_body(refusal: ErrorResponse) -> dict[str, Any]:
    kind = "invalid_request_error" if 400 <= refusal.status < 500 else "server_error"
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}
