"""OpenAI's files and batches, and what is nearly that: one program, with the row of whoever speaks it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from thirdshift.engines.batch.http import (
    BatchCalls,
    again,
    custom_id_in,
    instant,
    listed,
    of_endpoint,
)
from thirdshift.engines.batch.provider import CallError, Remote, RemoteState
from thirdshift.engines.batch.rows import base_of, key_for, limits_of, standing_of
from thirdshift.engines.core.json import dumps
from thirdshift.engines.core.transport import Reply
from thirdshift.engines.realtime.http import OPENAI_BASE, authorization, key_of, missing_key
from thirdshift.engines.registry import tier_of
from thirdshift.engines.wires.lines import read_line
from thirdshift.engines.wires.openai import Bodies
from thirdshift.engines.wires.usage import count
from thirdshift.router.tiers import BatchTier, TierState
from thirdshift.router.values import Endpoint, FailureKind, Request
from thirdshift.world import REAL, World

LABEL = "thirdshift_key"
"""Where a batch's metadata carry its label. A value may have 512 characters."""
PAGE = 100
PAGES_MAX = 50
"""As far back as a batch is looked for: 5,000 batches."""
NAMED = ".jsonl"
"""How a file's name ends that carries a label."""

ALSO_SEEN: dict[str, TierState] = {
    "queued": TierState.RUNNING,
    "pending": TierState.RUNNING,
    "running": TierState.RUNNING,
    "processing": TierState.RUNNING,
    "progress": TierState.RUNNING,
    "in_progress": TierState.RUNNING,
    "validating": TierState.RUNNING,
    "finalizing": TierState.RUNNING,
    "cancelling": TierState.RUNNING,
    "canceling": TierState.RUNNING,
    "completed": TierState.ENDED,
    "ended": TierState.ENDED,
    "expired": TierState.EXPIRED,
    "cancelled": TierState.CANCELLED,
    "canceled": TierState.CANCELLED,
    "failed": TierState.FAILED,
}
"""Words of other providers, for a server of which no row knows more."""
QUEUE_FULL = {"token_limit_exceeded", "enqueued_token_limit_exceeded", "rate_limit_exceeded"}


class OpenAIBatches:
    """`BatchWire` over HTTP, as a row of the tiers has it. `limits`: the row's, less a little for what is around a file."""

    def __init__(
        self, endpoint: Endpoint, bodies: Bodies, tier: BatchTier | None = None, world: World = REAL
    ) -> None:
        self._name, self._bodies = endpoint.name, bodies
        self._tier = tier or tier_of(endpoint)
        self._model = endpoint.wire_model
        self.limits = limits_of(self._tier)
        if endpoint.api_base is None and self._tier.name == "azure":
            self._http = _azure(endpoint, world)
            return
        key, missing = key_for(endpoint, self._tier)
        base = base_of(endpoint, self._tier) or OPENAI_BASE
        self._http = BatchCalls(endpoint.name, base, authorization(key), missing, world)

    def line(self, custom_id: str, request: Request) -> bytes:
        body = self._bodies.body(request)
        if self._tier.model_in_job:
            body.pop("model")
        if self._tier.bare_lines:
            return dumps({"custom_id": custom_id, "body": body}) + b"\n"
        return dumps({"custom_id": custom_id, "method": "POST", "url": self._tier.path, "body": body}) + b"\n"

    @again
    async def upload(self, path: Path, label: str) -> str:
        named = file_name(label) if self._tier.label == "filename" else "requests.jsonl"
        with path.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("purpose", self._tier.purpose)
            form.add_field("file", file, filename=named, content_type="application/jsonl")
            size = os.fstat(file.fileno()).st_size
            made = await self._http.call("POST", self._tier.upload, data=form, sends_bytes=size)
        return _id(made)

    async def create(self, source: str, label: str) -> Remote:
        tier = self._tier
        body: dict[str, Any] = {"endpoint": tier.path, **tier.create}
        body |= {"input_files": [source]} if tier.input_list else {"input_file_id": source}
        if tier.model_in_job:
            body["model"] = self._model
        if tier.label == "metadata":
            body["metadata"] = {LABEL: label}
        if tier.window is not None and tier.window_key == "timeout_hours":
            body["timeout_hours"] = round(tier.window.hours or 24)
        elif tier.window is not None and tier.window_key != "none":
            body[tier.window_key] = tier.window.name
        return replace(self._remote(await self._http.call("POST", tier.jobs, json=body)), label=label)

    async def find(self, prefix: str) -> AsyncIterator[Remote]:
        names = await self._file_names() if self._tier.label == "filename" else {}
        async for batch in self._listed():
            remote = self._remote(batch)
            if self._tier.label == "filename":
                remote = replace(remote, label=label_in(names.get(remote.source or "", "")))
            if remote.label.startswith(prefix):
                yield remote

    async def _listed(self) -> AsyncIterator[dict[str, Any]]:
        """Every batch of the account, newest first, page by page: by a cursor, or by number."""
        after = ""
        for number in range(PAGES_MAX):
            query = f"page={number}&page_size={PAGE}" if self._tier.input_list else f"limit={PAGE}{after}"
            page = await self._http.get_any(f"{self._tier.jobs}?{query}")
            batches = listed(page)
            for batch in batches:
                yield batch
            total = page.get("total") if isinstance(page, dict) else None
            more = (number + 1) * PAGE < (count(total) or 0) if self._tier.input_list else _has_more(page)
            if not more or not batches:
                return
            after = f"&after={quote(str(batches[-1]['id']), safe='')}"

    async def _file_names(self) -> dict[str, str]:
        files = listed(await self._http.get_any("/files"))
        return {str(file["id"]): str(file.get("filename") or "") for file in files}

    async def look(self, remote: Remote) -> Remote:
        # once: whoever looks at a batch looks again anyway
        seen = self._remote(await self._http.call("GET", f"{self._tier.jobs}/{remote.id}"))
        return seen if seen.label else replace(seen, label=remote.label)

    async def claim(self, remote: Remote) -> bool:
        """Its metadata say so: there is no doubt on this wire."""
        return not remote.doubtful

    async def cancel(self, batch_id: str) -> None:
        await self._http.cancel(f"{self._tier.jobs}/{batch_id}/cancel")

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
        return of_endpoint(self._name, read_line(line))

    async def close(self) -> None:
        await self._http.close()

    def _remote(self, told: Mapping[str, Any]) -> Remote:
        """A batch as the provider tells it. It may be a stranger's, made by other software: whatever is in it, nothing here
        raises but for one without an id."""
        batch = _group(told.get("job")) or told
        status = str(batch.get("status"))
        meant = self._tier.state_of(status) or ALSO_SEEN.get(status.casefold())
        answers = _names(batch, "output_file_id", "output_file")
        names = tuple(dict.fromkeys((*answers, *_names(batch, "error_file_id", "error_file"))))
        codes = _codes(batch.get("errors"))
        standing = standing_of(self._tier, meant, _counts(batch), results=bool(names))
        return Remote(
            id=_id(batch),
            label=str(_group(batch.get("metadata")).get(LABEL, "")),
            state=standing.state,
            created_at=instant(batch.get("created_at")),
            cut_short=standing.cut_short,
            emptied=standing.emptied,
            queue_full=meant is TierState.FAILED and bool(QUEUE_FULL & set(codes)),
            fault=", ".join(dict.fromkeys(codes))[:200],
            done=sum(_counts(batch).values()),
            source=next(iter(_names(batch, "input_file_id", "input_files")), None),
            results=names,
            unnamed=standing.state is RemoteState.ENDED and not answers and _has_answers(batch, names),
            status=status[:40],
        )


