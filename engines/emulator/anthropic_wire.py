"""Anthropic's messages and message batches over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.emulator.answers import WireRequest, tokens_of
from thirdshift.engines.emulator.batches import (
    ENDED,
    Batches,
    EmulatedBatch,
    EmulatedBatchState,
    EmulatedLine,
)
from thirdshift.engines.emulator.models import Trouble
from thirdshift.engines.emulator.openai_wire import BadBody, asked_of
from thirdshift.engines.emulator.provider import BilledAnswer, ErrorResponse, Provider
from thirdshift.engines.emulator.responses import (
    MARK,
    Handler,
    add_routes,
    addressed,
    deliver,
    error_response,
    hang_up,
    json_response,
)

ERROR_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
OVERLOADED = 529
"""Anthropic's own status where others send 503."""


def read_message(body: Any) -> WireRequest:
    """Read a body. Raises BadBody. The system text counts as a first message, so that keys are those of OpenAI's wire."""
    if not isinstance(body, dict):
        raise BadBody("the body is no JSON object")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise BadBody("messages: a list of at least one object")
    if not isinstance(body.get("max_tokens"), int) or body["max_tokens"] < 1:
        raise BadBody("max_tokens: a whole number above 0")
    if body.get("stream"):
        raise BadBody("stream: not emulated")
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    metadata = body.get("metadata")
    asked = asked_of(
        str(body.get("model")),
        [*system, *messages],
        body["max_tokens"],
        schema=_schema(body),
        request_id=metadata.get("user_id") if isinstance(metadata, dict) else None,
        extra_tokens=tokens_of(dumps(body["tools"]).decode()) if body.get("tools") else 0,
    )
    return replace(asked, keeps=b'"cache_control"' in dumps([system, messages]))


def _schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema of the output format asked for, or of the tool that must be called."""
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format")
    if isinstance(wanted, dict) and isinstance(wanted.get("schema"), dict):
        return dict(wanted["schema"])
    tool = _forced_tool(body)
    return None if tool is None else dict(tool.get("input_schema") or {"type": "object"})


def _forced_tool(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choice = body.get("tool_choice")
    name = choice.get("name") if isinstance(choice, dict) else None
    tools = (tool for tool in body.get("tools") or () if isinstance(tool, dict))
    return next((tool for tool in tools if name is not None and tool.get("name") == name), None)


def message(billed_answer: BilledAnswer, body: Mapping[str, Any]) -> dict[str, Any]:
    """Write an answer as a message; Anthropic counts cached tokens beside the input, not among it."""
    answer, usage = billed_answer.answer, billed_answer.answer.usage
    reason = "end_turn" if answer.finish_reason == "stop" else "max_tokens"
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
    if billed_answer.trouble is Trouble.REFUSE:
        reason = "refusal"
    elif (tool := _forced_tool(body)) is not None and reason == "end_turn":
        reason = "tool_use"
        called = {"id": f"toolu_{billed_answer.ref}", "name": tool["name"], "input": _input(answer.text)}
        content = [{"type": "tool_use", **called}]
    return {
        "id": billed_answer.ref,
        "type": "message",
        "role": "assistant",
        "model": f"emulated/{billed_answer.model}",
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.input_tokens - usage.cached_tokens - usage.written_tokens,
            "cache_creation_input_tokens": usage.written_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
        },
    }


def _input(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return {"unreadable": text}  # INVALID_JSON: a tool's input is an object on the wire whatever happens


def error_body(refusal: ErrorResponse) -> dict[str, Any]:
    words = refusal.message
    if refusal.code == "context_length_exceeded":
        words = f"prompt is too long: {words}"
    return {
        "type": "error",
        "error": {"type": ERROR_TYPES.get(_status(refusal), "api_error"), "message": words},
    }


def _status(refusal: ErrorResponse) -> int:
    return OVERLOADED if refusal.status == 503 else refusal.status


def _as_anthropic(refusal: ErrorResponse) -> ErrorResponse:
    return ErrorResponse(_status(refusal), refusal.code, refusal.message, limit_headers(refusal.headers))


def limit_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Translate OpenAI's headers to Anthropic's; resets become instants."""
    translated: dict[str, str] = {}
    for name, value in headers.items():
        if name.startswith("x-ratelimit-"):
            what, of = name.removeprefix("x-ratelimit-").split("-")
            translated[f"anthropic-ratelimit-{of}-{what}"] = _in_seconds(value) if what == "reset" else value
        elif name != "retry-after-ms":
            translated[name] = value
    return translated


def _in_seconds(wait: str) -> str:
    """Return the instant that a wait such as 1.5s ends at."""
    return _instant((datetime.now(UTC) + timedelta(seconds=float(wait.rstrip("s")))).timestamp()) or ""


class AnthropicBatchWire:
    """A batch's requests: `custom_id` and `params`; and its results."""

    def read(self, line: Any) -> tuple[str, WireRequest]:
        custom_id = line.get("custom_id") if isinstance(line, dict) else None
        if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 64:
            raise BadBody("custom_id: 1 to 64 characters are wanted")
        return custom_id, read_message(line.get("params"))

    def write(self, line: EmulatedLine, ended: EmulatedBatchState) -> tuple[bool, Any] | None:
        if line.result is None:
            result: dict[str, Any] = {
                "type": "expired" if ended is EmulatedBatchState.EXPIRED else "canceled"
            }
        elif isinstance(line.result, ErrorResponse):
            result = {"type": "errored", "error": error_body(line.result)}
        else:
            result = {"type": "succeeded", "message": message(line.result, line.request["params"])}
        return False, {"custom_id": line.custom_id, "result": result}


