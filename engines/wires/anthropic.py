"""Anthropic's messages: a request becomes a body, a message what it says. No socket is touched here.

litellm converts too, but only inside a call of its own (0.7 ms and internals), and a batch has a hundred thousand
requests. Which features a model has is read from the price map that comes with it, so that both ways agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.core.transport import Reply, lost
from thirdshift.engines.pricemap import bundled_map
from thirdshift.engines.wires.errors import read_error
from thirdshift.engines.wires.parsing import as_text, parsed
from thirdshift.engines.wires.replies import read_completion
from thirdshift.engines.wires.schema_forms import enforceable
from thirdshift.engines.wires.usage import anthropic_usage
from thirdshift.router.pricing.pricebook import resolve
from thirdshift.router.values import JSON, Endpoint, FailureKind, Request

SCHEMA_TOOL = "answer"
"""Where a model has no structured output of its own, it must call this tool, whose input is the answer."""

BUDGETS = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16_384}
"""`reasoning_effort` in tokens, for models that want a number: litellm's, so that both tiers think alike."""

STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 408,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 529,
}
"""In a batch's results an error has its type and no status."""


class AnthropicBodies:
    """Writes the bodies of one endpoint's requests."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._model = endpoint.wire_model
        self._params = dict(endpoint.params)
        prices, _ = bundled_map()
        entry = prices.get(resolve(endpoint.model, prices) or "", {})
        self._structured = bool(entry.get("supports_native_structured_output"))
        self._adaptive = bool(entry.get("supports_adaptive_thinking"))

    def body(self, request: Request) -> dict[str, JSON]:
        """What `params` of a batch's request are, or the body of a call."""
        system, messages = conversation(request.messages)
        body: dict[str, JSON] = {"model": self._model, "messages": messages}
        if system:
            body["system"] = system
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.tools is not None:
            body["tools"] = [_tool(tool) for tool in request.tools]
        for name, value in {**self._params, **request.sampling}.items():
            self._set(body, name, value)
        if request.response_schema is not None:
            self._want(body, request.response_schema)
        body["max_tokens"] = request.max_tokens
        return body

    def _set(self, body: dict[str, JSON], name: str, value: JSON) -> None:
        """A parameter under Anthropic's name for it; what is Anthropic's already goes as it is."""
        if name == "reasoning_effort":
            body |= self._thinking(value)
        elif name == "stop":
            body["stop_sequences"] = [value] if isinstance(value, str) else value
        elif name == "user":
            body["metadata"] = {"user_id": value}
        elif name == "parallel_tool_calls":
            body.setdefault("tool_choice", {"type": "auto"})["disable_parallel_tool_use"] = not value
        elif name == "tool_choice":
            body["tool_choice"] = body.get("tool_choice", {}) | _choice(value)
        elif name == "tools":
            body["tools"] = [_tool(tool) for tool in value]
        else:
            body[name] = value

    def _thinking(self, effort: str) -> dict[str, JSON]:
        if effort == "none":
            return {}
        if self._adaptive:
            level = "low" if effort == "minimal" else effort
            thinking = {"type": "adaptive", "display": "summarized"}
            return {"thinking": thinking, "output_config": {"effort": level}}
        return {"thinking": {"type": "enabled", "budget_tokens": BUDGETS.get(effort, BUDGETS["medium"])}}

    def _want(self, body: dict[str, JSON], schema: Mapping[str, JSON]) -> None:
        """An answer by a schema. A model that thinks cannot be made to call a tool, only offered it."""
        if self._structured:
            wanted = {"type": "json_schema", "schema": enforceable(schema)}
            body["output_config"] = {**body.get("output_config", {}), "format": wanted}
            return
        tool = {"name": SCHEMA_TOOL, "description": "Give the answer.", "input_schema": schema}
        body["tools"] = [*body.get("tools", ()), tool]
        if "thinking" not in body:
            body["tool_choice"] = {"type": "tool", "name": SCHEMA_TOOL}


# --- a conversation ---------------------------------------------------------------------------------------


def conversation(messages: Iterable[Mapping[str, JSON]]) -> tuple[JSON, list[dict[str, JSON]]]:
    """(the system text, or its parts; the turns) of messages as OpenAI's wire has them."""
    system: list[JSON] = []
    turns: list[dict[str, JSON]] = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role in ("system", "developer"):
            system.append(content)
        elif role == "tool":
            block = {
                "type": "tool_result",
                "tool_use_id": message.get("tool_call_id"),
                "content": _content(content),
            }
            _add(turns, "user", [block])
        elif message.get("tool_calls"):
            blocks = _content(content) if content else []
            parts = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
            turns.append({"role": "assistant", "content": [*parts, *map(_call, message["tool_calls"])]})
        else:
            turns.append({"role": role, "content": _content(content)})
    return _system(system), turns


