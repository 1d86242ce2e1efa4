"""Anthropic's message batches: no files, no metadata; which batch is ours stands on our own disk and in its results.

Before a batch is made, a record of it (label, custom ids, the newest batch there was) is on disk; when the provider has
named it, so is its name. A record without a name is of a batch whose creation was never heard of: batches newer than
the record and of its size may be it. Which of them is, only the custom ids in its results tell, and those come when it
is over. Until then nothing is sent again, and it is not cancelled: it may be somebody else's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thirdshift.engines.batch import local_records
from thirdshift.engines.batch.http import (
    PIECE,
    BatchCalls,
    again,
    custom_id_in,
    instant,
    listed,
    not_run,
    paced,
)
from thirdshift.engines.batch.local_records import BatchRecord, BatchRecords
from thirdshift.engines.batch.provider import BatchLimits, CallError, Remote, RemoteState
from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.errors import BadEndpointError
from thirdshift.engines.realtime.http import key_of
from thirdshift.engines.realtime.reply_size import CALL_BYTES, pieces
from thirdshift.engines.wires.anthropic import AnthropicBodies, read_result
from thirdshift.engines.wires.usage import count
from thirdshift.router.values import Endpoint, FailureKind, Request

BASE = "https://api.anthropic.com"
BASE_VARIABLES = ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL")
"""Where another address may stand: the names that litellm and Anthropic's own client know."""
BATCHES = "/messages/batches"
VERSION = "2023-06-01"
PAGE = 100
PAGES_MAX = 50
GRACE_SECONDS = 30.0
"""A creation that was never heard of may still be on its way into the list of batches."""
HEAD, TAIL = b'{"requests":[', b"]}"


class AnthropicBatches:
    """`BatchWire` over HTTP. `keep`: a folder that outlives the process. `limits`: Anthropic's, less a little."""

    limits = BatchLimits(requests=100_000, bytes=255_000_000)

    def __init__(self, endpoint: Endpoint, keep: Path | None, *, grace_seconds: float | None = None) -> None:
        if keep is None:
            raise BadEndpointError(
                f"endpoint {endpoint.name}: Anthropic keeps no label with a batch, so that one can only be found again "
                "by what we keep; without a folder for that none is made"
            )
        self._endpoint = endpoint.name
        self._bodies = AnthropicBodies(endpoint)
        self._records = BatchRecords(keep / "batches")
        quick = 0.2 if endpoint.emulated else GRACE_SECONDS
        self._grace = quick if grace_seconds is None else grace_seconds
        key, missing = key_of(endpoint, None if endpoint.emulated else "ANTHROPIC_API_KEY")
        headers = {"anthropic-version": VERSION, **({} if key is None else {"x-api-key": key})}
        self._http = BatchCalls(endpoint.name, _base(endpoint), headers, missing)
        self._foreign: set[str] = set()
        """Batches that are not ours."""
        self._making = asyncio.Lock()
        """One at a time: so that a batch whose name we missed is not taken for another of ours."""

    def line(self, custom_id: str, request: Request) -> bytes:
        return dumps({"custom_id": custom_id, "params": self._bodies.body(request)}) + b"\n"

    async def upload(self, path: Path) -> str:
        """There are no files: it stays where it is until the batch is made."""
        return str(path)

    async def create(self, source: str, label: str) -> Remote:
        async with self._making:
            page = await self._http.get(f"{BATCHES}?limit=1")
            batches = listed(page)
            newest = str(batches[0]["id"]) if batches else ""
            record, size = await asyncio.to_thread(self._write, Path(source), label, newest)
            headers = {"content-type": "application/json", "content-length": str(size)}
            try:
                made = await self._http.call(
                    "POST", BATCHES, sends_bytes=size, data=_body(source), headers=headers
                )
            except CallError as error:
                if not error.lost:
                    await asyncio.to_thread(record.forget)
                raise
            remote = _remote(made, record)
            await asyncio.to_thread(record.give_name, remote.id)
            return remote

    def _write(self, source: Path, label: str, newest: str) -> tuple[BatchRecord, int]:
        """(the record of a batch about to be made, the bytes of the body that makes it)."""
        with source.open("rb") as lines:
            ids = [self.custom_id(line) or "" for line in lines]
        size = len(HEAD) + source.stat().st_size - 1 + len(TAIL)
        return self._records.write(label, ids, newest), size

    async def find(self, prefix: str) -> AsyncIterator[Remote]:
        for record in await asyncio.to_thread(lambda: list(self._records.under(prefix))):
            name = record.name
            if name is not None:
                remote: Remote | None = await self._named(record, name)
            else:
                async with self._making:  # what is being made now has its name first
                    remote = await self._unnamed(record)
            if remote is not None:
                yield remote

    async def _named(self, record: BatchRecord, name: str) -> Remote:
        try:
            return _remote(await self._http.get(f"{BATCHES}/{name}"), record)
        except CallError as error:
            if error.kind is not FailureKind.NOT_FOUND:
                raise
            # deleted: its results cannot be had any more, and what they said was billed all the same
            at, results = datetime.fromtimestamp(record.made_at, UTC), (_results(name),)
            return Remote(name, record.label, RemoteState.ENDED, at, source=str(record.path), results=results)

    async def _unnamed(self, record: BatchRecord) -> Remote | None:
        """The batch that is the record's, or in doubt while that runs. None: it was never made."""
        while True:
            doubtful = None
            async for batch in self._newer(record):
                if batch.state is RemoteState.RUNNING:
                    doubtful = replace(batch, doubtful=True)
                elif await self.claim(batch):
                    return batch
            left = record.made_at + self._grace - time.time()
            if doubtful is not None or left <= 0:
                break
            await asyncio.sleep(min(left, 1.0))
        if doubtful is None:
            await asyncio.to_thread(record.forget)
        return doubtful

    async def _newer(self, record: BatchRecord) -> AsyncIterator[Remote]:
        """Batches that came after the record, are of its size and nobody's we know; newest first."""
        names = await asyncio.to_thread(self._records.names)
        async for batch in self._listed():
            if batch["id"] == record.newest:
                return
            known = batch["id"] in names or batch["id"] in self._foreign
            if not known and _all_of(batch) == record.count:
                yield _remote(batch, record)

    async def _listed(self) -> AsyncIterator[dict[str, Any]]:
        after = ""
        for _ in range(PAGES_MAX):
            page = await self._http.get(f"{BATCHES}?limit={PAGE}{after}")
            batches = listed(page)
            for batch in batches:
                yield batch
            if not page.get("has_more") or not batches:
                return
            after = f"&after_id={batches[-1]['id']}"

    async def claim(self, remote: Remote) -> bool:
        record = await asyncio.to_thread(local_records.read, Path(remote.source or ""))
        custom_id = await self._first_id(remote)
        if custom_id is not None and record.holds(custom_id):
            await asyncio.to_thread(record.give_name, remote.id)
            return True
        self._foreign.add(remote.id)
        return False

    @again
    async def _first_id(self, remote: Remote) -> str | None:
        """The custom id in the first line of a batch's results; None where there are none to be had."""
        head = b""
        try:
            async with self._http.request("GET", remote.results[0]) as response:
                await self._http.check(response)
                async for piece in paced(pieces(response)):
                    head += piece
                    if b"\n" in head or len(head) > CALL_BYTES:
                        break
        except CallError as error:
            if error.kind is not FailureKind.NOT_FOUND:
                raise
        return self.custom_id(head.partition(b"\n")[0])

    async def look(self, remote: Remote) -> Remote:
        seen = _remote(await self._http.get(f"{BATCHES}/{remote.id}"), None)
        return replace(seen, label=remote.label, source=remote.source, doubtful=remote.doubtful)

    @again
    async def cancel(self, batch_id: str) -> None:
        try:
            await self._http.call("POST", f"{BATCHES}/{batch_id}/cancel")
        except CallError as error:
            if error.status not in (400, 409):  # it has ended meanwhile
                raise

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

    def custom_id(self, line: bytes) -> str | None:
        return custom_id_in(line)

    def adapt(self, parameter: str, request: Request) -> bool:  # noqa: ARG002
        """Nothing is learnt on this wire: what its models take is in the price map."""
        return False

    def read(self, line: bytes) -> Reply:
        return read_result(line, lambda kind: not_run(f"endpoint {self._endpoint}: {kind} in its batch"))

    async def close(self) -> None:
        await self._http.close()


