"""Parts' way into the tables: each entry once, its final reply beside it. DuckDB reads the files itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.warehouse.intake.sources import quoted
from thirdshift.warehouse.journal import parts

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
instant however often it is told, which spares most of the ledger the look."""

RESPONSES = """
insert into responses by name
select {columns}
from landed i
where i.reply is not null and i.final and not exists (
    select 1 from responses t where t.run_id = $run_id and t.row between $least and $most and t.entry_id = i.entry_id)
"""


@contextmanager
def alone(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """One thread: on two busy cores DuckDB's second one makes an ingest no faster and takes twice the processor time
    (measured: 5.6 s against 8.7 to 10.7 s for a million entries).
    """
    row = con.execute("select current_setting('threads')").fetchone()
    con.execute("set threads = 1")
    try:
        yield
    finally:
        con.execute(f"set threads = {1 if row is None else int(row[0])}")


def ingest(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Within the caller's transaction: how many entries of the part at `path` were new.

    Raises StoreError, naming the part, where it is damaged.
    """
    try:
        return _ingest(con, path)
    except (duckdb.Error, OSError, pa.ArrowInvalid):
        parts.read(path)  # where the part is at fault, this says so
        raise


def _ingest(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    held = pq.read_schema(path).names
    if not {"entry_id", "run_id", "row", "final"} <= set(held):
        parts.read(path)
    con.execute(INCOMING.format(path=quoted(str(path))))
    ends = con.execute(ENDS).to_arrow_table().to_pylist()[0]
    key = {"run_id": ends["run_id"], "part": path.name}
    known = con.execute(KNOWN, key).fetchone()
    if ends["run_id"] is None or (known is not None and known[0]):
        return 0
    rows = {name: ends[name] for name in ("run_id", "least", "most")}
    new = _insert(con, LEDGER, "ledger", held, ends)
    _insert(con, RESPONSES, "responses", held, rows)
    con.execute("insert into ingested_parts values ($run_id, $part, now())", key)
    return new


def _insert(
    con: duckdb.DuckDBPyConnection, sql: str, table: str, held: Collection[str], values: dict[str, Any]
) -> int:
    """`held`: the columns of the part, which of an earlier version's may be fewer."""
    names = con.execute(
        "select column_name from duckdb_columns() where table_name = $name", {"name": table}
    ).fetchall()
    columns = ", ".join(f"i.{name}" for (name,) in names if name in held)
    row = con.execute(sql.format(columns=columns), values).fetchone()
    return 0 if row is None else int(row[0])
