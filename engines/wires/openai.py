"""OpenAI's chat wire: a request becomes a body, a reply becomes what it says. No socket is touched here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from thirdshift.engines.core.failures import kind_of_error
from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.errors import BadEndpointError
from thirdshift.router.values import JSON, Endpoint, FailureKind, Mode, Request, Usage

OWN_KEYS = frozenset({"model", "messages", "max_tokens", "max_completion_tokens", "stream", "n", "best_of"})
"""What neither an endpoint's params nor a row may set: each would change what a call can cost at most, or how
many answers come back."""


class Bodies:
    """Writes the bodies of one endpoint. Raises BadEndpointError where its params set what is not theirs."""

    def __init__(self, endpoint: Endpoint) -> None:
        taken = OWN_KEYS & set(endpoint.params)
        if taken:
            raise BadEndpointError(
                f"endpoint {endpoint.name}: params may not set {', '.join(sorted(taken))}; "
                "a row's or the job's max_tokens is the ceiling, and each request has one answer"
            )
        self._model = endpoint.wire_model
        self._params = dict(endpoint.params)
        if endpoint.mode is Mode.FLEX:
            self._params.setdefault("service_tier", "flex")
        at_openai = endpoint.api_base is None and endpoint.provider in ("openai", "azure")
        # OpenAI's newer models refuse max_tokens; other servers may not know its new name
        self._ceiling = "max_completion_tokens" if at_openai else "max_tokens"
        self.extra_bytes = len(dumps(self._params)) if self._params else 0
        """What the params may add to a prompt (documents, tools), in bytes."""

    def body(self, request: Request) -> dict[str, JSON]:
        """The JSON body of a request, params and the row's sampling included."""
        body: dict[str, JSON] = {"model": self._model, "messages": request.messages}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.response_schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": request.response_schema},
            }
        if request.tools is not None:
            body["tools"] = request.tools
        body.update(self._params)
        body.update(request.sampling)
        body[self._ceiling] = request.max_tokens
        return body

    def encoded(self, request: Request) -> bytes:
        return dumps(self.body(request))


def refused_beforehand(request: Request) -> str | None:
    """Why a request must not be sent as it is, or None."""
    taken = OWN_KEYS & set(request.sampling) if request.sampling else None
    if not taken:
        return None
    return f"the row's sampling may not set {', '.join(sorted(taken))}; each request has one answer"


# --- reading a reply --------------------------------------------------------------------------------------


def read_success(raw: bytes | str) -> Reply:
    """What a complete reply with status 200 says."""
    try:
        data = loads(raw)
    except ValueError:
        return Reply(kind=FailureKind.BROKEN_REPLY, message="the reply is no JSON")
    if not isinstance(data, dict):
        return Reply(kind=FailureKind.BROKEN_REPLY, message="the reply is no JSON object")
    return read_completion(data)


def read_completion(data: Mapping[str, Any]) -> Reply:
    """What a chat completion says, as the object that came."""
    usage = read_usage(data.get("usage"))
    reply = Reply(usage=usage, model=_text(data.get("model")), ref=_text(data.get("id")))
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return _without_choice(reply, data)
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        reply.kind, reply.message = FailureKind.BROKEN_REPLY, "the reply's choice has no message"
        return reply
    reply.finish_reason = _text(choice.get("finish_reason"))
    reply.text = _content(message)
    reply.reasoning = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    reply.logprobs = read_logprobs(choice.get("logprobs"))
    _classify(reply, message)
    return reply


def _classify(reply: Reply, message: Mapping[str, Any]) -> None:
    if message.get("refusal") or reply.finish_reason == "content_filter":
        reply.kind, reply.message = FailureKind.REFUSED, "the model or a content filter declined"
    elif not reply.text and reply.finish_reason == "length":
        reply.kind = FailureKind.CUT_EMPTY
        reply.message = "the answer was cut at max_tokens before its first word (reasoning used them up)"