class AnthropicHandlers:
    """The handlers; `add_to` puts them at their addresses."""

    def __init__(self, provider: Provider, batches: Batches, folder: Path) -> None:
        self._provider = provider
        self._batches = batches
        self._folder = folder
        self._numbers = itertools.count(1)
        self._wire = AnthropicBatchWire()

    def add_to(self, app: web.Application) -> None:
        handlers: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/messages"): self.message,
            ("POST", "/v1/messages/batches"): self.create,
            ("GET", "/v1/messages/batches"): self.list_batches,
            ("GET", "/v1/messages/batches/{id}"): self.retrieve,
            ("DELETE", "/v1/messages/batches/{id}"): self.delete,
            ("POST", "/v1/messages/batches/{id}/cancel"): self.cancel,
            ("GET", "/v1/messages/batches/{id}/results"): self.results,
        }
        add_routes(app, handlers)

    async def message(self, request: web.Request) -> web.StreamResponse:
        try:
            body = loads(await request.read())
            asked = read_message(body)
        except (BadBody, ValueError) as error:
            return _bad(str(error))
        result = await self._provider.call(addressed(asked, request.match_info.get("at")))
        if isinstance(result, ErrorResponse):
            result = _as_anthropic(result)
        elif isinstance(result, BilledAnswer):
            headers = limit_headers(result.headers)
            result = replace(result, headers=headers)
        return await deliver(request, result, lambda billed_answer: message(billed_answer, body), error_body)

    async def create(self, request: web.Request) -> web.StreamResponse:
        try:
            lines = loads(await request.read())["requests"]
        except (ValueError, KeyError, TypeError):
            return _bad("requests: a list is wanted")
        fault = self._fault(lines)
        if fault is not None:
            return _bad(fault)
        path = self._folder / f"messages-{next(self._numbers):06d}.jsonl"
        batch = self._batches.create_inline(
            path, lines, self._wire, "msgbatch_emulated_", {}, request.match_info.get("at")
        )
        return hang_up(request) if self._batches.loses_reply() else json_response(self._described(batch))

    def _fault(self, lines: Any) -> str | None:
        """Say what is wrong with a batch's list as a whole or with a request in it: then there is no batch."""
        if not isinstance(lines, list) or not lines:
            return "requests: a list of at least one is wanted"
        if len(lines) > self._batches.habits.max_requests:
            return f"requests: at most {self._batches.habits.max_requests}"
        try:
            ids = {self._wire.read(line)[0] for line in lines}
        except BadBody as error:
            return str(error)
        return None if len(ids) == len(lines) else "custom_id: used twice"

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        batch = self._batch(request)
        return _missing() if batch is None else json_response(self._described(batch))

    async def list_batches(self, request: web.Request) -> web.StreamResponse:
        limit = int(request.query.get("limit", "20"))
        page, more = self._batches.page(self._wire, request.query.get("after_id"), limit)
        data = [self._described(batch) for batch in page]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return json_response({"data": data, "has_more": more, "first_id": first, "last_id": last})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        batch = self._batch(request)
        if batch is None:
            return _missing()
        if not self._batches.cancel(batch):
            return _bad("the batch has ended")
        return json_response(self._described(batch))

    async def results(self, request: web.Request) -> web.StreamResponse:
        batch = self._batch(request)
        if batch is None or batch.output is None or batch.state not in ENDED:
            return _missing()
        return web.FileResponse(batch.output, headers=MARK)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        batch = self._batch(request)
        if batch is None:
            return _missing()
        if batch.state not in ENDED:
            return _bad("the batch has not ended")
        del self._batches.all[batch.id]
        if batch.output is not None:
            batch.output.unlink()
        return json_response({"id": batch.id, "type": "message_batch_deleted"})

    def _batch(self, request: web.Request) -> EmulatedBatch | None:
        batch = self._batches.all.get(request.match_info["id"])
        return batch if batch is not None and batch.wire is self._wire else None

    def _described(self, batch: EmulatedBatch) -> dict[str, Any]:
        ended = batch.state in ENDED
        root = "" if batch.at is None else f"/at/{batch.at}"
        cancelling = batch.reached.get(EmulatedBatchState.CANCELLING)
        status = "ended" if ended else "in_progress" if cancelling is None else "canceling"
        finished = max((batch.reached[state] for state in ENDED if state in batch.reached), default=None)
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": self._counts(batch),
            "created_at": _instant(batch.created_at),
            "expires_at": _instant(batch.expires_at),
            "cancel_initiated_at": _instant(cancelling),
            "ended_at": _instant(finished),
            "archived_at": None,
            "results_url": f"{root}/v1/messages/batches/{batch.id}/results"
            if batch.output and ended
            else None,
        }

    def _counts(self, batch: EmulatedBatch) -> dict[str, int]:
        total, completed, failed = self._batches.counts(batch)
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if batch.state not in ENDED:
            return {**counts, "processing": total}  # Anthropic tells the rest only once all is over
        undone = "expired" if batch.state is EmulatedBatchState.EXPIRED else "canceled"
        return {**counts, undone: batch.undone, "succeeded": completed, "errored": failed}


def _instant(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat().replace("+00:00", "Z")


def _bad(words: str) -> web.StreamResponse:
    return error_response(ErrorResponse(400, "invalid_request_error", words), error_body)


def _missing() -> web.StreamResponse:
    return error_response(ErrorResponse(404, "not_found_error", "no such batch"), error_body)
