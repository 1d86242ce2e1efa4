"""Batches with their requests inline, as OpenRouter's and Gemini's documentation has them. Emulated, and said to be: no
real provider was asked."""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from thirdshift.engines.core.json import loads
from thirdshift.engines.emulator import openai_wire
from thirdshift.engines.emulator.answers import WireRequest
from thirdshift.engines.emulator.batches import (
    ENDED,
    Batches,
    EmulatedBatch,
    EmulatedBatchState,
    EmulatedLine,
)
from thirdshift.engines.emulator.models import Trouble
from thirdshift.engines.emulator.openai_batches import status_in_row
from thirdshift.engines.emulator.openai_wire import BadBody, asked_of
from thirdshift.engines.emulator.provider import BilledAnswer, ErrorResponse
from thirdshift.engines.emulator.responses import (
    Handler,
    add_routes,
    error_response,
    hang_up,
    json_response,
)
from thirdshift.router.tiers import BatchTier, Expiry

PAGE = 3
"""Results on a page, so that a test meets several."""
RPC_CODES = {400: 3, 404: 5, 429: 8, 500: 13, 503: 14}


class InlineDoor(ABC):
    """What both share. `add_to` puts the handlers at their addresses."""

    prefix: str

    def __init__(self, batches: Batches, folder: Path, tier: BatchTier) -> None:
        self._batches, self._folder, self._tier = batches, folder, tier
        self._numbers = itertools.count(1)

    @abstractmethod
    def add_to(self, app: web.Application) -> None: ...

    @abstractmethod
    def read(self, line: Any) -> tuple[str, WireRequest]:
        """(custom id, request). Raises BadBody."""

    @abstractmethod
    def item(self, custom_id: str, result: BilledAnswer | ErrorResponse) -> dict[str, Any]:
        """What stands in the results for a request."""

    def write(self, line: EmulatedLine, ended: EmulatedBatchState) -> tuple[bool, Any] | None:  # noqa: ARG002
        """(False, what stands in the results); None: the batch ended before it."""
        return None if line.result is None else (False, self.item(line.custom_id, line.result))

    @abstractmethod
    def described(self, batch: EmulatedBatch) -> dict[str, Any]:
        """A batch's object."""

    def made(
        self, request: web.Request, lines: Any, details: Mapping[str, Any], size: int
    ) -> web.StreamResponse:
        """A batch of these requests, or why there is none."""
        if not isinstance(lines, list) or not lines:
            return bad("requests: a list of at least one is wanted")
        limits = self._tier.limits
        if len(lines) > (limits.requests or self._batches.habits.max_requests):
            return bad(f"requests: at most {limits.requests}")
        if limits.bytes is not None and size > limits.bytes:
            return bad(f"at most {limits.bytes} bytes", 413)
        if limits.batches is not None and self._under_way() >= limits.batches:
            return bad(f"at most {limits.batches} batches at once", 429)
        path = self._folder / f"inline-{next(self._numbers):06d}.jsonl"
        at = request.match_info.get("at") or request.match_info.get("model")
        batch = self._batches.create_inline(path, lines, self, self.prefix, details, at)
        if self._batches.loses_reply():
            return hang_up(request)
        return json_response(self.described(batch), 202 if self._tier.name == "openrouter" else 200)

    def _under_way(self) -> int:
        return sum(batch.state not in ENDED for batch in self._batches.all.values())

    def batch_of(self, request: web.Request) -> EmulatedBatch | None:
        return self._batches.all.get(request.match_info["id"])

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        batch = self.batch_of(request)
        return missing() if batch is None else json_response(self.described(batch))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        batch = self.batch_of(request)
        if batch is None:
            return missing()
        if batch.state not in ENDED:
            return bad("the batch has not ended", 409)
        del self._batches.all[batch.id]
        return json_response({"id": batch.id, "deleted": True})

    def results_of(self, batch: EmulatedBatch) -> list[Any]:
        """The results of a batch that is over, where its tier keeps them."""
        lost = batch.state is EmulatedBatchState.EXPIRED and self._tier.expiry is Expiry.LOSES
        if batch.state not in ENDED or batch.output is None or lost:
            return []
        return [loads(line) for line in batch.output.read_bytes().splitlines()]


