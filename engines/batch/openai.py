"""OpenAI's files and batches: the batch tier of whoever speaks that wire."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from thirdshift.engines.batch.http import BatchCalls, again, custom_id_in, instant, listed, not_run
from thirdshift.engines.batch.provider import BatchLimits, CallError, Remote, RemoteState
from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.realtime.http import OPENAI_BASE, authorization, key_of, missing_key
from thirdshift.engines.wires.lines import read_line
from thirdshift.engines.wires.openai import Bodies
from thirdshift.engines.wires.usage import count
from thirdshift.router.values import Endpoint, FailureKind, Request

CHAT = "/v1/chat/completions"
LABEL = "thirdshift_key"
"""Where a batch's metadata carry its label. A value may have 512 characters."""
PAGE = 100
PAGES_MAX = 50
"""As far back as a batch is looked for: 5,000 batches."""

STATES: dict[str, RemoteState] = {
    "validating": RemoteState.RUNNING,
    "in_progress": RemoteState.RUNNING,
    "finalizing": RemoteState.RUNNING,
    "cancelling": RemoteState.RUNNING,
    "queued": RemoteState.RUNNING,
    "pending": RemoteState.RUNNING,
    "running": RemoteState.RUNNING,
    "processing": RemoteState.RUNNING,
    "progress": RemoteState.RUNNING,
    "canceling": RemoteState.RUNNING,
    "completed": RemoteState.ENDED,
    "ended": RemoteState.ENDED,
    "expired": RemoteState.ENDED,
    "cancelled": RemoteState.ENDED,
    "canceled": RemoteState.ENDED,
    "failed": RemoteState.FAILED,
}
"""In small letters: some providers write capitals."""
QUEUE_FULL = {"token_limit_exceeded", "enqueued_token_limit_exceeded", "rate_limit_exceeded"}


class OpenAIBatches:
    """`BatchWire` over HTTP. `limits`: what OpenAI documents, less a little for the multipart around it."""

    limits = BatchLimits(requests=50_000, bytes=199_000_000)

    def __init__(self, endpoint: Endpoint, bodies: Bodies) -> None:
        self._name = endpoint.name
        self._bodies = bodies
        if endpoint.api_base is None and endpoint.protocol == "azure":
            self._http = _azure(endpoint)
            return
        key, missing = key_of(endpoint, None if endpoint.api_base else "OPENAI_API_KEY")
        base = (endpoint.api_base or OPENAI_BASE).rstrip("/")
        self._http = BatchCalls(endpoint.name, base, authorization(key), missing)

    def line(self, custom_id: str, request: Request) -> bytes:
        body = self._bodies.body(request)
        return dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}) + b"\n"

    @again
    async def upload(self, path: Path) -> str:
        with path.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", file, filename="requests.jsonl", content_type="application/jsonl")
            size = os.fstat(file.fileno()).st_size
            made = await self._http.call("POST", "/files", data=form, sends_bytes=size)
        return _id(made)

    async def create(self, source: str, label: str) -> Remote:
        body = {
            "input_file_id": source,
            "endpoint": CHAT,
            "completion_window": "24h",
            "metadata": {LABEL: label},
        }
        return _remote(await self._http.call("POST", "/batches", json=body))

    async def find(self, prefix: str) -> AsyncIterator[Remote]:
        after = ""
        for _ in range(PAGES_MAX):
            page = await self._http.get(f"/batches?limit={PAGE}{after}")
            batches = listed(page)
            for batch in batches:
                remote = _remote(batch)
                if remote.label.startswith(prefix):
                    yield remote
            if not page.get("has_more") or not batches:
                return
            after = f"&after={batches[-1]['id']}"

    async def look(self, remote: Remote) -> Remote:
        return _remote(await self._http.get(f"/batches/{remote.id}"))

    async def claim(self, remote: Remote) -> bool:
        """Its metadata say so: there is no doubt on this wire."""
        return not remote.doubtful

    @again
    async def cancel(self, batch_id: str) -> None:
        try:
            await self._http.call("POST", f"/batches/{batch_id}/cancel")
        except CallError as error:
            if error.status != 409:  # it has ended meanwhile
                raise

    async def fetch(self, name: str, path: Path) -> None:
        await self._http.fetch(f"/files/{name}/content", path)

    @again
    async def delete(self, name: str) -> None:
        await self._http.call("DELETE", f"/files/{name}")

    def custom_id(self, line: bytes) -> str | None:
        return custom_id_in(line)

    def adapt(self, parameter: str, request: Request) -> bool:
        return self._bodies.adapt(parameter, self._bodies.body(request))

    def read(self, line: bytes) -> Reply:
        reply = read_line(line)
        if reply.kind is None:
            return reply
        if reply.kind is FailureKind.EXPIRED:
            return not_run(f"endpoint {self._name}: {reply.message}")
        return reply._replace(message=f"endpoint {self._name}: {reply.message}")

    async def close(self) -> None:
        await self._http.close()


def _azure(endpoint: Endpoint) -> BatchCalls:
    """Azure's address with OpenAI's wire: as its documentation has it, and run by nobody here."""
    base = os.environ.get("AZURE_API_BASE", "").rstrip("/")
    key, missing = key_of(endpoint, "AZURE_API_KEY")
    if not base:
        missing = missing_key(endpoint, "AZURE_API_BASE")
    return BatchCalls(endpoint.name, f"{base}/openai/v1", {} if key is None else {"api-key": key}, missing)


def _remote(batch: Mapping[str, Any]) -> Remote:
    """A batch as the provider tells it. It may be a stranger's, made by other software: whatever is in it, nothing here
    raises but for one without an id."""
    status = str(batch.get("status")).lower()
    state = STATES.get(status)
    ended = state is RemoteState.ENDED
    names = (batch.get("output_file_id"), batch.get("error_file_id"))
    codes = _codes(batch.get("errors"))
    counts = _group(batch.get("request_counts"))
    source = batch.get("input_file_id")
    return Remote(
        id=_id(batch),
        label=str(_group(batch.get("metadata")).get(LABEL, "")),
        state=state or RemoteState.UNKNOWN,
        created_at=instant(batch.get("created_at")),
        cut_short=ended and status not in {"completed", "ended"},
        queue_full=status == "failed" and bool(QUEUE_FULL & set(codes)),
        fault=", ".join(dict.fromkeys(codes))[:200],
        done=(count(counts.get("completed")) or 0) + (count(counts.get("failed")) or 0),
        source=source if isinstance(source, str) else None,
        results=tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name)),
        status=status[:40],
    )


def _id(batch: Mapping[str, Any]) -> str:
    batch_id = batch.get("id")
    if isinstance(batch_id, str) and batch_id:
        return batch_id
    raise CallError(FailureKind.BROKEN_REPLY, "a batch without an id came back", passing=True, lost=True)


def _codes(errors: Any) -> list[str]:
    """The codes of a batch's errors: under `data`, or plainly a list."""
    faults = errors.get("data") if isinstance(errors, dict) else errors
    codes = (
        [fault.get("code") for fault in faults if isinstance(fault, dict)] if isinstance(faults, list) else []
    )
    return [str(code) for code in codes if isinstance(code, str | int)]


def _group(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
