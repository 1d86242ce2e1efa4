"""The one place where a reply is read: (status, headers, body) goes in, what it is and what it used comes out.

Real time and batch, OpenAI's wire and Anthropic's come through here: a batch's line is a status and a body, and a message
of Anthropic's is turned into a completion. What comes out (`transport.Reply`) says what it is (an answer, a partial
one, a refusal, the request's fault, the endpoint's, a wait), what was used, at which tier, and how certain that is.
Nothing here raises, whatever came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.wires.errors import error_in, read_error
from thirdshift.engines.wires.parsing import MISSING, as_text, clean, parsed
from thirdshift.engines.wires.rate_limit_headers import hints_of, retry_after_of
from thirdshift.engines.wires.rules import CUT, FINISH
from thirdshift.engines.wires.usage import read_usage
from thirdshift.router.pricing.service import NO_PLACE, NO_SPEED
from thirdshift.router.values import JSON, FailureKind

TIERS = {"standard": "default", "on_demand": "default", "on-demand": "default", "batches": "batch"}
"""Tiers under other names."""

WRAPPERS = ("data", "result", "response", "output")
"""Where gateways, and DashScope's own wire, put the whole completion."""


def read_reply(status: int, headers: Mapping[str, str], raw: bytes) -> Reply:
    """What a complete HTTP reply on OpenAI's wire says."""
    reply = read_body(status, parsed(raw), raw)
    hints = hints_of(headers)
    if reply.kind is not None and reply.unbilled:
        return reply._replace(hints=hints, retry_after=retry_after_of(headers) or reply.retry_after)
    return reply if hints is None else reply._replace(hints=hints)


def read_body(status: int, data: Any, raw: bytes | str = b"") -> Reply:
    """What a status and a parsed body say: of a call, or of a batch's line."""
    if not 200 <= status < 300:
        return read_error(status, data, raw)
    if isinstance(data, dict):
        return read_completion(data)
    fault = error_in(data)
    if fault is not None:  # Gemini's errors are lists
        return _refused_inside(fault, {})
    what = "no JSON" if data is MISSING else "no JSON object"
    return Reply(kind=FailureKind.BROKEN_REPLY, message=f"the reply is {what}", said=as_text(raw))


def read_completion(data: Mapping[str, Any]) -> Reply:
    """What a chat completion says, as the object that came."""
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return _without_message(data, choice)
    text, beside = content_texts(message)
    reason = clean(choice.get("finish_reason"))
    kind, words = _meaning(choice, message, text, reason)
    usage = read_usage(data.get("usage"), answered=bool(text))
    logprobs = choice.get("logprobs")
    return Reply(
        kind=kind,
        message=words,
        text=text,
        reasoning="\n\n".join(filter(None, (_reasoning(message), beside))) or None,
        logprobs=None if logprobs is None else read_logprobs(logprobs),
        finish_reason=reason,
        usage=usage.usage,
        certain=usage.certain,
        tier=_tier(data),
        place=_told(data, "inference_geo", NO_PLACE),
        speed=_told(data, "speed", NO_SPEED),
        note=usage.figure,
        model=clean(data.get("model")),
        ref=clean(data.get("id")),
        said=None if kind is None else _written(data),
    )


def _meaning(
    choice: Mapping[str, Any], message: Mapping[str, Any], text: str, reason: str | None
) -> tuple[FailureKind | None, str]:
    """What a choice is, and the words for a failure."""
    if message.get("refusal"):
        return FailureKind.REFUSED, "the model or a content filter declined"
    name = "stop" if reason is None else reason.lower()
    if name not in FINISH and ":" in name:  # Gemini's `content_filter: PROHIBITED_CONTENT`
        name = next((part for part in map(str.strip, reversed(name.split(":"))) if part in FINISH), name)
    kind = FINISH.get(name)
    if kind is None and choice.get("error"):
        kind = FailureKind.PARTIAL
    if kind is FailureKind.REFUSED:
        return kind, "the model or a content filter declined"
    if kind is FailureKind.PARTIAL:
        return kind, f"the answer was not finished ({_name(reason) or 'an error in it'})"
    if kind is FailureKind.CONTEXT_OVERFLOW:
        return kind, "the answer filled the model's context window before it was finished"
    if text and not text.isspace():
        return None, ""
    if name in CUT:
        return (
            FailureKind.CUT_EMPTY,
            "the answer was cut at max_tokens before its first word (reasoning used them up)",
        )
    return FailureKind.PARTIAL, "the answer is empty"


