"""Parts: a shard's sealed journal as Parquet, one row per ledger entry, whole or absent.

The columns up to `reasoning_tokens` are the entry's; from `reply` on they are what came back: `answer`,
`failure`, or null where nothing did. Parts stay in the run's folder until the run is purged: they are
small, and whoever lost a warehouse file can ingest them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.router.values import Answer, Failure, Intent, LedgerStatus, Outcome, Usage
from thirdshift.warehouse.errors import StoreError, first_line
from thirdshift.warehouse.journal.files import private_dir, sync
from thirdshift.world import REAL, World

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
        ("service_tier", pa.string()),
        ("note", pa.string()),
    ]
)
BEYOND_USD, BEYOND_TOKENS = 10**8, 2**62
"""No attempt costs so much or uses so many: such a figure would not fit its column, and nothing could be sealed."""
FEW_ROWS = 256
"""So few are written in half the time without zstd's contexts and dictionaries, one for each column."""
SINCE = ("logprobs", "service_tier", "note")
"""Columns that parts of earlier versions lack."""


def entries(
    pairs: Iterable[tuple[Intent, Outcome | None]], without_outcome: LedgerStatus = LedgerStatus.UNSETTLED
) -> pa.Table:
    """Return PART's rows, one per attempt; one without an outcome has the status `without_outcome` and costs the most
    that it can."""
    rows = [_of_intent(intent) + _of_outcome(intent, outcome, without_outcome) for intent, outcome in pairs]
    columns = zip(*rows, strict=True) if rows else ((),) * len(PART)
    named = dict(zip((*_OF_INTENT, *_OF_OUTCOME), columns, strict=True))
    return pa.table([pa.array(named[field.name], field.type) for field in PART], schema=PART)


_OF_INTENT = (
    "entry_id", "run_id", "shard_id", "row", "request_id", "endpoint", "model", "provider", "mode", "purpose", "attempt",
    "reserved_usd", "started_at", "price_id", "region",
)  # fmt: skip
_USAGE = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
_ANSWER = ("output", "reasoning", "finish_reason", "valid", "logprobs")
_OF_OUTCOME = (
    "status", "cost_usd", "provider_ref", "settled_at", "model_reported", "final", "service_tier", "note", *_USAGE,
    "reply", *_ANSWER,
    "failure_kind", "message",
)  # fmt: skip
_of_intent = attrgetter(*_OF_INTENT)
_of_usage, _of_answer = attrgetter(*_USAGE), attrgetter(*_ANSWER)
_NO_USAGE, _NO_ANSWER = (None,) * len(_USAGE), (None,) * len(_ANSWER)


def _of_outcome(intent: Intent, outcome: Outcome | None, without_outcome: LedgerStatus) -> tuple[Any, ...]:
    if outcome is None:
        nothing = (None, None, None, None, None, *_NO_USAGE, None, *_NO_ANSWER, None, None)
        return (without_outcome, intent.reserved_usd, intent.provider_ref, *nothing)
    if outcome.cost_usd >= BEYOND_USD or not _fit(
        outcome.usage
    ):  # journals of versions that believed every figure
        note = f"usage not believed: {outcome.usage}"
        outcome = outcome._replace(
            status=LedgerStatus.UNSETTLED, cost_usd=intent.reserved_usd, usage=None, note=note
        )
    head = (
        outcome.status, outcome.cost_usd, outcome.provider_ref or intent.provider_ref, outcome.settled_at,
        outcome.model_reported, outcome.final, outcome.service_tier, outcome.note,
    )  # fmt: skip
    usage = _NO_USAGE if outcome.usage is None else _of_usage(outcome.usage)
    reply = outcome.reply
    if isinstance(reply, Answer):
        return (*head, *usage, "answer", *_of_answer(reply), None, None)
    if isinstance(reply, Failure):
        return (*head, *usage, "failure", *_NO_ANSWER, reply.kind, reply.message)
    return (*head, *usage, None, *_NO_ANSWER, None, None)


def _fit(usage: Usage | None) -> bool:
    return usage is None or max(_of_usage(usage)) < BEYOND_TOKENS


def write(folder: Path, name: str, table: pa.Table, world: World = REAL) -> Path:
    """Write a part called `name`, or `name-2` and so on where that is taken; it is on disk when this returns."""
    return put(table, free(private_dir(folder / "parts"), name), world)


def put(table: pa.Table, path: Path, world: World = REAL) -> Path:
    """Write a part beside its place, sync it and rename it, so that it is whole or absent; mode 0600."""
    return put_all([table], path, world, few=table.num_rows <= FEW_ROWS)


def put_all(tables: Iterable[pa.Table], path: Path, world: World = REAL, *, few: bool = False) -> Path:
    """Write one part of the rows of several tables, as `put` does; one of them in memory at a time. `few`: rows, all in
    all."""
    beside = path.with_name(f".{path.name}.tmp")
    compression = "lz4" if few else "zstd"
    try:
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            with pq.ParquetWriter(file, PART, compression=compression, use_dictionary=not few) as writer:
                for table in tables:
                    writer.write_table(table)
            file.flush()
            world.sync(file.fileno())
        world.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)  # a full disk wants it back
    sync(path.parent, world)
    return path


def free(parts: Path, name: str) -> Path:
    """Return where a new part called `name` can lie in the folder `parts`."""
    path, number = parts / f"{name}.parquet", 1
    while path.exists():
        number += 1
        path = parts / f"{name}-{number}.parquet"
    return path


def of_run(folder: Path) -> list[Path]:
    """Return all parts in a run's folder, by name."""
    return sorted((folder / "parts").glob("[!.]*.parquet"))


def of_shard(folder: Path, shard_id: str) -> list[Path]:
    """Return the parts sealed from this shard's journals."""
    names = (folder / "parts").glob(f"{shard_id}*.parquet")
    return sorted(p for p in names if p.stem == shard_id or p.stem.removeprefix(f"{shard_id}-").isdigit())


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a part. Raises StoreError: it cannot be read, or is no part of ours."""
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
