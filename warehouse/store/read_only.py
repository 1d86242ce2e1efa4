"""Several queries of our own at one moment: the file is opened read-only once, and values are bound.

What people ask goes through `thirdshift.warehouse.store.ask`, which lets nothing but one query in.
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
"""A function (sql, **bound) → rows."""


@contextmanager
def reading(
    path: Path, *, wait_seconds: float = locks.WAIT_SECONDS, say: locks.Say | None = None
) -> Iterator[Question]:
    """Open the warehouse for queries that belong together; gives a function from SQL and bound values to rows.

    Raises StoreError: no warehouse there, of another schema version, or locked for longer than `wait_seconds`.
    """
    with locks.opened_read_only(path, wait_seconds=wait_seconds, say=say) as con:
        _check(con, path)
        yield lambda sql, **bound: con.execute(sql, bound).to_arrow_table()


def _check(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    try:
        version = version_of(con)
    except ValueError:
        version = None
    if version is None:
        raise StoreError(f"{path} is no warehouse of ours; name another with --warehouse")
    if version != VERSION:
        remedy = "upgrade thirdshift" if version > VERSION else f"run: thirdshift migrate --warehouse {path}"
        raise StoreError(f"{path} has schema {version}, this thirdshift reads {VERSION}: {remedy}")
