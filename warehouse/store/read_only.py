"""Several questions of our own at one moment: the file is opened read-only once, and values are bound.

What people ask goes through `thirdshift.warehouse.store.ask`, which lets nothing but one question in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from thirdshift.warehouse.errors import StoreError
from thirdshift.warehouse.store import locks
from thirdshift.warehouse.store.migrate import version_of
from thirdshift.warehouse.store.schema import VERSION

Question = Callable[..., pa.Table]
"""(sql, **bound) → the answer."""


@contextmanager
def reading(
    path: Path, *, wait_seconds: float = locks.WAIT_SECONDS, say: locks.Say | None = None
) -> Iterator[Question]:
    """The warehouse for questions that belong together.

    Raises StoreError: no warehouse there, of another schema version, or locked for longer than `wait_seconds`.
    """
    if not path.exists():
        raise StoreError(
            f"{path}: there is no warehouse; run a job first, or name another file with --warehouse"
        )
    own = locks.own_lock(path)
    if not own.acquire(timeout=wait_seconds):
        raise StoreError(f"{path} was in use by another thread of this process for {wait_seconds:.0f} s")
    try:
        con = locks.connect(path, read_only=True, wait_seconds=wait_seconds, say=say)
        try:
            _check(con, path)
            yield lambda sql, **bound: con.execute(sql, bound).to_arrow_table()
        finally:
            con.close()
    finally:
        own.release()


def _check(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    try:
        found = version_of(con)
    except ValueError:
        found = None
    if found is None:
        raise StoreError(f"{path} is no warehouse of ours; name another with --warehouse")
    if found != VERSION:
        remedy = "upgrade thirdshift" if found > VERSION else f"run: thirdshift migrate --warehouse {path}"
        raise StoreError(f"{path} has schema {found}, this thirdshift reads {VERSION}: {remedy}")