def _without_message(data: Mapping[str, Any], choice: Any) -> Reply:
    for name in WRAPPERS:
        inner = data.get(name)
        if choice is None and isinstance(inner, dict) and isinstance(inner.get("choices"), list):
            whole = {**data, **inner}
            return read_completion({key: value for key, value in whole.items() if key not in WRAPPERS})
    fault = error_in(data)
    if fault is not None and not choice:
        return _refused_inside(fault, data)
    text = _written(data)
    usage = read_usage(data.get("usage"))
    words = "the reply has no choices" if choice is None else "the reply's choice has no message"
    return Reply(
        kind=FailureKind.BROKEN_REPLY,
        message=words,
        usage=usage.usage,
        certain=usage.certain,
        note=usage.figure,
        tier=_tier(data),
        model=clean(data.get("model")),
        ref=clean(data.get("id")),
        said=text,
    )


def _refused_inside(fault: Mapping[str, Any], data: Mapping[str, Any]) -> Reply:
    """An error in a reply with a good status: what it is, its own code says; it costs nothing but what it tells."""
    code = fault.get("code")
    if isinstance(code, str) and code.isdigit() and len(code) == 3:
        code = int(code)
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    body = {**data, "error": fault}
    return read_error(status, body, _written(body))


def _told(data: Mapping[str, Any], name: str, nothing: frozenset[str]) -> str | None:
    """Anthropic's word on place or speed, told with its usage; empty where it is nothing special."""
    usage = data.get("usage")
    value = usage.get(name) if isinstance(usage, dict) else None
    if not isinstance(value, str) or len(value) > 40:
        return None
    word = value.lower()
    return "" if word in nothing else word


def _tier(data: Mapping[str, Any]) -> str | None:
    tier = data.get("service_tier")
    if tier is None:
        usage = data.get("usage")
        tier = usage.get("service_tier") if isinstance(usage, dict) else None
    if not isinstance(tier, str) or not 0 < len(tier) <= 40:
        return None
    name = tier.lower()
    return TIERS.get(name, name)


def content_texts(message: Mapping[str, Any]) -> tuple[str, str]:
    """(the tool calls as JSON and what is said beside them; or the text alone, where nothing is called)."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, dict):
        content = content.get("text")
    text = clean(content) or "" if isinstance(content, str) else ""
    calls = message.get("tool_calls") or message.get("function_call")
    if not isinstance(calls, list | dict) or not calls:
        return text, ""
    return clean(dumps(calls).decode()) or "", text.strip()


def _reasoning(message: Mapping[str, Any]) -> str | None:
    return clean(message.get("reasoning_content")) or clean(message.get("reasoning"))


def read_logprobs(logprobs: JSON) -> str | None:
    """A choice's log-probabilities as JSON, without the bytes beside each token; None where there are none."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    return dumps([_without_bytes(token) for token in tokens if isinstance(token, dict)]).decode()


def _without_bytes(token: Mapping[str, Any]) -> dict[str, Any]:
    kept = {"token": token.get("token"), "logprob": token.get("logprob")}
    tops = token.get("top_logprobs")
    if isinstance(tops, list) and tops:
        kept["top_logprobs"] = [_without_bytes(top) for top in tops if isinstance(top, dict)]
    return kept


def _name(reason: str | None) -> str | None:
    return reason if reason and len(reason) <= 48 and reason.replace("_", "").isalpha() else None


def _written(data: Any) -> str:
    try:
        return as_text(dumps(data))
    except (TypeError, ValueError, RecursionError):
        return ""
