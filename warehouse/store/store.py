"""The warehouse: one DuckDB file, open only while something is put in or asked.

`with Warehouse.open(path) as w:` waits until the file is free. Everything that is put in goes as Arrow tables, in one
transaction each, and may be put in again: `save_*` replaces rows by their natural key, `ingest` knows its parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa

from thirdshift.warehouse.errors import StoreError, nearest
from thirdshift.warehouse.intake.sources import quoted
from thirdshift.warehouse.journal.files import private_dir
from thirdshift.warehouse.journal.run_folder import run_folder
from thirdshift.warehouse.store import ingest, locks, results
from thirdshift.warehouse.store.migrate import build, version_of
from thirdshift.warehouse.store.schema import VERSION

CHECKPOINT_AT = "256MB"
"""Log size. DuckDB's 16 MB make it rewrite row groups after every few parts: two thirds of the time of a long ingest."""

PARTS_AT_ONCE = 100
"""In one transaction. From 120,000 rows on DuckDB writes them into the file at once, not into its log first: a third less
processor time than eight parts at a time. A crash leaves them to be put in again."""

RUN_COLUMNS_OF_JSON = frozenset({"params", "outcomes", "config"})


class Warehouse:
    """Use through `open`."""

    def __init__(self, path: Path, con: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self._con = con

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, *, wait_seconds: float = locks.WAIT_SECONDS, say: locks.Say | None = None
    ) -> Iterator[Self]:
        """The warehouse, made where missing (mode 0600). `say` is told once if another process has it.

        Raises StoreError: locked for longer than `wait_seconds`, unusable, or of another schema version.
        """
        own = locks.own_lock(path)
        if not own.acquire(timeout=wait_seconds):
            raise StoreError(f"{path} was in use by another thread of this process for {wait_seconds:.0f} s")
        try:
            con = _connect(path, wait_seconds, say)
            try:
                warehouse = cls(path, con)
                warehouse._prepare()
                yield warehouse
            finally:
                con.close()
        finally:
            own.release()

    # --- runs --------------------------------------------------------------------------------------------------------

    def start_run(self, row: Mapping[str, Any]) -> None:
        """Insert or replace a run; `row` by the contract's column names. Mappings and lists become JSON."""
        self._replace("runs", pa.Table.from_pylist([_jsonable(row)]), ["run_id"])

    def update_run(self, run_id: str, **columns: Any) -> None:
        """Set columns of a run."""
        values = _jsonable(columns)
        self._check_columns("runs", values)
        settings = ", ".join(f"{name} = ${name}" for name in values)
        with self._transaction():
            self._con.execute(
                f"update runs set {settings} where run_id = $run_id", values | {"run_id": run_id}
            )

    def finish_run(self, run_id: str, *, published: bool = True, **columns: Any) -> None:
        """Set a run's end: status, outcomes, finished_at (now, unless given), spent_usd from the ledger.

        `published` puts its answers into the view `answers`; pass False when `output.when` held them back.
        """
        now = datetime.now(UTC)
        spent = self.spent(run_id)
        given = {"finished_at": now, "spent_usd": spent, "published_at": now if published else None} | columns
        self.update_run(run_id, **given)
        if "published_at" not in columns:
            self.execute(results.PUBLISHED, run_id=run_id)

    def rename_run(self, run_id: str, to: str) -> None:
        """Give all that belongs to a run another run id."""
        holders = self._con.execute(
            "select table_name from duckdb_columns() where column_name = 'run_id' and not internal and table_name in "
            "(select table_name from duckdb_tables())"
        ).fetchall()
        with self._transaction():
            for (table,) in holders:
                self._con.execute(
                    f"update {table} set run_id = $to where run_id = $run_id", {"to": to, "run_id": run_id}
                )

    def run(self, run_id: str) -> dict[str, Any] | None:
        """A run's row, JSON columns parsed; None if there is none."""
        rows = self._table("select * from runs where run_id = $run_id", run_id=run_id).to_pylist()
        if not rows:
            return None
        row: dict[str, Any] = rows[0]
        return row | {name: json.loads(row[name]) for name in RUN_COLUMNS_OF_JSON if row[name] is not None}

    # --- what the night knows beforehand ------------------------------------------------------------------------------

    def save_requests(
        self, run_id: str, folder: Path, tags: Mapping[str, str] | None = None, charge_by: Sequence[str] = ()
    ) -> int:
        """The accepted requests of a run's frozen input; how many.

        For charge-back each gets one tag, of the job's `tags` and its own metadata under the keys `charge_by`.
        """
        source = frozen_parquet(folder)
        fixed, tag = results.tag_expressions(tags or {}, charge_by)
        with self._transaction():
            self._con.execute("delete from requests where run_id = $run_id", {"run_id": run_id})
            self._con.execute(
                f"""insert into requests by name
                    select $run_id as run_id, request_id, request_hash, source_row, task, policy, metadata, row, leader,
                           {tag} as tag
                    from {source}""",
                {"run_id": run_id},
            )
            self._con.execute(f"update runs set tag = {fixed} where run_id = $run_id", {"run_id": run_id})
        return self._count("requests", run_id)

    def save_rejects(self, run_id: str, folder: Path) -> int:
        """The refused rows of a run's frozen input; how many."""
        source = f"read_parquet({quoted(str(folder / 'rejects.parquet'))})"
        with self._transaction():
            self._con.execute("delete from rejects where run_id = $run_id", {"run_id": run_id})
            self._con.execute(
                f"insert into rejects by name select $run_id as run_id, request_id, source_row, reason from {source}",
                {"run_id": run_id},
            )
        return self._count("rejects", run_id)

    def save_assignments(self, table: pa.Table) -> None:
        """Replaces the assignments of the same requests."""
        self._replace("assignments", table, ["run_id", "request_id"])

    def save_shards(self, table: pa.Table) -> None:
        self._replace("shards", table, ["run_id", "shard_id"])

    def save_workers(self, table: pa.Table) -> None:
        self._replace("workers", table, ["run_id", "worker_id"])

    def save_certificates(self, table: pa.Table) -> None:
        """Replaces all certificates of the same runs."""
        self._replace("certificates", table, ["run_id"])

    def save_prices(self, run_id: str, table: pa.Table, *, choosable: bool = True) -> None:
        """Prices in force; `run_prices` keeps which of them a run could choose among (not a judge's)."""
        self._replace("prices", table, ["price_id"])
        if not choosable:
            return
        pairs = table.select(["endpoint", "price_id"])
        of_run = pairs.append_column("run_id", pa.array([run_id] * pairs.num_rows, pa.string()))
        self._replace("run_prices", of_run, ["run_id", "price_id"])

    # --- what happened -----------------------------------------------------------------------------------------------

    def ingest(self, *paths: Path) -> int:
        """Parts' entries and replies, each once: how many entries were new. StoreError names a bad part.

        Many parts go in together, as far as memory allows.
        """
        new = 0
        with ingest.alone(self._con):
            for start in range(0, len(paths), PARTS_AT_ONCE):
                with self._transaction():
                    for path in paths[start : start + PARTS_AT_ONCE]:
                        new += ingest.ingest(self._con, path)
        return new

    def ingested(self, run_id: str) -> set[str]:
        """Names of the parts that are in."""
        names = self._con.execute(
            "select part from ingested_parts where run_id = $r", {"r": run_id}
        ).fetchall()
        return {name for (name,) in names}

    def observe(self, table: pa.Table) -> None:
        """Append scored answers."""
        with self._transaction():
            self._append("observations", table)

    def spent(self, run_id: str) -> Decimal:
        """What the ledger says the run has cost, unsettled attempts at their most."""
        value = self._value(
            "select coalesce(sum(cost_usd), 0) from ledger where run_id = $run_id", run_id=run_id
        )
        return Decimal(value)

    # --- questions of the flow ---------------------------------------------------------------------------------------

    def answered_rows(self, run_id: str) -> pa.Table:
        """Final replies: row, endpoint, purpose, reply, failure_kind, valid, input_tokens, output_tokens, cost_usd."""
        return self._table(results.ANSWERED, run_id=run_id)

    def unscored(
        self, run_id: str, columns: Sequence[str] = ("reference", "response_schema")
    ) -> Iterator[pa.RecordBatch]:
        """Replies not scored yet, by row and endpoint, for every request (duplicates each with their own reference).

        Columns: row, request_id, task, endpoint, model, purpose, reply, output, finish_reason, valid, failure_kind,
        settled_at, and `columns` of the frozen input. A failure is among them until it is observed too.
        """
        frozen = frozen_parquet(run_folder(self.path, run_id))
        yield from self.stream(results.unscored(frozen, columns), run_id=run_id)

    def compose_results(self, run_id: str, served: pa.Table) -> int:
        """Make the run's results anew from `served` (row, endpoint | null, optionally error): how many rows.

        Rows are leaders'; their duplicates get a copy with attempts 0. A null endpoint takes the last failure, whoever
        it came from; without any, `error` says why nothing was sent.
        """
        with self._transaction(), self._registered(served=results.served(served)):
            self._con.execute("delete from results where run_id = $run_id", {"run_id": run_id})
            self._con.execute(results.COMPOSE, {"run_id": run_id})
        return self._count("results", run_id)

    def history(self, job: str | None = None, since: datetime | None = None) -> pa.Table:
        """Observations of earlier nights with the tokens they took, for priors."""
        return self._table(results.HISTORY, job=job, since=since)

    def query(self, sql: str, tables: Mapping[str, pa.Table] | None = None, **values: Any) -> pa.Table:
        """Any question of ours; values are bound by name, `tables` can be selected from."""
        with self._registered(**tables or {}):
            return self._table(sql, **values)

    def execute(self, sql: str, tables: Mapping[str, pa.Table] | None = None, **values: Any) -> None:
        """A change of ours, in a transaction of its own."""
        with self._transaction(), self._registered(**tables or {}):
            self._con.execute(sql, values)

    def stream(self, sql: str, rows: int = 8192, **values: Any) -> Iterator[pa.RecordBatch]:
        """The same in batches of so many `rows`, on a cursor of its own."""
        cursor = self._con.cursor()
        cursor.execute(locks.QUIET)
        cursor.execute("set timezone = 'UTC'")
        try:
            yield from cursor.execute(sql, values).to_arrow_reader(rows)
        finally:
            cursor.close()

    def response_schemas(self, run_id: str) -> list[dict[str, Any]]:
        """The distinct response schemas of a run's frozen input."""
        source = frozen_parquet(run_folder(self.path, run_id))
        texts = self._con.execute(
            f"select distinct response_schema from {source} where response_schema is not null order by 1"
        ).fetchall()
        return [json.loads(text) for (text,) in texts]

    # --- the machinery -----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            found = version_of(self._con)
        except ValueError as error:
            raise StoreError(
                f"{self.path} is a DuckDB file of something else; name another with --warehouse"
            ) from error
        if found is None:
            with self._transaction():
                build(self._con)
        elif found > VERSION:
            raise StoreError(
                f"{self.path} has schema {found}; this thirdshift knows up to {VERSION}: upgrade it"
            )
        elif found < VERSION:
            raise StoreError(
                f"{self.path} has schema {found}, this thirdshift writes {VERSION}: run "
                f"`thirdshift migrate --warehouse {self.path}` (it makes a backup first)"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._con.execute("begin")
        try:
            yield
            self._con.execute("commit")
        except BaseException as error:
            with suppress(duckdb.Error):  # after a full disk DuckDB does not even roll back; reopening does
                self._con.execute("rollback")
            if isinstance(error, duckdb.Error):
                raise StoreError(locks.unwritten(self.path, error)) from error
            raise
        _make_private(self.path)

    @contextmanager
    def _registered(self, **tables: pa.Table) -> Iterator[None]:
        for name, table in tables.items():
            self._con.register(name, table)
        try:
            yield
        finally:
            for name in tables:
                self._con.unregister(name)

    def _replace(self, name: str, table: pa.Table, key: Sequence[str]) -> None:
        """Rows of `table` instead of those with the same key."""
        self._check_columns(name, table.column_names)
        same = " and ".join(f"t.{column} = i.{column}" for column in key)
        with self._transaction():
            with self._registered(incoming=table.select(list(key))):
                self._con.execute(
                    f"delete from {name} t where exists (select 1 from incoming i where {same})"
                )
            self._append(name, table)

    def _append(self, name: str, table: pa.Table) -> None:
        """Columns that the table has and `table` lacks become null; one that it has not is a StoreError."""
        self._check_columns(name, table.column_names)
        with self._registered(incoming=table):
            self._con.execute(f"insert into {name} by name select * from incoming")

    def _check_columns(self, table: str, columns: Iterable[str]) -> None:
        known = self._columns(table)
        for column in columns:
            if column not in known:
                raise StoreError(f'table {table} has no column "{column}"{nearest(column, known)}')

    def _columns(self, name: str) -> list[str]:
        rows = self._con.execute(
            "select column_name from duckdb_columns() where table_name = $name order by column_index",
            {"name": name},
        ).fetchall()
        return [column for (column,) in rows]

    def _count(self, name: str, run_id: str) -> int:
        return int(self._value(f"select count(*) from {name} where run_id = $run_id", run_id=run_id))

    def _value(self, sql: str, **values: Any) -> Any:
        row = self._con.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def _table(self, sql: str, **values: Any) -> pa.Table:
        return self._con.execute(sql, values).to_arrow_table()


def _connect(path: Path, wait_seconds: float, say: locks.Say | None) -> duckdb.DuckDBPyConnection:
    if not path.parent.exists():
        try:
            private_dir(path.parent)
        except OSError as error:
            raise StoreError(f"{path}: its folder cannot be made: {error.strerror}") from error
    mask = os.umask(0o077)  # DuckDB makes the file and its log as the mask says
    try:
        con = locks.connect(path, wait_seconds=wait_seconds, say=say)
    finally:
        os.umask(mask)
    con.execute("set timezone = 'UTC'")
    con.execute("set python_enable_replacements = false")
    con.execute(f"set checkpoint_threshold = {quoted(CHECKPOINT_AT)}")
    _make_private(path)
    return con


def _make_private(path: Path) -> None:
    for name in (path, path.with_name(path.name + ".wal")):
        try:
            os.chmod(name, 0o600)
        except OSError:
            continue  # no log yet, or another's file: opening it has told us whether we may write


def frozen_parquet(folder: Path) -> str:
    """The frozen input as a relation."""
    return f"read_parquet({quoted(str(folder / 'requests' / 'part-*.parquet'))}, hive_partitioning = false)"


def _jsonable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value, default=str) if isinstance(value, (Mapping, list, tuple)) else value
        for name, value in row.items()
    }
