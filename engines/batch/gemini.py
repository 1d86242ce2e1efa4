"""Gemini's batches with requests inline: found by their display name, read as a list that keeps the order of the
requests. What expires keeps nothing.

As its reference has it (api/batch-api: GenerateContentBatch, InlinedRequest, InlinedResponse, Operation). Answers are
known by the key that went with each request; where none comes back with a key, by their place, if none is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from thirdshift.engines.batch.http import BatchCalls, again, custom_id_in, instant, of_endpoint
from thirdshift.engines.batch.inline import whole, write_lines
from thirdshift.engines.batch.local_records import BatchRecord
from thirdshift.engines.batch.provider import CallError, Remote, RemoteState
from thirdshift.engines.batch.recorded import PAGE, PAGES_MAX, RecordedBatches
from thirdshift.engines.batch.rows import base_of, key_for, limits_of, standing_of
from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.registry import tier_of
from thirdshift.engines.wires.gemini import GeminiBodies, key_of_line, line_of, read_result
from thirdshift.engines.wires.usage import count
from thirdshift.router.values import Endpoint, FailureKind, Request
from thirdshift.world import REAL, World

LISTED = "operations(name,metadata(displayName,state,createTime,batchStats)),nextPageToken"
"""What is asked of the list, by the parameter that all of Google's APIs take: no answers of others' batches."""


class GeminiBatches(RecordedBatches):
    """`BatchWire` over HTTP. A batch's id here is its name at the API, `batches/…`."""

    jobs, cursor = "/batches", "pageToken"

    def __init__(
        self,
        endpoint: Endpoint,
        keep: Path | None,
        world: World = REAL,
        *,
        grace_seconds: float | None = None,
    ) -> None:
        self._tier, self._model = tier_of(endpoint), endpoint.wire_model
        key, missing = key_for(endpoint, self._tier)
        headers = {} if key is None else {"x-goog-api-key": key}
        http = BatchCalls(endpoint.name, base_of(endpoint, self._tier), headers, missing, world)
        super().__init__(endpoint, keep, http, grace_seconds, world)
        self._bodies, self.limits = GeminiBodies(endpoint), limits_of(self._tier)

    @property
    def made_at(self) -> str:
        return f"/models/{quote(self._model, safe='')}:batchGenerateContent"

    def around(self, label: str) -> tuple[bytes, bytes]:
        requests: dict[str, Any] = {"requests": {"requests": []}}
        batch = {"batch": {"displayName": display_name(label), "inputConfig": requests}}
        head, end, tail = dumps(batch).partition(b"]")
        return head, end + tail

    def line(self, custom_id: str, request: Request) -> bytes:
        return line_of(custom_id, self._bodies.body(request))

    def custom_id(self, line: bytes) -> str | None:
        return custom_id_in(line) or key_of_line(line)

    async def newest(self) -> str:
        """Nothing: a batch is found by its display name."""
        return ""

    async def told(self, batch_id: str) -> dict[str, Any]:
        """A batch's operation, which holds its answers once it is over."""
        return await whole(self._http, f"/{batch_id}", self._endpoint)

    async def _unnamed(self, record: BatchRecord) -> Remote | None:
        """The batch that has the record's display name; None: it was never made."""
        wanted, until = display_name(record.label), self._listed_by(record)
        while True:
            async for operation in self._listed():
                if _metadata(operation).get("displayName") == wanted:
                    remote = self._remote(operation, record)
                    await asyncio.to_thread(record.give_name, remote.id, self._world)
                    return remote
            left = until - self._world.monotonic()
            if left <= 0:
                await asyncio.to_thread(record.forget)
                return None
            await asyncio.sleep(min(left, 1.0))

    async def _listed(self) -> AsyncIterator[dict[str, Any]]:
        after = ""
        for _ in range(PAGES_MAX):
            page = await self._http.get(f"{self.jobs}?pageSize={PAGE}&fields={quote(LISTED)}{after}")
            operations = page.get("operations")
            for operation in operations if isinstance(operations, list) else ():
                if isinstance(operation, dict) and operation.get("name"):
                    yield operation
            token = page.get("nextPageToken")
            if not token:
                return
            after = f"&pageToken={quote(str(token), safe='')}"

    async def claim(self, remote: Remote) -> bool:
        """Its display name says so: there is no doubt on this wire."""
        return not remote.doubtful

    async def _first_id(self, remote: Remote) -> str | None:  # noqa: ARG002
        return None

    async def cancel(self, batch_id: str) -> None:
        await self._http.cancel(f"/{batch_id}:cancel")

    async def fetch(self, name: str, path: Path) -> None:
        """A batch's answers, a line each with the key of its request; or what we kept of the requests."""
        if not name.startswith("batches/"):
            await asyncio.to_thread(shutil.copyfile, name, path)
            return
        operation = await self.told(name)
        record = next((one for one in self._records.under("") if one.name == name), None)
        ids = [] if record is None else await asyncio.to_thread(_ids, record.path)
        await asyncio.to_thread(write_lines, path, keyed(answers_of(operation), ids))

    @again
    async def delete(self, name: str) -> None:
        """A batch with its answers; what stands on our disk stays until the run's folder goes."""
        if name.startswith("batches/"):
            await self._http.call("DELETE", f"/{name}")

    def adapt(self, parameter: str, request: Request) -> bool:  # noqa: ARG002
        """Nothing is learnt on this wire."""
        return False

    def read(self, line: bytes) -> Reply:
        return of_endpoint(self._endpoint, read_result(line))

    def _results(self, batch_id: str) -> str:
        return batch_id

    def _size(self, batch: dict[str, Any]) -> int | None:
        return _counts(batch).get("requestCount")

    def _remote(self, batch: dict[str, Any], record: BatchRecord | None) -> Remote:
        """From an operation. One that is done with an error was never run."""
        name, metadata, counts = batch.get("name"), _metadata(batch), _counts(batch)
        if not name:
            words = f"endpoint {self._endpoint}: a batch without a name came back"
            raise CallError(FailureKind.BROKEN_REPLY, words, passing=True, lost=True)
        status = str(metadata.get("state"))
        meant = self._tier.state_of(status)
        done = {
            key: n for key, n in counts.items() if key in ("successfulRequestCount", "failedRequestCount")
        }
        standing = standing_of(self._tier, meant, done, results=bool(answers_of(batch)))
        over = standing.state is RemoteState.ENDED and not standing.emptied
        error = batch.get("error")
        return Remote(
            id=str(name),
            label="" if record is None else record.label,
            state=standing.state,
            created_at=instant(metadata.get("createTime")),
            cut_short=standing.cut_short,
            emptied=standing.emptied,
            fault=str(error.get("code"))[:200] if isinstance(error, dict) else "",
            done=sum(done.values()),
            source=None if record is None else str(record.path),
            results=(str(name),) if over else (),
            status=status[:40],
        )


