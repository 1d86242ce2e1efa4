"""OpenRouter's batches: requests inline, one model a batch, results in pages. It keeps no label (`recorded`), and nothing
that has begun can be cancelled.

As its reference and its SDK's types have it (api-reference/batch, BatchObject, BatchResult, BatchResultsPageResponse).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from thirdshift.engines.batch.http import BatchCalls, again, instant, of_endpoint
from thirdshift.engines.batch.inline import whole, write_lines
from thirdshift.engines.batch.local_records import BatchRecord
from thirdshift.engines.batch.provider import CallError, Remote, RemoteState
from thirdshift.engines.batch.recorded import PAGES_MAX, RecordedBatches
from thirdshift.engines.batch.rows import base_of, key_for, limits_of, standing_of
from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.realtime.http import authorization
from thirdshift.engines.registry import tier_of
from thirdshift.engines.wires.lines import read_line
from thirdshift.engines.wires.openai import Bodies
from thirdshift.engines.wires.usage import count
from thirdshift.router.values import Endpoint, FailureKind, Request
from thirdshift.world import REAL, World


class OpenRouterBatches(RecordedBatches):
    """`BatchWire` over HTTP."""

    jobs, cursor = "/batches", "after"

    def __init__(
        self,
        endpoint: Endpoint,
        bodies: Bodies,
        keep: Path | None,
        world: World = REAL,
        *,
        grace_seconds: float | None = None,
    ) -> None:
        self._tier, self._bodies = tier_of(endpoint), bodies
        key, missing = key_for(endpoint, self._tier)
        http = BatchCalls(endpoint.name, base_of(endpoint, self._tier), authorization(key), missing, world)
        super().__init__(endpoint, keep, http, grace_seconds, world)
        # the service reads as it comes: endpoint and model stand before the requests
        head = {"endpoint": self._tier.path, "model": endpoint.wire_model, "requests": []}
        self.head = dumps(head).removesuffix(b"]}")
        self.limits = limits_of(self._tier)

    def line(self, custom_id: str, request: Request) -> bytes:
        return dumps({"custom_id": custom_id, "body": self._bodies.body(request)}) + b"\n"

    async def told(self, batch_id: str) -> dict[str, Any]:
        """A batch's object, which holds its results once it is over."""
        return await whole(self._http, f"{self.jobs}/{batch_id}", self._endpoint)

    async def _first_id(self, remote: Remote) -> str | None:
        try:
            page = await whole(self._http, f"{self._results(remote.id)}?limit=1", self._endpoint)
        except CallError as error:
            if error.kind is not FailureKind.NOT_FOUND:
                raise
            return None
        return next((str(item["custom_id"]) for item in _items(page) if item.get("custom_id")), None)

    async def cancel(self, batch_id: str) -> None:
        """Do nothing: there is no cancelling. It is waited for a while, and then booked at the most it can cost."""

    async def fetch(self, name: str, path: Path) -> None:
        """Results, page by page; or what we kept of a batch's requests."""
        if not name.startswith(self.jobs):
            await asyncio.to_thread(shutil.copyfile, name, path)
            return
        cursor = ""
        for number in range(PAGES_MAX):
            page = await whole(self._http, f"{name}{cursor}", self._endpoint)
            await asyncio.to_thread(write_lines, path, _items(page), more=number > 0)
            following = page.get("next_cursor")
            if not page.get("has_more") or not following:
                return
            cursor = f"?cursor={quote(str(following), safe='')}"

    @again
    async def delete(self, name: str) -> None:
        """A batch with its results; what stands on our disk stays until the run's folder goes."""
        if name.startswith(self.jobs):
            await self._http.call("DELETE", name.removesuffix("/results"))

    def adapt(self, parameter: str, request: Request) -> bool:
        return self._bodies.adapt(parameter, self._bodies.body(request))

    def read(self, line: bytes) -> Reply:
        return of_endpoint(self._endpoint, read_line(line))

    def _results(self, batch_id: str) -> str:
        return f"{self.jobs}/{batch_id}/results"

    def _size(self, batch: dict[str, Any]) -> int | None:
        return _counts(batch).get("total")

    def _remote(self, batch: dict[str, Any], record: BatchRecord | None) -> Remote:
        if not batch.get("id"):
            words = f"endpoint {self._endpoint}: a batch without an id came back"
            raise CallError(FailureKind.BROKEN_REPLY, words, passing=True, lost=True)
        status, counts = str(batch.get("status")), _counts(batch)
        meant, done = self._tier.state_of(status), {name: n for name, n in counts.items() if name != "total"}
        standing = standing_of(self._tier, meant, done, results=any(done.values()))
        over = standing.state is RemoteState.ENDED and not standing.emptied
        error = batch.get("error")
        return Remote(
            id=str(batch["id"]),
            label="" if record is None else record.label,
            state=standing.state,
            created_at=instant(batch.get("created_at")),
            cut_short=standing.cut_short,
            emptied=standing.emptied,
            fault=str(error.get("code") or "invalid")[:200] if isinstance(error, dict) else "",
            done=sum(done.values()),
            source=None if record is None else str(record.path),
            results=(self._results(str(batch["id"])),) if over else (),
            status=status[:40],
        )


def _items(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    data = page.get("data")
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def _counts(batch: Mapping[str, Any]) -> dict[str, int]:
    counts = batch.get("request_counts")
    return {name: count(value) or 0 for name, value in counts.items()} if isinstance(counts, dict) else {}
