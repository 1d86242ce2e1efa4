"""The `sql` command: a question to the warehouse, answered as DuckDB's own shell does, line by line, or as JSON."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path

import pyarrow as pa

from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import jsonable, printable, shown
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask

SHOWN_ROWS = 40
"""A box has no more rows than that, the first and the last, as in DuckDB's shell; the other modes give all."""


class Mode(StrEnum):
    """How an answer is printed."""

    BOX = "box"
    LINE = "line"
    JSON = "json"


def show_sql(query: str, warehouse: Path, *, mode: Mode = Mode.BOX) -> int:
    """Print the answer; 0. Raises UserError where the query or the file is wrong."""
    try:
        answer = ask(warehouse, query)
    except WarehouseError as error:
        raise UserError(str(error)) from error
    if mode is Mode.JSON:
        print(json.dumps({"columns": answer.column_names, "rows": answer.to_pylist()}, default=jsonable))
    elif mode is Mode.LINE:
        print("\n".join(lines(answer)))
    else:
        width = shutil.get_terminal_size().columns
        text = boxed(answer, width)
        print(text)
        if "…" in text and sys.stderr.isatty():
            print("cut to fit; -x or .mode line gives each row whole, --json all", file=sys.stderr)
    return 0


def boxed(answer: pa.Table, width: int) -> str:
    """A table of DuckDB's own drawing, no wider than `width` columns: cells are cut, and the middle ones left out."""
    import duckdb

    drawn = io.StringIO()
    with duckdb.connect() as con, redirect_stdout(drawn):
        con.from_arrow(answer).show(max_width=width, max_rows=SHOWN_ROWS)
    return "\n".join(printable(line) for line in drawn.getvalue().rstrip().splitlines())


def lines(answer: pa.Table) -> Iterator[str]:
    """A line `name = value` for each cell, an empty line between rows."""
    names = [printable(name) for name in answer.column_names]
    room = max((len(name) for name in names), default=0)
    for place, row in enumerate(zip(*(column.to_pylist() for column in answer.columns), strict=True)):
        if place:
            yield ""
        for name, value in zip(names, row, strict=True):
            yield f"{name:>{room}} = {'NULL' if value is None else shown(value)}"
