"""Batches of a provider that keeps no label with them: which is ours stands on our own disk and in their results.

Before a batch is made, a record of it (label, custom ids, the newest batch there was) is on disk; when the provider has
named it, so is its name. A record without a name is of a batch whose creation was never heard of: batches newer than
the record and of its size may be it. Which of them is, only the custom ids in its results tell, and those come when it
is over. Until then nothing is sent again, and it is not cancelled: it may be somebody else's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from thirdshift.engines.batch import local_records
from thirdshift.engines.batch.http import PIECE, BatchCalls, custom_id_in, listed
from thirdshift.engines.batch.local_records import BatchRecord, BatchRecords
from thirdshift.engines.batch.provider import CallError, Remote, RemoteState
from thirdshift.engines.errors import BadEndpointError
from thirdshift.router.values import Endpoint, FailureKind
from thirdshift.world import World

PAGE = 100
PAGES_MAX = 50
GRACE_SECONDS = 30.0
"""A creation that was never heard of may still be on its way into the list of batches."""


class RecordedBatches(ABC):
    """What such wires share. `jobs`: where batches are listed, and made unless `made_at` says otherwise; `head` is before
    the requests of a body; `cursor`: the parameter with the last batch of a page. `keep`: a folder that outlives the
    process."""

    jobs: str
    head: bytes
    cursor: str

    def __init__(
        self,
        endpoint: Endpoint,
        keep: Path | None,
        http: BatchCalls,
        grace_seconds: float | None,
        world: World,
    ) -> None:
        self._endpoint, self._http, self._world = endpoint.name, http, world
        self._records = BatchRecords(kept_at(endpoint, keep), world)
        quick = 0.2 if endpoint.emulated else GRACE_SECONDS
        self._grace = quick if grace_seconds is None else grace_seconds
        self._foreign: set[str] = set()
        """Batches that are not ours."""
        self._making = asyncio.Lock()
        """One at a time: so that a batch whose name we missed is not taken for another of ours."""

    @abstractmethod
    def _remote(self, batch: dict[str, Any], record: BatchRecord | None) -> Remote:
        """A batch as the provider tells it, which may be a stranger's."""

    @abstractmethod
    def _size(self, batch: dict[str, Any]) -> int | None:
        """How many requests it has; None where it does not say."""

    @abstractmethod
    def _results(self, batch_id: str) -> str:
        """The name of a batch's results."""

    @abstractmethod
    async def _first_id(self, remote: Remote) -> str | None:
        """The custom id of the first result; None where there are none to be had."""

    @property
    def made_at(self) -> str:
        """Where a batch is made."""
        return self.jobs

    def around(self, label: str) -> tuple[bytes, bytes]:  # noqa: ARG002
        """What is before and after the requests in the body that makes a batch."""
        return self.head, b"]}"

    async def newest(self) -> str:
        """The newest batch that there is; empty where there is none."""
        batches = listed(await self._http.get(f"{self.jobs}?limit=1"))
        return str(batches[0]["id"]) if batches else ""

    async def told(self, batch_id: str) -> dict[str, Any]:
        """A batch's object."""
        return await self._http.get(f"{self.jobs}/{batch_id}")

    async def upload(self, path: Path, label: str) -> str:  # noqa: ARG002
        """There are no files: it stays where it is until the batch is made."""
        return str(path)

    async def create(self, source: str, label: str) -> Remote:
        async with self._making:
            newest = await self.newest()
            record, size = await asyncio.to_thread(self._write, Path(source), label, newest)
            headers = {"content-type": "application/json", "content-length": str(size)}
            try:
                body = body_of(source, *self.around(label))
                made = await self._http.call(
                    "POST", self.made_at, sends_bytes=size, data=body, headers=headers
                )
            except CallError as error:
                if not error.lost:
                    await asyncio.to_thread(record.forget)
                raise
            remote = self._remote(made, record)
            await asyncio.to_thread(record.give_name, remote.id, self._world)
            return remote

    def _write(self, source: Path, label: str, newest: str) -> tuple[BatchRecord, int]:
        """(the record of a batch about to be made, the bytes of the body that makes it)."""
        with source.open("rb") as lines:
            ids = [self.custom_id(line) or "" for line in lines]
        size = sum(map(len, self.around(label))) + source.stat().st_size - 1
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
            return self._remote(await self.told(name), record)
        except CallError as error:
            if error.kind is not FailureKind.NOT_FOUND:
                raise
            # not found at the moment, or deleted, and then billed all the same: who watches it finds out
            at = datetime.fromtimestamp(record.made_at, UTC)
            return Remote(name, record.label, RemoteState.RUNNING, at, source=str(record.path))

    async def _unnamed(self, record: BatchRecord) -> Remote | None:
        """The batch that is the record's, or in doubt while that runs. None: it was never made."""
        until = self._listed_by(record)
        while True:
            doubtful = None
            async for batch in self._newer(record):
                if batch.state is RemoteState.RUNNING:
                    doubtful = replace(batch, doubtful=True)
                elif await self.claim(batch):
                    return batch
            left = until - self._world.monotonic()
            if doubtful is not None or left <= 0:
                break
            await asyncio.sleep(min(left, 1.0))
        if doubtful is None:
            await asyncio.to_thread(record.forget)
        return doubtful

    def _listed_by(self, record: BatchRecord) -> float:
        """When a batch that was made stands in the list at the latest, by the clock that nobody sets."""
        left = (
            record.made_at + self._grace - self._world.time()
        )  # of a clock that was set back, more than the grace
        return self._world.monotonic() + min(left, self._grace)

    async def _newer(self, record: BatchRecord) -> AsyncIterator[Remote]:
        """Batches that came after the record, are of its size and of no other record; newest first."""
        names = await asyncio.to_thread(self._records.names, record)
        async for batch in self._listed():
            if batch["id"] == record.newest:
                return
            known = batch["id"] in names or batch["id"] in self._foreign
            if not known and self._size(batch) in (None, record.count):
                yield self._remote(batch, record)

    async def _listed(self) -> AsyncIterator[dict[str, Any]]:
        after = ""
        for _ in range(PAGES_MAX):
            page = await self._http.get(f"{self.jobs}?limit={PAGE}{after}")
            batches = listed(page)
            for batch in batches:
                yield batch
            if not page.get("has_more") or not batches:
                return
            after = f"&{self.cursor}={quote(str(batches[-1]['id']), safe='')}"

    async def claim(self, remote: Remote) -> bool:
        record = await asyncio.to_thread(local_records.read, Path(remote.source or ""))
        custom_id = await self._first_id(remote)
        # whose results are gone nobody can tell: taken for ours, it is booked at the most it can cost and not sent again
        if custom_id is None or record.holds(custom_id):
            await asyncio.to_thread(record.give_name, remote.id, self._world)
            return True
        self._foreign.add(remote.id)
        return False

    async def look(self, remote: Remote) -> Remote:
        seen = self._remote(await self.told(remote.id), None)
        return replace(seen, label=remote.label, source=remote.source, doubtful=remote.doubtful)

    def custom_id(self, line: bytes) -> str | None:
        return custom_id_in(line)

    async def close(self) -> None:
        await self._http.close()


def kept_at(endpoint: Endpoint, keep: Path | None) -> Path:
    """The folder for what we must keep of a batch ourselves. Raises BadEndpointError where there is none."""
    if keep is None:
        raise BadEndpointError(
            f"endpoint {endpoint.name}: its provider keeps no label with a batch, so that one can only be found again "
            "by what we keep; without a folder for that none is made"
        )
    return keep / "batches"


async def body_of(source: str, head: bytes, tail: bytes) -> AsyncIterator[bytes]:
    """The body that a file of lines makes, a piece at a time: newlines become commas but for the last."""
    yield head
    with open(source, "rb") as file:  # noqa: ASYNC230 - our own spool, written a moment ago
        piece = file.read(PIECE)
        while piece:
            following = file.read(PIECE)
            yield (piece if following else piece[:-1]).replace(b"\n", b",")
            piece = following
    yield tail