def display_name(label: str) -> str:
    """A label as a batch's display name: how long one may be is not told."""
    return f"thirdshift-{hashlib.blake2b(label.encode(), digest_size=16).hexdigest()}"


def answers_of(operation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items of a batch's answers, in either nesting that is documented."""
    for holder in (operation.get("response"), _metadata(operation).get("output")):
        inlined = holder.get("inlinedResponses") if isinstance(holder, dict) else None
        inlined = inlined.get("inlinedResponses") if isinstance(inlined, dict) else inlined
        if isinstance(inlined, list):
            return [item if isinstance(item, dict) else {} for item in inlined]
    return []


def keyed(answers: list[dict[str, Any]], ids: list[str]) -> list[dict[str, Any]]:
    """Answers with the custom ids of their requests: by their keys, or by place where none has one and none is missing."""
    keys = [_key(item) for item in answers]
    if not any(keys) and len(answers) == len(ids):
        keys = list(ids)
    return [{**item, "custom_id": key} for item, key in zip(answers, keys, strict=True)]


def _key(item: Mapping[str, Any]) -> str | None:
    metadata = item.get("metadata")
    key = metadata.get("key") if isinstance(metadata, dict) else None
    return key if isinstance(key, str) else None


def _ids(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.readline()
        return [custom_id_in(line) or "" for line in file]


def _metadata(operation: Mapping[str, Any]) -> dict[str, Any]:
    metadata = operation.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _counts(operation: Mapping[str, Any]) -> dict[str, int]:
    stats = _metadata(operation).get("batchStats")
    return {name: count(value) or 0 for name, value in stats.items()} if isinstance(stats, dict) else {}
