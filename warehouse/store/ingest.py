"""The tables `ledger` and `responses` filled from parts: each entry once, its final reply beside it. DuckDB reads the files
itself. What a dead process left at a batch tier is in the ledger too, from its open journal, until its part is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.router.values import LedgerStatus
from thirdshift.warehouse.intake.sources import quoted
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.journal.journal import attempts
from thirdshift.warehouse.store.store import Warehouse

PARTS_AT_ONCE = 100
"""In one transaction. From 120,000 rows on DuckDB writes them into the file at once, not into its log first: a third less
processor time than eight parts at a time. A crash leaves them to be put in again."""

INGESTED = "select part from ingested_parts where run_id = $run_id"

KNOWN = "select count(*) from ingested_parts where run_id = $run_id and part = $part"

INCOMING = "create or replace temp view landed as from read_parquet({path}, hive_partitioning = false)"

ENDS = """
select any_value(run_id) as run_id, min(row) as least, max(row) as most, min(started_at) as first,
       max(started_at) as last, coalesce(bool_or(mode = 'batch'), false) as batched
from landed
"""

SETTLED_NOW = """
delete from ledger
where run_id = $run_id and status = 'reserved' and entry_id in (select entry_id from landed)
"""
"""Only a batch goes on without its process: parts of what was sent in real time are spared the search."""
UNDER_WAY = "delete from ledger where run_id = $run_id and status = 'reserved'"

LEDGER = """
insert into ledger by name
select {columns}, q.task, q.tag
from landed i
left join (select row, task, tag from requests where run_id = $run_id and row between $least and $most) q
    on q.row = i.row
where not exists (
    select 1 from ledger t
    where t.run_id = $run_id and t.started_at between $first and $last and t.entry_id = i.entry_id)
"""
"""A request's task and tag go with its entries, so that no view needs a join. An entry starts at the same
instant however often it is ingested, so that most of the ledger need not be searched."""

RESPONSES = """
insert into responses by name
select {columns}
from landed i
where i.reply is not null and i.final and not exists (
    select 1 from responses t where t.run_id = $run_id and t.row between $least and $most and t.entry_id = i.entry_id)
"""


def ingest_parts(warehouse: Warehouse, *paths: Path) -> int:
    """Put in the entries and replies of parts, each once: how many entries were new.

    Many parts go in together, as far as memory allows. Raises StoreError, naming the part, where one is damaged.
    """
    new = 0
    with _one_thread(warehouse):
        for start in range(0, len(paths), PARTS_AT_ONCE):
            with warehouse.transaction():
                for path in paths[start : start + PARTS_AT_ONCE]:
                    new += _ingest_checked(warehouse, path)
    return new


def ingested_parts(warehouse: Warehouse, run_id: str) -> set[str]:
    """The names of a run's parts that are in."""
    return set(warehouse.query(INGESTED, run_id=run_id)["part"].to_pylist())


def enter_under_way(warehouse: Warehouse, run_id: str, folder: Path, shard_ids: Collection[str]) -> None:
    """Enter the attempts in the open journals of `shard_ids`, which a batch tier has and no process waits for.

    They are `reserved`, at the most they can cost, until the part of their shard is ingested. What was entered so of this
    run before is replaced.
    """
    pairs = (pair for shard_id in shard_ids for pair in attempts(folder, shard_id))
    table = parts.entries(pairs, LedgerStatus.RESERVED)
    with _one_thread(warehouse), warehouse.transaction():
        warehouse.execute(UNDER_WAY, run_id=run_id)
        if table.num_rows:
            warehouse.execute("drop view if exists landed")  # of the last part
            tables = {"landed": table}
            (ends,) = warehouse.query(ENDS, tables).to_pylist()
            columns = _columns(warehouse, "ledger", table.column_names)
            del ends["batched"]
            warehouse.execute(LEDGER.format(columns=columns), tables, **ends)


def missing_parts(warehouse: Warehouse, run_id: str, folder: Path) -> list[Path]:
    """Return the parts of a run's folder that are not in."""
    known = ingested_parts(warehouse, run_id)
    return [part for part in parts.of_run(folder) if part.name not in known]


def record_part(warehouse: Warehouse, run_id: str, part: str) -> None:
    """Note that all that a part holds is in."""
    warehouse.execute("insert into ingested_parts values ($run_id, $part, now())", run_id=run_id, part=part)


@contextmanager
def _one_thread(warehouse: Warehouse) -> Iterator[None]:
    """One thread: on two busy cores DuckDB's second one makes an ingest no faster and takes twice the processor time
    (measured: 5.6 s against 8.7 to 10.7 s for a million entries).
    """
    threads = int(warehouse.scalar("select current_setting('threads')"))
    warehouse.execute("set threads = 1")
    try:
        yield
    finally:
        warehouse.execute(f"set threads = {threads}")


def _ingest_checked(warehouse: Warehouse, path: Path) -> int:
    try:
        return _ingest(warehouse, path)
    except (duckdb.Error, OSError, pa.ArrowInvalid):
        parts.read(path)  # where the part is at fault, this says so
        raise


def _ingest(warehouse: Warehouse, path: Path) -> int:
    columns = pq.read_schema(path).names
    if not {"entry_id", "run_id", "row", "final"} <= set(columns):
        parts.read(path)
    warehouse.execute(INCOMING.format(path=quoted(str(path))))
    (ends,) = warehouse.query(ENDS).to_pylist()
    key = {"run_id": ends["run_id"], "part": path.name}
    if ends["run_id"] is None or warehouse.scalar(KNOWN, **key):
        return 0
    rows = {name: ends[name] for name in ("run_id", "least", "most")}
    if ends.pop("batched"):
        warehouse.execute(SETTLED_NOW, run_id=ends["run_id"])
    new = _insert(warehouse, LEDGER, "ledger", columns, ends)
    _insert(warehouse, RESPONSES, "responses", columns, rows)
    record_part(warehouse, **key)
    return new


def _insert(
    warehouse: Warehouse, sql: str, table: str, present: Collection[str], values: Mapping[str, Any]
) -> int:
    """`present`: the columns of the part, which of an earlier version's may be fewer."""
    return int(warehouse.scalar(sql.format(columns=_columns(warehouse, table, present)), **values))


def _columns(warehouse: Warehouse, table: str, present: Collection[str]) -> str:
    return ", ".join(f"i.{column}" for column in warehouse.columns(table) if column in present)