async def _body(source: str) -> AsyncIterator[bytes]:
    """The body that a file of lines makes, a piece at a time: newlines become commas but for the last."""
    yield HEAD
    with open(source, "rb") as file:  # noqa: ASYNC230 - our own spool, written a moment ago
        piece = file.read(PIECE)
        while piece:
            following = file.read(PIECE)
            yield (piece if following else piece[:-1]).replace(b"\n", b",")
            piece = following
    yield TAIL


def _base(endpoint: Endpoint) -> str:
    if endpoint.api_base is not None:
        return endpoint.api_base.rstrip("/")
    base = next((os.environ[name] for name in BASE_VARIABLES if os.environ.get(name)), BASE)
    return base.rstrip("/").removesuffix("/v1") + "/v1"


def _results(batch_id: str) -> str:
    return f"{BATCHES}/{batch_id}/results"


def _counts(batch: Mapping[str, Any]) -> dict[str, int]:
    counts = batch.get("request_counts")
    return {name: count(value) or 0 for name, value in counts.items()} if isinstance(counts, dict) else {}


def _all_of(batch: Mapping[str, Any]) -> int:
    return sum(_counts(batch).values())


STATES = {"in_progress": RemoteState.RUNNING, "canceling": RemoteState.RUNNING, "ended": RemoteState.ENDED}


def _remote(batch: Mapping[str, Any], record: BatchRecord | None) -> Remote:
    """A batch as the provider tells it, which may be a stranger's."""
    if not batch.get("id"):
        raise CallError(FailureKind.BROKEN_REPLY, "a batch without an id came back", passing=True, lost=True)
    counts, status = _counts(batch), str(batch.get("processing_status"))
    return Remote(
        id=str(batch["id"]),
        label="" if record is None else record.label,
        state=STATES.get(status, RemoteState.UNKNOWN),
        created_at=instant(batch.get("created_at")),
        cut_short=bool(counts.get("canceled") or counts.get("expired")),
        done=counts.get("succeeded", 0) + counts.get("errored", 0),
        source=None if record is None else str(record.path),
        results=(_results(str(batch["id"])),) if status == "ended" else (),
        status=status[:40],
    )
