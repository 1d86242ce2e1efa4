"""Anthropic's message batches: no files, no metadata (`recorded`), and results as lines of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thirdshift.engines.batch.http import BatchCalls, again, instant, not_run, paced
from thirdshift.engines.batch.local_records import BatchRecord
from thirdshift.engines.batch.provider import CallError, Remote
from thirdshift.engines.batch.recorded import RecordedBatches
from thirdshift.engines.batch.rows import limits_of, state_of
from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.realtime.http import key_of
from thirdshift.engines.realtime.reply_size import CALL_BYTES, pieces
from thirdshift.engines.registry import tier_of
from thirdshift.engines.wires.anthropic import AnthropicBodies, read_result
from thirdshift.engines.wires.usage import count
from thirdshift.router.values import Endpoint, FailureKind, Request
from thirdshift.world import REAL, World

BASE = "https://api.anthropic.com"
BASE_VARIABLES = ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL")
"""Where another address may stand: the names that litellm and Anthropic's own client know."""
BATCHES = "/messages/batches"
VERSION = "2023-06-01"


class AnthropicBatches(RecordedBatches):
    """`BatchWire` over HTTP."""

    jobs, cursor = BATCHES, "after_id"
    head = b'{"requests":['

    def __init__(
        self,
        endpoint: Endpoint,
        keep: Path | None,
        world: World = REAL,
        *,
        grace_seconds: float | None = None,
    ) -> None:
        key, missing = key_of(endpoint, None if endpoint.emulated else "ANTHROPIC_API_KEY")
        headers = {"anthropic-version": VERSION, **({} if key is None else {"x-api-key": key})}
        http = BatchCalls(endpoint.name, _base(endpoint), headers, missing, world)
        super().__init__(endpoint, keep, http, grace_seconds, world)
        self._bodies, self._tier = AnthropicBodies(endpoint), tier_of(endpoint)
        self.limits = limits_of(self._tier)

    def line(self, custom_id: str, request: Request) -> bytes:
        return dumps({"custom_id": custom_id, "params": self._bodies.body(request)}) + b"\n"

    @again
    async def _first_id(self, remote: Remote) -> str | None:
        head = b""
        try:
            async with self._http.request("GET", remote.results[0]) as response:
                await self._http.check(response)
                async for piece in paced(pieces(response), self._world):
                    head += piece
                    if b"\n" in head or len(head) > CALL_BYTES:
                        break
        except CallError as error:
            if error.kind is not FailureKind.NOT_FOUND:
                raise
        return self.custom_id(head.partition(b"\n")[0])

    async def cancel(self, batch_id: str) -> None:
        await self._http.cancel(f"{BATCHES}/{batch_id}/cancel")

    async def fetch(self, name: str, path: Path) -> None:
        if name.startswith(BATCHES):
            await self._http.fetch(name, path)
        else:
            await asyncio.to_thread(shutil.copyfile, name, path)

    @again
    async def delete(self, name: str) -> None:
        """A batch with its results; what stands on our disk stays until the run's folder goes."""
        if name.startswith(BATCHES):
            await self._http.call("DELETE", name.removesuffix("/results"))

    def adapt(self, parameter: str, request: Request) -> bool:  # noqa: ARG002
        """Nothing is learnt on this wire: what its models take is in the price map."""
        return False

    def read(self, line: bytes) -> Reply:
        return read_result(line, lambda kind: not_run(f"endpoint {self._endpoint}: {kind} in its batch"))

    def _results(self, batch_id: str) -> str:
        return f"{BATCHES}/{batch_id}/results"

    def _size(self, batch: dict[str, Any]) -> int | None:
        return sum(_counts(batch).values())

    def _remote(self, batch: dict[str, Any], record: BatchRecord | None) -> Remote:
        if not batch.get("id"):
            raise CallError(
                FailureKind.BROKEN_REPLY, "a batch without an id came back", passing=True, lost=True
            )
        counts, status = _counts(batch), str(batch.get("processing_status"))
        meant = self._tier.state_of(status)
        return Remote(
            id=str(batch["id"]),
            label="" if record is None else record.label,
            state=state_of(meant),
            created_at=instant(batch.get("created_at")),
            cut_short=bool(counts.get("canceled") or counts.get("expired")),
            done=counts.get("succeeded", 0) + counts.get("errored", 0),
            source=None if record is None else str(record.path),
            results=(self._results(str(batch["id"])),) if status == "ended" else (),
            status=status[:40],
        )


def _base(endpoint: Endpoint) -> str:
    if endpoint.api_base is not None:
        return endpoint.api_base.rstrip("/")
    base = next((os.environ[name] for name in BASE_VARIABLES if os.environ.get(name)), BASE)
    return base.rstrip("/").removesuffix("/v1") + "/v1"


def _counts(batch: Mapping[str, Any]) -> dict[str, int]:
    counts = batch.get("request_counts")
    return {name: count(value) or 0 for name, value in counts.items()} if isinstance(counts, dict) else {}
