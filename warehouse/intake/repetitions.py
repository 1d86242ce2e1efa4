"""Which rows of an input repeat an earlier one: by their id, or by what they ask.

First it is seen which hashes more than one row has, which takes 8 bytes a row; then DuckDB looks at those, and can spill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thirdshift.router.tokens.prefixes import repeated

AT_ONCE = 8192
"""Rows whose hashes are read together."""
HASHES = "select hash({key}) as hash from staged where flaw is null"
FIRST = """
    with alike as (select source_row, {key} from staged
                   where flaw is null and hash({key}) in (select hash from shared) {but}),
         repeated as (select {key}, min(source_row) as first from alike group by {key} having count(*) > 1)
    select a.source_row, r.first from alike a join repeated r using ({key})
    where a.source_row > r.first
    order by 1
"""
"""Accepted rows that repeat an earlier one, each with the first. `shared`: hashes that more than one row has."""


@dataclass(frozen=True, slots=True)
class Repetitions:
    """Rows of the source, ascending, each with the first that it repeats."""

    ids: Mapping[str, NDArray[np.int64]]
    """Columns `source_row` and `first`."""
    requests: Mapping[str, NDArray[np.int64]]
    """The same of what asks the same; empty where each is answered for itself."""

    def __bool__(self) -> bool:
        return bool(self.ids["source_row"].size or self.requests["source_row"].size)


NO_REPETITIONS: Mapping[str, NDArray[np.int64]] = {
    name: np.zeros(0, np.int64) for name in ("source_row", "first")
}


def find_repetitions(con: duckdb.DuckDBPyConnection, rows: int, dedupe: bool) -> Repetitions:
    """Look through the relation `staged`, of so many rows, for ids that repeat, and with `dedupe` for like requests."""
    ids = _repeated(con, "request_id", rows)
    if not dedupe:
        return Repetitions(ids, NO_REPETITIONS)
    but = ""
    if ids["source_row"].size:
        con.register("left_out", pa.table({"source_row": ids["source_row"]}))
        but = "and source_row not in (select source_row from left_out)"
    return Repetitions(ids, _repeated(con, "request_hash", rows, but))


def _repeated(
    con: duckdb.DuckDBPyConnection, key: str, rows: int, but: str = ""
) -> Mapping[str, NDArray[np.int64]]:
    shared = _shared_hashes(con, key, rows)
    if not shared.size:
        return NO_REPETITIONS
    con.register("shared", pa.table({"hash": shared}))
    return _columns(con, FIRST.format(key=key, but=but))


def _shared_hashes(con: duckdb.DuckDBPyConnection, key: str, rows: int) -> NDArray[np.uint64]:
    """The hashes of a column that more than one acceptable row has: of those that repeat nothing, next to none."""
    hashes, count = np.empty(rows, np.uint64), 0
    for batch in con.sql(HASHES.format(key=key)).to_arrow_reader(AT_ONCE):
        hashes[count : count + batch.num_rows] = batch.column(0).to_numpy()
        count += batch.num_rows
    ordered = hashes[:count]
    ordered.sort()
    return repeated(ordered)


def _columns(con: duckdb.DuckDBPyConnection, query: str) -> dict[str, NDArray[np.int64]]:
    """The columns of row numbers that a query gives."""
    table = con.execute(query).to_arrow_table()
    return {name: table[name].to_numpy().astype(np.int64, copy=False) for name in table.column_names}