class OpenRouterDoor(InlineDoor):
    """`endpoint` and `model` before `requests`; results in pages; no cancelling."""

    prefix = "orbatch_emulated_"

    def add_to(self, app: web.Application) -> None:
        handlers: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/batches"): self.create,
            ("GET", "/v1/batches"): self.list_batches,
            ("GET", "/v1/batches/{id}"): self.retrieve,
            ("DELETE", "/v1/batches/{id}"): self.delete,
            ("GET", "/v1/batches/{id}/results"): self.results,
        }
        add_routes(app, handlers)

    async def create(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = loads(raw)
        except ValueError as error:
            return bad(str(error))
        if list(body)[:3] != ["endpoint", "model", "requests"] or body["endpoint"] != self._tier.path:
            return bad("endpoint and model are wanted, and before requests")
        return self.made(request, body["requests"], {"model": body["model"]}, len(raw))

    def read(self, line: Any) -> tuple[str, WireRequest]:
        custom_id = line.get("custom_id") if isinstance(line, dict) else None
        if not isinstance(custom_id, str) or not custom_id:
            raise BadBody("custom_id: a text is wanted")
        return custom_id, openai_wire.read_chat(line.get("body"))

    def item(self, custom_id: str, result: BilledAnswer | ErrorResponse) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": f"res-{custom_id}",
            "custom_id": custom_id,
            "response": None,
            "error": None,
        }
        if isinstance(result, ErrorResponse):
            return told | {"error": {"code": str(result.status), "message": result.message}}
        return told | {"response": {"status_code": 200, "body": openai_wire.completion(result)}}

    def described(self, batch: EmulatedBatch) -> dict[str, Any]:
        total, completed, failed = self._batches.counts(batch)
        faults = {"code": batch.faults[0][0], "message": batch.faults[0][1]} if batch.faults else None
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": self._tier.path,
            "model": batch.details.get("model"),
            "completion_window": "24h",
            "status": status_in_row(self._tier, batch),
            "created_at": int(batch.created_at),
            "finalized_at": None,
            "request_counts": {"total": total, "completed": completed, "failed": failed},
            "usage": None,
            "error": faults,
            "results": self.results_of(batch) if batch.state in ENDED else None,
        }

    async def list_batches(self, request: web.Request) -> web.StreamResponse:
        page, more = self._batches.page(
            self, request.query.get("after"), int(request.query.get("limit", "20"))
        )
        data = [self.described(batch) | {"results": None} for batch in page]
        if not more:
            data += strangers(self._batches, "id")
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return json_response({"object": "list", "data": data, "has_more": more, **ends})

    async def results(self, request: web.Request) -> web.StreamResponse:
        batch = self.batch_of(request)
        if batch is None or batch.state not in ENDED:
            return missing()
        start, everything = int(request.query.get("cursor", "0")), self.results_of(batch)
        following = start + PAGE if start + PAGE < len(everything) else None
        page = {"data": everything[start : start + PAGE], "has_more": following is not None}
        return json_response(
            page | {"object": "list", "next_cursor": None if following is None else str(following)}
        )


