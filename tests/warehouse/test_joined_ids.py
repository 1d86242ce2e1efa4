"""Ids of several columns: distinct rows have distinct ids, of which the columns can be told again."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thirdshift.warehouse.intake.frozen import RowSource
from thirdshift.warehouse.intake.intake import InputSpec, RequestSpec, freeze
from thirdshift.warehouse.intake.joined_ids import joined, value_of

VALUES = ["".join(text) for length in range(4) for text in product("/\\a\n", repeat=length)]


def test_no_two_rows_have_one_id_and_it_can_be_taken_apart() -> None:
    rows = list(product(VALUES, VALUES))
    table = pa.table({"x": [x for x, _ in rows], "y": [y for _, y in rows]})
    ids = duckdb.connect().from_arrow(table).project(f"{joined(['x', 'y'])} as id")
    found = ids.project(f"id, {value_of('id', 1, 2)}, {value_of('id', 2, 2)}").fetchall()
    assert len({one for one, *_ in found}) == len(rows) == 85**2
    assert [(x, y) for _, x, y in found] == rows
    for (x, y), (one, *_) in zip(rows, found, strict=True):
        if "/" not in x + y:
            assert one == f"{x}/{y}"


def test_rows_that_a_separator_alone_tells_apart_are_both_accepted(tmp_path: Path) -> None:
    rows = {"x": ["a/b", "a", "a"], "y": ["c", "b/c", "c"], "prompt": ["one", "two", "three"]}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    intake = freeze(InputSpec("in.parquet", tmp_path, RequestSpec(id=("x", "y"))), tmp_path / "run")
    assert (intake.rows, intake.rejects) == (3, 0)
    asked = RowSource(tmp_path / "run", np.arange(3))
    assert [request.request_id for request in asked] == ["a\\/b/c", "a/b\\/c", "a/c"]


def test_an_id_that_an_earlier_version_froze_is_not_taken_apart_wrongly() -> None:
    expressions = ", ".join(value_of("id", place, 2) for place in (1, 2))
    query = f"select {expressions} from (values ('a/b/c'), ('a/b')) t(id)"
    assert duckdb.sql(query).fetchall() == [(None, None), ("a", "b")]
