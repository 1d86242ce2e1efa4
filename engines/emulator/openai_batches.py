"""OpenAI's files and batches over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.multipart import BodyPartReader

from thirdshift.engines.core.json import dumps, loads
from thirdshift.engines.emulator import openai_wire
from thirdshift.engines.emulator.answers import WireRequest
from thirdshift.engines.emulator.batches import (
    ENDED,
    Batches,
    EmulatedBatch,
    EmulatedBatchState,
    EmulatedLine,
)
from thirdshift.engines.emulator.openai_wire import BadBody
from thirdshift.engines.emulator.provider import ErrorResponse
from thirdshift.engines.emulator.responses import (
    MARK,
    Handler,
    add_routes,
    error_response,
    hang_up,
    json_response,
)
from thirdshift.router.tiers import BatchTier, TierState

CHAT = "/v1/chat/completions"
PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class StoredFile:
    id: str
    path: Path
    filename: str
    purpose: str
    created_at: int

    def described(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.path.stat().st_size,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class OpenAIBatchWire:
    """A batch file's lines: `custom_id`, `method`, `url`, `body`; and those of its output. `tier`: the row they keep to."""

    def __init__(self, tier: BatchTier | None = None) -> None:
        self._tier = tier

    def read(self, line: Any) -> tuple[str, WireRequest]:
        custom_id = line.get("custom_id") if isinstance(line, dict) else None
        if not isinstance(custom_id, str) or not custom_id:
            raise BadBody("custom_id: a text is wanted")
        tier, body = self._tier, line.get("body")
        path = CHAT if tier is None else tier.path
        bare = tier is not None and tier.bare_lines
        if not bare and (line.get("url") != path or line.get("method") != "POST"):
            raise BadBody(f"a line wants method POST and url {path}")
        most = None if tier is None else tier.limits.line_bytes
        if most is not None and len(dumps(line)) > most:
            raise BadBody(f"a line has {most} bytes at most")
        if tier is not None and tier.model_in_job and isinstance(body, dict):
            if "model" in body:
                raise BadBody("model: the job's alone")
            body = {**body, "model": "of the job"}
        return custom_id, openai_wire.read_chat(body)

    def write(self, line: EmulatedLine, ended: EmulatedBatchState) -> tuple[bool, Any] | None:
        result = line.result
        if result is None:
            if ended is not EmulatedBatchState.EXPIRED:
                return None  # of a cancelled batch, what was not done is in neither file
            words = "This request could not be executed before the completion window expired."
            error = {"code": "batch_expired", "message": words}
            return True, {"id": None, "custom_id": line.custom_id, "response": None, "error": error}
        if isinstance(result, ErrorResponse):
            return True, _executed(line, "emulated-error", result.status, openai_wire.error_body(result))
        return False, _executed(line, result.ref, 200, openai_wire.completion(result))