class GeminiDoor(InlineDoor):
    """Operations; answers in the order of the requests, inside them; without their keys in every second batch."""

    prefix = "emulated_"

    def add_to(self, app: web.Application) -> None:
        handlers: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/models/{model}:batchGenerateContent"): self.create,
            ("GET", "/v1/batches"): self.list_batches,
            ("GET", "/v1/batches/{id:[^/:]+}"): self.retrieve,
            ("DELETE", "/v1/batches/{id:[^/:]+}"): self.delete,
            ("POST", "/v1/batches/{id:[^/:]+}:cancel"): self.cancel,
        }
        add_routes(app, handlers)

    async def create(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            batch = loads(raw)["batch"]
            lines, name = batch["inputConfig"]["requests"]["requests"], str(batch["displayName"])
        except (ValueError, KeyError, TypeError):
            return bad("batch: displayName and inputConfig.requests.requests are wanted")
        order = {self.key(line): place for place, line in enumerate(lines)}
        return self.made(request, lines, {"displayName": name, "order": order}, len(raw))

    @staticmethod
    def key(line: Any) -> str:
        metadata = line.get("metadata") if isinstance(line, dict) else None
        return str(metadata.get("key") or "") if isinstance(metadata, dict) else ""

    def read(self, line: Any) -> tuple[str, WireRequest]:
        asked = line.get("request") if isinstance(line, dict) else None
        if not isinstance(asked, dict) or not self.key(line):
            raise BadBody("request and metadata.key are wanted")
        system = text_of(asked.get("systemInstruction") or {})
        told = [{"role": "system", "content": system}] if system else []
        roles = {"model": "assistant", "user": "user"}
        turns = [
            {"role": roles[turn["role"]], "content": text_of(turn)} for turn in asked.get("contents") or ()
        ]
        config = asked.get("generationConfig") or {}
        if not turns:
            raise BadBody("contents: at least one is wanted")
        model = str(asked.get("model")).removeprefix("models/")
        ceiling, schema = config.get("maxOutputTokens"), config.get("responseJsonSchema")
        return self.key(line), asked_of(model, [*told, *turns], ceiling, schema=schema)

    def item(self, custom_id: str, result: BilledAnswer | ErrorResponse) -> dict[str, Any]:
        told: dict[str, Any] = {"metadata": {"key": custom_id}}
        if isinstance(result, ErrorResponse):
            return told | {"error": {"code": RPC_CODES.get(result.status, 13), "message": result.message}}
        return told | {"response": generated(result)}

    def described(self, batch: EmulatedBatch) -> dict[str, Any]:
        total, completed, failed = self._batches.counts(batch)
        ended = batch.state in ENDED
        metadata = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": f"batches/{batch.id}",
            "displayName": batch.details["displayName"],
            "state": status_in_row(self._tier, batch),
            "createTime": datetime.fromtimestamp(batch.created_at, UTC).isoformat().replace("+00:00", "Z"),
            "batchStats": {
                "requestCount": str(total),
                "successfulRequestCount": str(completed),
                "failedRequestCount": str(failed),
                "pendingRequestCount": str(total - completed - failed),
            },
        }
        operation: dict[str, Any] = {"name": f"batches/{batch.id}", "metadata": metadata, "done": ended}
        if batch.faults:
            return operation | {"error": {"code": 3, "message": batch.faults[0][1]}}
        answers = self._in_order(batch)
        if answers:
            operation["response"] = {"inlinedResponses": {"inlinedResponses": answers}}
        return operation

    def _in_order(self, batch: EmulatedBatch) -> list[Any]:
        """Answers in the order of the requests; where all are there, every second batch brings no keys back."""
        order = batch.details["order"]
        answers = sorted(self.results_of(batch), key=lambda item: order[item["metadata"]["key"]])
        whole = len(answers) == len(order) and random.Random(batch.id).random() < 0.5  # noqa: S311
        return (
            [{name: part for name, part in item.items() if name != "metadata"} for item in answers]
            if whole
            else answers
        )

    async def list_batches(self, request: web.Request) -> web.StreamResponse:
        after = request.query.get("pageToken")
        page, more = self._batches.page(self, after, int(request.query.get("pageSize", "50")))
        operations = [
            {name: part for name, part in self.described(b).items() if name != "response"} for b in page
        ]
        if not more:
            operations += strangers(self._batches, "name")
        return json_response({"operations": operations} | ({"nextPageToken": page[-1].id} if more else {}))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        batch = self.batch_of(request)
        if batch is None:
            return missing()
        return json_response({}) if self._batches.cancel(batch) else bad("the batch has ended")


def text_of(content: Mapping[str, Any]) -> str:
    return "".join(str(part.get("text") or "") for part in content.get("parts") or ())


def generated(billed: BilledAnswer) -> dict[str, Any]:
    """An answer as a GenerateContentResponse."""
    answer, usage = billed.answer, billed.answer.usage
    reason = "STOP" if answer.finish_reason == "stop" else "MAX_TOKENS"
    if billed.trouble is Trouble.REFUSE:
        reason = "SAFETY"
    return {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": answer.text}]},
                "finishReason": reason,
                "index": 0,
            }
        ],
        "usageMetadata": {
            "promptTokenCount": usage.input_tokens,
            "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
            "thoughtsTokenCount": usage.reasoning_tokens,
            "cachedContentTokenCount": usage.cached_tokens,
            "totalTokenCount": usage.input_tokens + usage.output_tokens,
        },
        "modelVersion": f"emulated/{billed.model}",
        "responseId": billed.ref,
    }


def strangers(batches: Batches, key: str) -> list[dict[str, Any]]:
    """Other people's batches, as other software makes them."""
    return [{key: f"batches/stranger-{n}", "metadata": None} for n in range(batches.habits.strangers)]


def bad(message: str, status: int = 400) -> web.StreamResponse:
    return error_response(ErrorResponse(status, "invalid_request", message), openai_wire.error_body)


def missing() -> web.StreamResponse:
    return bad("no such batch", 404)


DOORS: dict[str, type[InlineDoor]] = {"openrouter": OpenRouterDoor, "gemini": GeminiDoor}