def _system(blocks: list[JSON]) -> JSON:
    if all(isinstance(block, str) for block in blocks):
        return "\n\n".join(blocks)
    parts: list[JSON] = []
    for block in blocks:
        parts += [{"type": "text", "text": block}] if isinstance(block, str) else _content(block)
    return parts


def _add(turns: list[dict[str, JSON]], role: str, blocks: list[JSON]) -> None:
    """Results of several tools belong into one turn."""
    last = turns[-1] if turns else {}
    if last.get("role") == role and isinstance(last["content"], list):
        last["content"] = [*last["content"], *blocks]
    else:
        turns.append({"role": role, "content": blocks})


def _content(content: JSON) -> JSON:
    if not isinstance(content, list | tuple):
        return "" if content is None else content
    return [_image(part) if part.get("type") == "image_url" else part for part in content]


def _image(part: Mapping[str, JSON]) -> JSON:
    image = part["image_url"]
    url = image if isinstance(image, str) else str(image.get("url"))
    if url.startswith("data:"):
        kind, _, data = url.removeprefix("data:").partition(";base64,")
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}


def _call(call: Mapping[str, JSON]) -> JSON:
    function = call["function"]
    try:
        given = loads(function.get("arguments") or "{}")
    except ValueError:
        given = {"unreadable": function.get("arguments")}
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given}


def _tool(tool: Mapping[str, JSON]) -> JSON:
    """A function of OpenAI's; tools of Anthropic's own go as they are."""
    function = tool.get("function")
    if not isinstance(function, Mapping):
        return tool
    made = {"name": function.get("name"), "input_schema": function.get("parameters") or {"type": "object"}}
    return made | ({"description": function["description"]} if function.get("description") else {})


def _choice(choice: JSON) -> dict[str, JSON]:
    if isinstance(choice, str):
        return {"type": {"required": "any"}.get(choice, choice)}
    function = choice.get("function")
    return {"type": "tool", "name": function["name"]} if function else dict(choice)


# --- reading ----------------------------------------------------------------------------------------------


FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
"""Stop reasons under OpenAI's names; others keep their own, which `rules.FINISH` knows."""


def read_message(message: Mapping[str, Any]) -> Reply:
    """What a message says."""
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    text = _joined(blocks, "text", "text")
    if answers := [call for call in calls if call.get("name") == SCHEMA_TOOL]:
        text, calls = dumps(answers[0].get("input")).decode(), []
    reason = message.get("stop_reason")
    reply_message = {
        "content": text,
        "reasoning_content": _joined(blocks, "thinking", "thinking"),
        "refusal": reason == "refusal",
        "tool_calls": [_called(call) for call in calls],
    }
    finish = "stop" if answers and reason == "tool_use" else FINISH.get(str(reason), reason)
    return read_completion(
        {
            "id": message.get("id"),
            "model": message.get("model"),
            "choices": [{"message": reply_message, "finish_reason": finish}],
            "usage": anthropic_usage(message.get("usage")),
        }
    )


def _joined(blocks: Iterable[Mapping[str, Any]], kind: str, key: str) -> str:
    return "".join(str(block.get(key) or "") for block in blocks if block.get("type") == kind)


def _called(call: Mapping[str, Any]) -> JSON:
    given = dumps(call.get("input")).decode()
    return {
        "id": call.get("id"),
        "type": "function",
        "function": {"name": call.get("name"), "arguments": given},
    }


def read_result(line: bytes, not_run: Callable[[str], Reply]) -> Reply:
    """What a line of a batch's results says; `not_run` makes the reply where the batch ended before it."""
    data = parsed(line)
    result = data.get("result") if isinstance(data, dict) else None
    if not isinstance(result, dict):
        result = {}
    kind = result.get("type")
    if kind == "succeeded" and isinstance(result.get("message"), dict):
        return read_message(result["message"])
    if kind in ("expired", "canceled", "cancelled"):
        return not_run(str(kind))
    if kind != "errored":
        words = "a result that says neither what was answered nor why not"
        return lost(FailureKind.BROKEN_REPLY, words)._replace(said=as_text(line))
    fault = result.get("error")
    error = fault.get("error", fault) if isinstance(fault, dict) else {}
    error = error if isinstance(error, dict) else {}
    status = STATUS_OF.get(str(error.get("type")), 500)
    return read_error(status, {"error": error}, line)