def _executed(line: EmulatedLine, ref: str, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": ref, "body": body}
    return {"id": ref, "custom_id": line.custom_id, "response": response, "error": None}


class FilesDoor:
    """The handlers; `add_to` puts them at their addresses."""

    def __init__(self, batches: Batches, folder: Path) -> None:
        self._batches = batches
        self._folder = folder
        self._numbers = itertools.count(1)
        self._files: dict[str, StoredFile] = {}
        self._tier = batches.habits.tier
        self._wire = OpenAIBatchWire(self._tier)

    def add_to(self, app: web.Application) -> None:
        jobs = "/v1/batches" if self._tier is None else f"/v1{self._tier.jobs}"
        handlers: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/files"): self.upload,
            ("GET", "/v1/files"): self.list_files,
            ("GET", "/v1/files/{id}"): self.describe,
            ("DELETE", "/v1/files/{id}"): self.delete,
            ("GET", "/v1/files/{id}/content"): self.content,
            ("POST", jobs): self.create,
            ("GET", jobs): self.list_batches,
            ("GET", f"{jobs}/{{id}}"): self.retrieve,
            ("POST", f"{jobs}/{{id}}/cancel"): self.cancel,
        }
        add_routes(app, handlers)

    # --- files ---

    async def upload(self, request: web.Request) -> web.StreamResponse:
        path, number = self.place()
        name, purpose = "", ""
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                continue
            if part.name == "file":
                name = part.filename or "file"
                with path.open("wb") as sink:
                    while piece := await part.read_chunk(PIECE):
                        sink.write(part.decode(piece))
            elif part.name == "purpose":
                purpose = await part.text()
        return self.take(path, name, purpose, number)

    def place(self) -> tuple[Path, int]:
        """Where the next file is put, and its number."""
        number = next(self._numbers)
        return self._folder / f"upload-{number:06d}", number

    def take(self, path: Path, name: str, purpose: str, number: int) -> web.StreamResponse:
        """Take in what was uploaded to `path`, or say what is wrong with it."""
        if not name or not purpose:
            return _bad("a file and a purpose are wanted")
        if self._tier is not None and purpose != self._tier.purpose:
            return _bad(f"purpose: {self._tier.purpose} is wanted")
        if path.stat().st_size > self._batches.habits.max_bytes:
            path.unlink()
            return _bad(f"the file is larger than {self._batches.habits.max_bytes} bytes", 413)
        return json_response(self._keep(path, name, purpose, number).described())

    def _keep(self, path: Path, name: str, purpose: str, number: int) -> StoredFile:
        stored = StoredFile(f"file-emulated-{number:06d}", path, name, purpose, int(self._batches.now()))
        self._files[stored.id] = stored
        return stored

    async def list_files(self, request: web.Request) -> web.StreamResponse:
        wanted = request.query.get("purpose")
        files = [f.described() for f in self._files.values() if wanted in (None, f.purpose)]
        return json_response({"object": "list", "data": files, "has_more": False})

    async def describe(self, request: web.Request) -> web.StreamResponse:
        stored = self._files.get(request.match_info["id"])
        return _missing("file") if stored is None else json_response(stored.described())

    async def content(self, request: web.Request) -> web.StreamResponse:
        stored = self._files.get(request.match_info["id"])
        return _missing("file") if stored is None else web.FileResponse(stored.path, headers=MARK)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        stored = self._files.pop(request.match_info["id"], None)
        if stored is None:
            return _missing("file")
        stored.path.unlink()
        return json_response({"id": stored.id, "object": "file", "deleted": True})

    # --- batches ---

    async def create(self, request: web.Request) -> web.StreamResponse:
        try:
            body = loads(await request.read())
        except ValueError as error:
            return _bad(str(error))
        named = body.get("input_files") if self._tier is not None and self._tier.input_list else None
        if isinstance(named, list) and len(named) == 1:
            body["input_file_id"] = named[0]
        stored = self._files.get(body.get("input_file_id", ""))
        if stored is None:
            return _bad(f"no file {body.get('input_file_id')}")
        fault = self._refusal(body)
        if fault is not None:
            return _bad(fault[1], fault[0])
        at = request.match_info.get("at")
        if self._tier is not None and self._tier.model_in_job:
            at = at or str(body["model"])
        batch = self._batches.create(stored.path, self._wire, "batch_emulated_", body, at=at)
        if self._batches.loses_reply():
            return hang_up(request)
        return json_response(self._described(batch))

    def _refusal(self, body: Mapping[str, Any]) -> tuple[int, str] | None:
        if self._tier is not None:
            under_way = sum(batch.state not in ENDED for batch in self._batches.all.values())
            return refused_by_row(self._tier, body, under_way)
        if body.get("endpoint") != CHAT or body.get("completion_window") != "24h":
            return 400, f"endpoint {CHAT} and completion_window 24h are wanted"
        return None

    async def retrieve(self, request: web.Request) -> web.StreamResponse:
        batch = self._batch(request)
        return _missing("batch") if batch is None else json_response(self._described(batch))

    async def list_batches(self, request: web.Request) -> web.StreamResponse:
        if self._tier is not None and self._tier.input_list:
            return self._numbered(request)
        limit = int(request.query.get("limit", "20"))
        page, more = self._batches.page(self._wire, request.query.get("after"), limit)
        if self._tier is not None and self._tier.label == "filename":
            everything, _ = self._batches.page(self._wire, None, 1000)
            return json_response(
                [*_strangers(self._batches), *(self._described(b)["job"] for b in everything)]
            )
        data = [self._described(batch) for batch in page]
        if not more:
            data += _strangers(self._batches)
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return json_response({"object": "list", "data": data, "has_more": more, **ends})

    def _numbered(self, request: web.Request) -> web.StreamResponse:
        """The list by number of page."""
        number, size = int(request.query.get("page", "0")), int(request.query.get("page_size", "100"))
        everything, _ = self._batches.page(self._wire, None, 1_000_000)
        data = [*_strangers(self._batches), *(self._described(batch) for batch in everything)]
        return json_response({"data": data[number * size : (number + 1) * size], "total": len(data)})

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        batch = self._batch(request)
        if batch is None:
            return _missing("batch")
        if not self._batches.cancel(batch):
            return _bad(f"a batch that is {batch.state} cannot be cancelled", 409)
        return json_response(self._described(batch))

    def _batch(self, request: web.Request) -> EmulatedBatch | None:
        batch = self._batches.all.get(request.match_info["id"])
        return batch if batch is not None and batch.wire is self._wire else None

    def _described(self, batch: EmulatedBatch) -> dict[str, Any]:
        total, completed, failed = self._batches.counts(batch)
        at = {
            f"{state}_at": int(when)
            for state, when in batch.reached.items()
            if state != EmulatedBatchState.VALIDATING
        }
        usual: dict[str, Any] = {
            "id": batch.id,
            "object": "batch",
            "endpoint": CHAT,
            "input_file_id": batch.details.get("input_file_id"),
            "completion_window": "24h",
            "metadata": batch.details.get("metadata"),
            "status": batch.state.value,
            "created_at": int(batch.created_at),
            "expires_at": int(batch.expires_at),
            **at,
            "request_counts": {"total": total, "completed": completed, "failed": failed},
            "output_file_id": self._result(batch, "output_file_id", batch.output),
            "error_file_id": self._result(batch, "error_file_id", batch.errors),
            "errors": _faults(batch),
        }
        return usual if self._tier is None else described_by_row(self._tier, batch, usual)

    def _result(self, batch: EmulatedBatch, name: str, path: Path | None) -> str | None:
        """Return the id of a result file, a file like the others from the moment its batch has ended."""
        if path is None or batch.state not in (
            EmulatedBatchState.COMPLETED,
            EmulatedBatchState.EXPIRED,
            EmulatedBatchState.CANCELLED,
        ):
            return None
        if name not in batch.details:
            kept = self._keep(path, path.name, "batch_output", next(self._numbers))
            batch.details[name] = kept.id
        return str(batch.details[name])


