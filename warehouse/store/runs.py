"""The table `runs`: a row per run, from its start to its published end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from thirdshift.warehouse.store import ledger
from thirdshift.warehouse.store.store import Warehouse

JSON_COLUMNS = frozenset({"params", "outcomes", "config"})

AFTER_THE_LAST = """
update runs set published_at = greatest(published_at, (
    select max(o.published_at) + interval 1 microsecond from runs o
    where o.job is not distinct from runs.job and o.run_id <> runs.run_id))
where run_id = $run_id and published_at is not null
"""
"""Whoever reads `answers` by its watermark would miss a run that a clock set back has published before the last one."""

TABLES_BY_RUN = """
select table_name from duckdb_columns()
where column_name = 'run_id' and not internal and table_name in (select table_name from duckdb_tables())
"""


def start(warehouse: Warehouse, row: Mapping[str, Any]) -> None:
    """Insert or replace a run; `row` by the contract's column names. Mappings and lists become JSON."""
    warehouse.replace("runs", pa.Table.from_pylist([_jsonable(row)]), ["run_id"])


def get(warehouse: Warehouse, run_id: str) -> dict[str, Any] | None:
    """A run's row, JSON columns parsed; None if there is none."""
    rows = warehouse.query("select * from runs where run_id = $run_id", run_id=run_id).to_pylist()
    if not rows:
        return None
    row: dict[str, Any] = rows[0]
    return row | {name: json.loads(row[name]) for name in JSON_COLUMNS if row[name] is not None}


def update(warehouse: Warehouse, run_id: str, **columns: Any) -> None:
    """Set columns of a run; mappings and lists become JSON. Raises StoreError: there is no such column."""
    values = _jsonable(columns)
    warehouse.check_columns("runs", values)
    settings = ", ".join(f"{name} = ${name}" for name in values)
    warehouse.execute(f"update runs set {settings} where run_id = $run_id", run_id=run_id, **values)


def finish(warehouse: Warehouse, run_id: str, *, published: bool = True, **columns: Any) -> None:
    """Set a run's end: status, outcomes, finished_at (now, unless given), spent_usd and unsettled_usd from the ledger.

    `published` puts its answers into the view `answers`; pass False when `output.when` held them back.
    """
    now = datetime.now(UTC)
    cost = ledger.spending(warehouse, run_id)
    spent = {"spent_usd": cost.settled_usd, "unsettled_usd": cost.unsettled_usd}
    given = {"finished_at": now, **spent, "published_at": now if published else None} | columns
    update(warehouse, run_id, **given)
    if "published_at" not in columns:
        warehouse.execute(AFTER_THE_LAST, run_id=run_id)


def rename(warehouse: Warehouse, run_id: str, to: str) -> None:
    """Give all that belongs to a run another run id, in every table."""
    with warehouse.transaction():
        for table in warehouse.query(TABLES_BY_RUN)["table_name"].to_pylist():
            warehouse.execute(f"update {table} set run_id = $to where run_id = $run_id", to=to, run_id=run_id)


def _jsonable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value, default=str) if isinstance(value, (Mapping, list, tuple)) else value
        for name, value in row.items()
    }
