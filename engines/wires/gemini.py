"""Gemini's own wire: a request becomes a GenerateContentRequest, its answer a completion as all others are read.

As the API's reference has both (api/generate-content, google-genai's types). No socket is touched here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply, lost
from thirdshift.engines.wires.errors import read_error
from thirdshift.engines.wires.parsing import as_text, parsed
from thirdshift.engines.wires.replies import read_completion
from thirdshift.engines.wires.usage import count
from thirdshift.router.values import JSON, Endpoint, FailureKind, Request

GENERATION = {
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
"""Parameters as others call them, and their names in `generationConfig`."""
OWN = {"safetySettings", "cachedContent", "toolConfig", "systemInstruction"}
"""Parameters of Gemini's own that stand beside `generationConfig`; all others go into it."""
BUDGETS = {"none": 0, "disable": 0, "minimal": 512, "low": 1024, "medium": 2048, "high": 4096}
"""`reasoning_effort` in tokens: litellm's, so that both tiers think alike."""
FINISH = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "LANGUAGE"),
        "content_filter",
    ),
    "MALFORMED_FUNCTION_CALL": "malformed_function_call",
}
"""Finish reasons under OpenAI's names; others keep their own."""
STATUS_OF = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 13: 500, 14: 503, 16: 401}
"""google.rpc codes as HTTP statuses."""


class GeminiBodies:
    """Writes the bodies of one endpoint's requests. Raises KeyError where a message has what cannot be written."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._model, self._params = endpoint.wire_model, dict(endpoint.params)

    def body(self, request: Request) -> dict[str, JSON]:
        if request.tools is not None:
            raise KeyError("tools")  # not written yet: another endpoint may answer it
        system = [part for message in request.messages if _is_system(message) for part in _parts(message)]
        turns = [message for message in request.messages if not _is_system(message)]
        config: dict[str, JSON] = {"maxOutputTokens": request.max_tokens}
        body: dict[str, JSON] = {"model": f"models/{self._model}", "contents": _contents(turns)}
        if system:
            body["systemInstruction"] = {"parts": system}
        if request.temperature is not None:
            config["temperature"] = request.temperature
        for name, value in {**self._params, **request.sampling}.items():
            _set(body, config, name, value)
        if request.response_schema is not None:
            config |= {
                "responseMimeType": "application/json",
                "responseJsonSchema": dict(request.response_schema),
            }
        return body | {"generationConfig": config}


def _set(body: dict[str, JSON], config: dict[str, JSON], name: str, value: JSON) -> None:
    """A parameter under Gemini's name for it; what is Gemini's already goes as it is."""
    if name == "reasoning_effort":
        config["thinkingConfig"] = {"thinkingBudget": BUDGETS.get(str(value), BUDGETS["medium"])}
    elif name == "stop":
        config["stopSequences"] = [value] if isinstance(value, str) else value
    elif name in OWN:
        body[name] = value
    else:
        config[GENERATION.get(name, name)] = value


def _is_system(message: Mapping[str, JSON]) -> bool:
    return message.get("role") in ("system", "developer")


def _contents(turns: Iterable[Mapping[str, JSON]]) -> list[JSON]:
    """Turns; neighbours of one role are one."""
    contents: list[dict[str, JSON]] = []
    for message in turns:
        if message.get("tool_calls") or message.get("role") not in ("user", "assistant"):
            raise KeyError("role")
        role = "model" if message["role"] == "assistant" else "user"
        if contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += _parts(message)
        else:
            contents.append({"role": role, "parts": _parts(message)})
    return contents


def _parts(message: Mapping[str, JSON]) -> list[JSON]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"text": content}]
    return [_part(part) for part in content or ()]


def _part(part: Mapping[str, JSON]) -> JSON:
    """A text, or an image that is in the message. One that must be fetched is not: the API takes none by address."""
    if part["type"] == "text":
        return {"text": part["text"]}
    image = part["image_url"]
    url = image if isinstance(image, str) else str(image["url"])
    kind, found, data = url.removeprefix("data:").partition(";base64,")
    if not found:
        raise KeyError("image_url")
    return {"inlineData": {"mimeType": kind, "data": data}}


def read_result(line: bytes) -> Reply:
    """What an item of a batch's answers says: a response or an error."""
    item = parsed(line)
    item = item if isinstance(item, dict) else {}
    response, error = item.get("response"), item.get("error")
    if isinstance(response, dict):
        return read_response(response)
    if isinstance(error, dict):
        code = count(error.get("code")) or 0
        status = STATUS_OF.get(code, code if 400 <= code < 600 else 500)
        told = {"message": str(error.get("message") or ""), "code": error.get("status")}
        return read_error(status, {"error": told}, line)
    words = "a result that says neither what was answered nor why not"
    return lost(FailureKind.BROKEN_REPLY, words)._replace(said=as_text(line))


def read_response(response: Mapping[str, Any]) -> Reply:
    """What a GenerateContentResponse says. A prompt that is blocked has no candidate, and is billed."""
    candidates = response.get("candidates")
    first = candidates[0] if isinstance(candidates, list) and candidates else {}
    first = first if isinstance(first, dict) else {}
    content = first.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    texts = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    feedback = response.get("promptFeedback")
    blocked = isinstance(feedback, dict) and bool(feedback.get("blockReason"))
    reason = "SAFETY" if blocked else str(first.get("finishReason"))
    return read_completion(
        {
            "id": response.get("responseId"),
            "model": response.get("modelVersion"),
            "choices": [
                {
                    "message": {
                        "content": _joined(texts, thought=False),
                        "reasoning_content": _joined(texts, thought=True),
                    },
                    "finish_reason": FINISH.get(reason, reason.lower()),
                }
            ],
            "usage": _usage(response.get("usageMetadata")),
        }
    )


def _joined(parts: Iterable[Mapping[str, Any]], *, thought: bool) -> str:
    return "".join(str(part.get("text") or "") for part in parts if bool(part.get("thought")) is thought)


def _usage(told: Any) -> dict[str, JSON] | None:
    """Tokens as OpenAI's wire has them: thoughts are output, and what a tool gave the model to read is prompt."""
    if not isinstance(told, dict):
        return None
    prompt, thoughts = count(told.get("promptTokenCount")), count(told.get("thoughtsTokenCount")) or 0
    read = count(told.get("toolUsePromptTokenCount")) or 0
    return {
        "prompt_tokens": None if prompt is None else prompt + read,
        "completion_tokens": (count(told.get("candidatesTokenCount")) or 0) + thoughts,
        "prompt_tokens_details": {"cached_tokens": count(told.get("cachedContentTokenCount")) or 0},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
        "total_tokens": told.get("totalTokenCount"),
    }


def key_of_line(line: bytes) -> str | None:
    """The key in an item's metadata; None where it has none."""
    item = parsed(line)
    metadata = item.get("metadata") if isinstance(item, dict) else None
    key = metadata.get("key") if isinstance(metadata, dict) else None
    return key if isinstance(key, str) else None


def line_of(custom_id: str, body: Mapping[str, JSON]) -> bytes:
    """A request with its key, as it stands in a batch."""
    return dumps({"request": body, "metadata": {"key": custom_id}}) + b"\n"