# --- in the words of a row ---

MEANT = {
    EmulatedBatchState.COMPLETED: TierState.ENDED,
    EmulatedBatchState.EXPIRED: TierState.EXPIRED,
    EmulatedBatchState.CANCELLED: TierState.CANCELLED,
    EmulatedBatchState.FAILED: TierState.FAILED,
}


def refused_by_row(tier: BatchTier, body: Mapping[str, Any], under_way: int) -> tuple[int, str] | None:
    """(status, words) where the row does not allow a batch to be made so; None where it does."""
    if body.get("endpoint") != tier.path:
        return 400, f"endpoint {tier.path} is wanted"
    if any(body.get(name) != value for name, value in tier.create.items()):
        return 400, f"wanted besides: {', '.join(tier.create)}"
    if tier.label == "filename" and "metadata" in body:
        return 400, "metadata: no such field"
    if tier.model_in_job and not isinstance(body.get("model"), str):
        return 400, "model is wanted"
    asked = tier.windows if tier.window_key == "completion_window" else ()
    if asked and body.get("completion_window") not in [window.name for window in asked]:
        return 400, "completion_window: no such window"
    hours = tier.window.hours if tier.window is not None and tier.window_key == "timeout_hours" else None
    if body.get("timeout_hours") != hours:
        return 400, "timeout_hours: no such window"
    if tier.limits.batches is not None and under_way >= tier.limits.batches:
        return 429, f"at most {tier.limits.batches} batches at once"
    return None


def status_in_row(tier: BatchTier, batch: EmulatedBatch) -> str:
    """A batch's state in the row's own word: the same word where the row has it, else the first that means it."""
    meant = MEANT.get(batch.state, TierState.RUNNING)
    same = next((word for word in tier.states if word.casefold() == batch.state.value), None)
    return same or next((word for word, state in tier.states.items() if state is meant), batch.state.value)


def described_by_row(tier: BatchTier, batch: EmulatedBatch, usual: dict[str, Any]) -> dict[str, Any]:
    """A batch's object as the row has it, from OpenAI's (`usual`)."""
    told = {**usual, "endpoint": tier.path, "status": status_in_row(tier, batch)}
    if tier.input_list:
        counts = told.pop("request_counts")
        told["input_files"] = [told.pop("input_file_id")]
        told["output_file"], told["error_file"] = told.pop("output_file_id"), told.pop("error_file_id")
        told |= {
            "total_requests": counts["total"],
            "completed_requests": counts["completed"] + counts["failed"],
        }
    if tier.label == "filename":
        return {
            "job": {name: value for name, value in told.items() if name not in ("metadata", "request_counts")}
        }
    return told


def _strangers(batches: Batches) -> list[dict[str, Any]]:
    """Other people's batches, as other software makes them."""
    count = batches.habits.strangers
    return [
        {"id": f"stranger-{n}", "status": ("COMPLETED", "odd", None)[n % 3], "metadata": None}
        for n in range(count)
    ]


def _faults(batch: EmulatedBatch) -> Mapping[str, Any] | None:
    if not batch.faults:
        return None
    data = [
        {"code": code, "message": words, "line": line, "param": None} for code, words, line in batch.faults
    ]
    return {"object": "list", "data": data}


def _bad(message: str, status: int = 400) -> web.StreamResponse:
    return error_response(ErrorResponse(status, "invalid_request", message), openai_wire.error_body)


def _missing(what: str) -> web.StreamResponse:
    return error_response(ErrorResponse(404, "not_found", f"no such {what}"), openai_wire.error_body)
