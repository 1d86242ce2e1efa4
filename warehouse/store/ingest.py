"""The tables `ledger` and `responses` filled from parts: each entry once, its final reply beside it. DuckDB reads the files
itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.warehouse.intake.sources import quoted
from thirdshift.warehouse.journal import parts
from thirdshift.warehouse.store.store import Warehouse

PARTS_AT_ONCE = 100
"""In one transaction. From 120,000 rows on DuckDB writes them into the file at once, not into its log first: a third less
processor time than eight parts at a time. A crash leaves them to be put in again."""

INGESTED = "select part from ingested_parts where run_id = $run_id"

KNOWN = "select count(*) from ingested_parts where run_id = $run_id and part = $part"

INCOMING = "create or replace temp view landed as from read_parquet({path}, hive_partitioning = false)"

ENDS = """
select any_value(run_id) as run_id, min(row) as least, max(row) as most, min(started_at) as first,
       max(started_at) as last
from landed
"""

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


def missing_parts(warehouse: Warehouse, run_id: str, folder: Path) -> list[Path]:
    """Return the parts of a run's folder that are not in."""
    known = ingested_parts(warehouse, run_id)
    return [part for part in parts.of_run(folder) if part.name not in known]


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
    new = _insert(warehouse, LEDGER, "ledger", columns, ends)
    _insert(warehouse, RESPONSES, "responses", columns, rows)
    warehouse.execute("insert into ingested_parts values ($run_id, $part, now())", **key)
    return new


def _insert(
    warehouse: Warehouse, sql: str, table: str, present: Collection[str], values: Mapping[str, Any]
) -> int:
    """`held`: the columns of the part, which of an earlier version's may be fewer."""
    columns = ", ".join(f"i.{column}" for column in warehouse.columns(table) if column in present)
    return int(warehouse.scalar(sql.format(columns=columns), **values))
