"""A part's way into the tables: each entry once, its final reply beside it."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.parts import PART

KNOWN = "select count(*) from ingested_parts where run_id = $run_id and part = $part"

LEDGER = """
insert into ledger by name
select {columns}, q.task, q.tag
from incoming i
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
from incoming i
where i.reply is not null and i.final and not exists (
    select 1 from responses t where t.run_id = $run_id and t.row between $least and $most and t.entry_id = i.entry_id)
"""


def ingest(con: duckdb.DuckDBPyConnection, table: pa.Table, part: str) -> int:
    """Within the caller's transaction: how many entries of `table`, which is not empty, were new."""
    run_id = table["run_id"][0].as_py()
    key = {"run_id": run_id, "part": part}
    known = con.execute(KNOWN, key).fetchone()
    if known is not None and known[0]:
        return 0
    con.register("incoming", table)
    try:
        new = _insert(con, LEDGER, "ledger", {"run_id": run_id} | _rows(table) | _instants(table))
        _insert(con, RESPONSES, "responses", {"run_id": run_id} | _rows(table))
    finally:
        con.unregister("incoming")
    con.execute("insert into ingested_parts values ($run_id, $part, now())", key)
    return new


def _insert(con: duckdb.DuckDBPyConnection, sql: str, table: str, values: dict[str, Any]) -> int:
    names = con.execute(
        "select column_name from duckdb_columns() where table_name = $name", {"name": table}
    ).fetchall()
    columns = ", ".join(f"i.{name}" for (name,) in names if name in PART.names)
    row = con.execute(sql.format(columns=columns), values).fetchone()
    return 0 if row is None else int(row[0])


def _rows(table: pa.Table) -> dict[str, Any]:
    ends = pc.min_max(table["row"]).as_py()
    return {"least": ends["min"], "most": ends["max"]}


def _instants(table: pa.Table) -> dict[str, Any]:
    ends = pc.min_max(table["started_at"]).as_py()
    return {"first": ends["min"], "last": ends["max"]}
