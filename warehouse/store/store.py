"""The warehouse: one DuckDB file, open only while something is put in or asked.

`with Warehouse.open(path) as warehouse:` waits until the file is free. What belongs to one table is in that table's module
beside this one, as functions over a `Warehouse`: `runs.update(warehouse, run_id, planned_usd=…)`. Everything that is put
in goes as Arrow tables, in one transaction each, and may be put in again: rows are replaced by their natural key.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from thirdshift.warehouse.errors import StoreError, nearest
from thirdshift.warehouse.intake.sources import quoted
from thirdshift.warehouse.journal.files import private_dir
from thirdshift.warehouse.store import instances, locks
from thirdshift.warehouse.store.migrate import build, version_of
from thirdshift.warehouse.store.schema import VERSION

_opened: dict[str, Warehouse] = {}
"""By real path; an entry is touched only by the thread that holds the file's lock."""


class Warehouse:
    """One open warehouse file: its connection, transactions and queries. Use through `open`."""

    def __init__(self, path: Path, con: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self._con = con
        self._in_transaction = False
        self._streams: list[Generator[pa.RecordBatch, None, None]] = []

    @classmethod
    @contextmanager
    def open(
        cls, path: Path, *, wait_seconds: float = locks.WAIT_SECONDS, say: locks.Say | None = None
    ) -> Iterator[Warehouse]:
        """The warehouse, made where missing (mode 0600). `say` is told once if another process has it. A thread that has
        it open already gets the same one: opening takes as long as many a question.

        Raises StoreError: locked for longer than `wait_seconds`, unusable, or of another schema version.
        """
        place = os.path.realpath(path)
        with locks.held(path, wait_seconds):
            if (outer := _opened.get(place)) is not None:
                yield outer
                return
            con = _connect(path, wait_seconds, say)
            try:
                warehouse = _opened[place] = cls(path, con)
                warehouse._prepare()
                yield warehouse
            finally:
                _opened.pop(place, None)
                warehouse._end_streams()
                instances.put_back(path, con)

    def query(self, sql: str, tables: Mapping[str, pa.Table] | None = None, **values: Any) -> pa.Table:
        """The rows of one select; `values` are bound by name, `tables` can be selected from."""
        with self._registered(**tables or {}):
            return self._con.execute(sql, values).to_arrow_table()

    def scalar(self, sql: str, **values: Any) -> Any:
        """The first value of the first row, None where there is no row. For an insert: how many rows it added."""
        row = next(
            iter(self._con.execute(sql, values).fetchall()), None
        )  # DuckDB 2.0 minds a result left half read
        return None if row is None else row[0]

    def stream(self, sql: str, rows: int = 8192, **values: Any) -> Iterator[pa.RecordBatch]:
        """The rows of one select in batches of so many `rows`, on a cursor of its own; it ends with the warehouse."""
        batches = self._batches(sql, rows, values)
        self._streams.append(batches)
        return batches

    def _batches(
        self, sql: str, rows: int, values: Mapping[str, Any]
    ) -> Generator[pa.RecordBatch, None, None]:
        with closing(self._con.cursor()) as cursor:
            instances.settle(cursor)
            cursor.execute(f"use {instances.DATABASE}")
            with closing(cursor.execute(sql, values).to_arrow_reader(rows)) as reader:
                yield from reader

    def execute(self, sql: str, tables: Mapping[str, pa.Table] | None = None, **values: Any) -> None:
        """Change something, in the transaction that is open or in one of its own."""
        with self.transaction(), self._registered(**tables or {}):
            self._con.execute(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes made within, or none of them; one opened within another is part of it.

        Raises StoreError: DuckDB could not write it (a full disk, say).
        """
        if self._in_transaction:
            yield
            return
        self._con.execute("begin")
        self._in_transaction = True
        try:
            yield
            self._con.execute("commit")
        except BaseException as error:
            with suppress(duckdb.Error):  # after a full disk DuckDB does not even roll back; reopening does
                self._con.execute("rollback")
            if isinstance(error, duckdb.Error):
                raise StoreError(locks.unwritten(self.path, error)) from error
            raise
        finally:
            self._in_transaction = False
        _make_private(self.path)

    def replace(self, name: str, rows: pa.Table, key: Sequence[str]) -> None:
        """Put `rows` into the table `name` instead of those with the same `key` columns.

        Raises StoreError: the table lacks one of the columns.
        """
        self.check_columns(name, rows.column_names)
        same = " and ".join(f"t.{column} = i.{column}" for column in key)
        stale = f"delete from {name} t where exists (select 1 from incoming i where {same})"
        with self.transaction():
            self.execute(stale, {"incoming": rows.select(list(key))})
            self.append(name, rows)

    def append(self, name: str, rows: pa.Table) -> None:
        """Add `rows` to the table `name`; columns of the table that `rows` lacks become null.

        Raises StoreError: the table lacks one of the columns.
        """
        self.check_columns(name, rows.column_names)
        self.execute(f"insert into {name} by name select * from incoming", {"incoming": rows})

    def check_columns(self, table: str, columns: Iterable[str]) -> None:
        """Raise StoreError where the table lacks one of `columns`."""
        known = self.columns(table)
        for column in columns:
            if column not in known:
                raise StoreError(f'table {table} has no column "{column}"{nearest(column, known)}')

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns, in order."""
        sql = "select column_name from duckdb_columns() where table_name = $table order by column_index"
        names: list[str] = self.query(sql, table=table)["column_name"].to_pylist()
        return names

    def count(self, table: str, run_id: str) -> int:
        """How many rows of a table are a run's."""
        return int(self.scalar(f"select count(*) from {table} where run_id = $run_id", run_id=run_id))

    def _end_streams(self) -> None:
        """One that was left half read would keep the file open."""
        for batches in self._streams:
            batches.close()

    def _prepare(self) -> None:
        try:
            version = version_of(self._con)
        except ValueError as error:
            raise StoreError(
                f"{self.path} is a DuckDB file of something else; name another with --warehouse"
            ) from error
        if version is None:
            with self.transaction():
                build(self._con)
        elif version > VERSION:
            raise StoreError(
                f"{self.path} has schema {version}; this thirdshift knows up to {VERSION}: upgrade it"
            )
        elif version < VERSION:
            raise StoreError(
                f"{self.path} has schema {version}, this thirdshift writes {VERSION}: run "
                f"`thirdshift migrate --warehouse {self.path}` (it makes a backup first)"
            )

    @contextmanager
    def _registered(self, **tables: pa.Table) -> Iterator[None]:
        for name, table in tables.items():
            self._con.register(name, table)
        try:
            yield
        finally:
            for name in tables:
                self._con.unregister(name)


def _connect(path: Path, wait_seconds: float, say: locks.Say | None) -> duckdb.DuckDBPyConnection:
    if not path.parent.exists():
        try:
            private_dir(path.parent)
        except OSError as error:
            raise StoreError(f"{path}: its folder cannot be made: {error.strerror}") from error
    instance = instances.take(path)
    mask = os.umask(0o077)  # DuckDB makes the file and its log as the mask says
    try:
        locks.attach(path, instance, wait_seconds=wait_seconds, say=say)
    except BaseException:
        instance.close()
        raise
    finally:
        os.umask(mask)
    _make_private(path)
    return instance


def _make_private(path: Path) -> None:
    for name in (path, path.with_name(path.name + ".wal")):
        try:
            os.chmod(name, 0o600)
        except OSError:
            continue  # no log yet, or another's file: opening it has shown whether we may write


def frozen_parquet(folder: Path) -> str:
    """The frozen input as a relation."""
    return f"read_parquet({quoted(str(folder / 'requests' / 'part-*.parquet'))}, hive_partitioning = false)"