def _without_choice(reply: Reply, data: Mapping[str, Any]) -> Reply:
    error = data.get("error")
    if isinstance(error, dict):  # some gateways report an error with status 200; what they billed is not said
        code = error.get("code")
        kind, reply.message = _error_kind(code if isinstance(code, int) else 500, error)
        passing = kind in (FailureKind.OVERLOADED, FailureKind.RATE_LIMITED)
        reply.kind = FailureKind.BROKEN_REPLY if passing else kind
    else:
        reply.kind, reply.message = FailureKind.BROKEN_REPLY, "the reply has no choices"
    return reply


def _content(message: Mapping[str, Any]) -> str:
    """The text; where there is none, the tool calls as JSON."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(p.get("text") or "" for p in content if isinstance(p, dict))
    if isinstance(content, str) and content:
        return content
    calls = message.get("tool_calls")
    return dumps(calls).decode() if calls else ""


def read_logprobs(told: JSON) -> str | None:
    """A choice's log-probabilities as JSON, without the bytes beside each token; None where there are none."""
    tokens = told.get("content") if isinstance(told, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return None
    return dumps([_without_bytes(one) for one in tokens if isinstance(one, dict)]).decode()


def _without_bytes(token: Mapping[str, Any]) -> dict[str, Any]:
    told = {"token": token.get("token"), "logprob": token.get("logprob")}
    tops = token.get("top_logprobs")
    if isinstance(tops, list) and tops:
        told["top_logprobs"] = [_without_bytes(one) for one in tops if isinstance(one, dict)]
    return told


def read_usage(usage: JSON) -> Usage | None:
    """The usage as the provider tells it; None where it is missing or makes no sense."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not _is_count(prompt) or not _is_count(completion):
        return None
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens") or _count(
        usage.get("prompt_cache_hit_tokens")  # DeepSeek's name for it
    )
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    if reasoning and usage.get("total_tokens") == prompt + completion + reasoning:
        completion += reasoning  # xAI counts reasoning beside the completion, not in it
    cached = min(cached, prompt)
    written, hour = _written(usage)
    written = min(written, prompt - cached)
    return Usage(prompt, completion, cached, min(reasoning, completion), written, min(hour, written))


def _written(usage: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens that a cache was given to keep, and those of them that it keeps for an hour: litellm's names."""
    group = usage.get("prompt_tokens_details")
    if not isinstance(group, dict) or not (written := _count(group.get("cache_creation_tokens"))):
        return 0, 0
    kept = group.get("cache_creation_token_details")
    return written, _count(kept.get("ephemeral_1h_input_tokens")) if isinstance(kept, dict) else 0


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: Any) -> int:
    return value if _is_count(value) else 0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


# --- reading an error -------------------------------------------------------------------------------------


def read_error(status: int, raw: bytes) -> Reply:
    """What a complete HTTP error says. Nothing is billed for one."""
    try:
        data = loads(raw)
    except ValueError:
        data = None
    error = data.get("error", data) if isinstance(data, dict) else None
    kind, message = _error_kind(status, error if isinstance(error, dict) else {"message": str(error or "")})
    return Reply(kind=kind, message=message, unbilled=True)


def _error_kind(status: int, error: Mapping[str, Any]) -> tuple[FailureKind, str]:
    codes = tuple(c for c in (error.get("code"), error.get("type")) if isinstance(c, str))
    kind = kind_of_error(status, codes, str(error.get("message") or ""))
    names = [c for c in (*codes, error.get("param")) if isinstance(c, str) and _is_name(c)]
    return kind, f"status {status}" + (f" ({', '.join(dict.fromkeys(names))})" if names else "")


def _is_name(text: str) -> bool:
    """Whether a provider's code is a name that can be shown, not prose that could hold a prompt or a key."""
    return len(text) <= 48 and text.replace("_", "").replace(".", "").replace("-", "").isalpha()
