"""A part: a shard's sealed journal as Parquet, one row per ledger entry, whole or absent.

The columns up to `reasoning_tokens` are the entry's; from `reply` on they are what came back: `answer`,
`failure`, or null where nothing did. Parts stay in the run's folder until the run is purged: they are
small, and whoever lost a warehouse file can ingest them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from router.values import Answer, Failure, Intent, LedgerStatus, Outcome
from warehouse.errors import StoreError, first_line
from warehouse.files import private_dir, sync

USD = pa.decimal128(18, 9)
INSTANT = pa.timestamp("us", tz="UTC")

PART = pa.schema(
    [
        ("entry_id", pa.string()),
        ("run_id", pa.string()),
        ("shard_id", pa.string()),
        ("row", pa.int64()),
        ("request_id", pa.string()),
        ("endpoint", pa.string()),
        ("model", pa.string()),
        ("provider", pa.string()),
        ("mode", pa.string()),
        ("purpose", pa.string()),
        ("attempt", pa.int32()),
        ("reserved_usd", USD),
        ("started_at", INSTANT),
        ("price_id", pa.string()),
        ("region", pa.string()),
        ("provider_ref", pa.string()),
        ("status", pa.string()),
        ("cost_usd", USD),
        ("settled_at", INSTANT),
        ("model_reported", pa.string()),
        ("input_tokens", pa.int64()),
        ("cached_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("reasoning_tokens", pa.int64()),
        ("reply", pa.string()),
        ("output", pa.string()),
        ("reasoning", pa.string()),
        ("finish_reason", pa.string()),
        ("valid", pa.bool_()),
        ("failure_kind", pa.string()),
        ("message", pa.string()),
        ("final", pa.bool_()),
        ("logprobs", pa.string()),
    ]
)
SINCE = ("logprobs",)
"""Columns that parts of earlier versions lack."""


def entry(intent: Intent, outcome: Outcome | None) -> dict[str, Any]:
    """One row. Without an outcome the entry is `unsettled`, at the most it can have cost."""
    row: dict[str, Any] = {
        "entry_id": intent.entry_id,
        "run_id": intent.run_id,
        "shard_id": intent.shard_id,
        "row": intent.row,
        "request_id": intent.request_id,
        "endpoint": intent.endpoint,
        "model": intent.model,
        "provider": intent.provider,
        "mode": intent.mode.value,
        "purpose": intent.purpose.value,
        "attempt": intent.attempt,
        "reserved_usd": intent.reserved_usd,
        "started_at": intent.started_at,
        "price_id": intent.price_id,
        "region": intent.region,
        "provider_ref": intent.provider_ref,
        "status": LedgerStatus.UNSETTLED.value,
        "cost_usd": intent.reserved_usd,
    }
    return row if outcome is None else row | _settled(outcome, intent)


def _settled(outcome: Outcome, intent: Intent) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "status": outcome.status.value,
        "cost_usd": outcome.cost_usd,
        "settled_at": outcome.settled_at,
        "model_reported": outcome.model_reported,
        "provider_ref": outcome.provider_ref or intent.provider_ref,
        "final": outcome.final,
    }
    if outcome.usage is not None:
        columns |= {
            "input_tokens": outcome.usage.input_tokens,
            "cached_tokens": outcome.usage.cached_tokens,
            "output_tokens": outcome.usage.output_tokens,
            "reasoning_tokens": outcome.usage.reasoning_tokens,
        }
    return columns | _reply(outcome.reply)


def _reply(reply: Answer | Failure | None) -> dict[str, Any]:
    if isinstance(reply, Answer):
        return {
            "reply": "answer",
            "output": reply.output,
            "reasoning": reply.reasoning,
            "finish_reason": reply.finish_reason,
            "valid": reply.valid,
            "logprobs": reply.logprobs,
        }
    if isinstance(reply, Failure):
        return {"reply": "failure", "failure_kind": reply.kind.value, "message": reply.message}
    return {}


def write(folder: Path, name: str, entries: Iterable[dict[str, Any]]) -> Path:
    """A part called `name`, or `name-2` and so on where that is taken; on disk when this returns."""
    parts = private_dir(folder / "parts")
    return put(pa.Table.from_pylist(list(entries), schema=PART), _free(parts, name))


def put(table: pa.Table, path: Path) -> Path:
    """Write a part whole: beside, synced, renamed; mode 0600."""
    beside = path.with_name(f".{path.name}.tmp")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync(path.parent)
    return path


def _free(parts: Path, name: str) -> Path:
    path, number = parts / f"{name}.parquet", 1
    while path.exists():
        number += 1
        path = parts / f"{name}-{number}.parquet"
    return path


def of_run(folder: Path) -> list[Path]:
    """All parts in a run's folder, by name."""
    return sorted((folder / "parts").glob("[!.]*.parquet"))


def of_shard(folder: Path, shard_id: str) -> list[Path]:
    """The parts sealed from this shard's journals."""
    names = (folder / "parts").glob(f"{shard_id}*.parquet")
    return sorted(p for p in names if p.stem == shard_id or p.stem.removeprefix(f"{shard_id}-").isdigit())


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A part. StoreError if it cannot be read or is no part of ours."""
    try:
        table = pq.read_table(path, columns=columns, partitioning=None)
        return table if columns else _whole(table).select(PART.names).cast(PART)
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise StoreError(
            f"{path}: this part cannot be read ({first_line(error)}); restore it from a backup, or move it away, and "
            "its attempts will then be missing from the ledger"
        ) from error


def _whole(table: pa.Table) -> pa.Table:
    for name in SINCE:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, PART.field(name).type))
    return table