def file_name(label: str) -> str:
    """A label as the name of a file, where a batch takes no other mark. A label has `~` and `/`, a name may not."""
    return label.replace("~", "~t").replace("/", "~s") + NAMED


def label_in(name: str) -> str:
    """The label that a file's name carries; a stranger's name is none of ours."""
    return name.removesuffix(NAMED).replace("~s", "/").replace("~t", "~")


def _azure(endpoint: Endpoint, world: World) -> BatchCalls:
    """Azure's address with OpenAI's wire: as its documentation has it, and run by nobody here."""
    base = os.environ.get("AZURE_API_BASE", "").rstrip("/")
    key, missing = key_of(endpoint, "AZURE_API_KEY")
    if not base:
        missing = missing_key(endpoint, "AZURE_API_BASE")
    headers = {} if key is None else {"api-key": key}
    return BatchCalls(endpoint.name, f"{base}/openai/v1", headers, missing, world)


def _id(batch: Mapping[str, Any]) -> str:
    batch_id = batch.get("id")
    if isinstance(batch_id, str) and batch_id:
        return batch_id
    raise CallError(FailureKind.BROKEN_REPLY, "a batch without an id came back", passing=True, lost=True)


def _names(batch: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    """The names of files under these keys, each once; a list of one file counts as the file."""
    values = [batch.get(key) for key in keys]
    told = [name for value in values for name in (value if isinstance(value, list) else (value,))]
    return tuple(dict.fromkeys(name for name in told if isinstance(name, str) and name))


def _counts(batch: Mapping[str, Any]) -> dict[str, int]:
    """What was done, by name; empty where that is not told."""
    told = {**_group(batch.get("request_counts")), "completed_requests": batch.get("completed_requests")}
    names = ("completed", "failed", "completed_requests")
    return {name: value for name in names if (value := count(told.get(name))) is not None}


def _has_answers(batch: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    """Whether a batch counts requests that were answered; `completed_requests` may have failed ones in it."""
    counts = _counts(batch)
    return counts.get("completed", 0) > 0 or (not names and counts.get("completed_requests", 0) > 0)


def _has_more(page: Any) -> bool:
    return isinstance(page, dict) and bool(page.get("has_more"))


def _codes(errors: Any) -> list[str]:
    """The codes of a batch's errors: under `data`, or plainly a list."""
    faults = errors.get("data") if isinstance(errors, dict) else errors
    codes = (
        [fault.get("code") for fault in faults if isinstance(fault, dict)] if isinstance(faults, list) else []
    )
    return [str(code) for code in codes if isinstance(code, str | int)]


def _group(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
