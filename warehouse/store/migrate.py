"""Bring a warehouse of an earlier version up to this program's, with a copy beside it first."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb

from thirdshift.warehouse.errors import StoreError, first_line
from thirdshift.warehouse.journal.files import sync
from thirdshift.warehouse.store import locks
from thirdshift.warehouse.store.schema import MIGRATIONS, TABLES, VERSION
from thirdshift.warehouse.store.views import VIEWS


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did."""

    before: int
    after: int
    backup: Path | None
    """None where nothing had to be done."""
    steps: tuple[str, ...]
    """What each version brought, a sentence each."""


def build(con: duckdb.DuckDBPyConnection, version: int = VERSION) -> None:
    """Make the tables of `version` in an empty database; with its views if it is the latest."""
    con.execute(TABLES)
    con.execute("insert into meta values (1)")
    upgrade(con, 1, version)


def upgrade(con: duckdb.DuckDBPyConnection, before: int, after: int = VERSION) -> None:
    """Take all steps from one version to another; the caller's transaction holds them together."""
    for version in range(before + 1, after + 1):
        con.execute(MIGRATIONS[version][1])
    con.execute("update meta set schema_version = $version", {"version": after})
    if after == VERSION:
        con.execute(VIEWS)


def version_of(con: duckdb.DuckDBPyConnection) -> int | None:
    """Return the schema version; None if the database is empty. Raises ValueError where its tables are not ours."""
    tables = {name for (name,) in con.execute("select table_name from duckdb_tables()").fetchall()}
    if not tables:
        return None
    if "meta" not in tables:
        raise ValueError("tables of something else")
    ((found,),) = con.execute(
        "select max(schema_version) from meta"
    ).fetchall()  # 2.0 minds a result left half read
    return int(found)


def migrate(
    path: Path, *, wait_seconds: float = locks.WAIT_SECONDS, say: locks.Say | None = None
) -> Migrated:
    """Bring the warehouse at `path` to VERSION. The copy is complete and on disk before anything is changed.

    Raises StoreError: no warehouse there, a later version, or a step that fails, and then nothing was changed.
    """
    if not path.exists():
        raise StoreError(f"{path}: there is no warehouse to migrate")
    with locks.own_lock(path):
        before = _checkpointed(path, wait_seconds, say)
        if before == VERSION:
            return Migrated(before, VERSION, None, ())
        backup = _copy(path, path.with_name(f"{path.name}.v{before}.backup"))
        con = locks.connect(path, wait_seconds=wait_seconds, say=say)
        try:
            _upgrade_whole(con, path, before, backup)
        finally:
            con.close()
    steps = tuple(MIGRATIONS[version][0] for version in range(before + 1, VERSION + 1))
    return Migrated(before, VERSION, backup, steps)


def _checkpointed(path: Path, wait_seconds: float, say: locks.Say | None) -> int:
    """Return the version, after moving the log into the file, so that a copy of the file is all of it."""
    con = locks.connect(path, wait_seconds=wait_seconds, say=say)
    try:
        version = version_of(con)
        con.execute("checkpoint")
    except ValueError as error:
        raise StoreError(f"{path} is a DuckDB file of something else") from error
    finally:
        con.close()
    if version is None:
        raise StoreError(f"{path} is empty: the next run makes its tables")
    if version > VERSION:
        raise StoreError(f"{path} has schema {version}; this thirdshift knows up to {VERSION}: upgrade it")
    return version


def _copy(path: Path, backup: Path) -> Path:
    beside = backup.with_name(backup.name + ".tmp")
    try:
        shutil.copyfile(path, beside)
        os.chmod(beside, 0o600)
        sync(beside)
        beside.replace(backup)
        sync(backup.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StoreError(
            f"{backup}: the backup cannot be written: {error.strerror}; nothing was changed"
        ) from error
    return backup


def _upgrade_whole(con: duckdb.DuckDBPyConnection, path: Path, before: int, backup: Path) -> None:
    con.execute("begin")
    try:
        upgrade(con, before)
    except duckdb.Error as error:
        con.execute("rollback")
        raise StoreError(
            f"{path}: not migrated, nothing was changed: {first_line(error)}; a copy is {backup}"
        ) from error
    con.execute("commit")
