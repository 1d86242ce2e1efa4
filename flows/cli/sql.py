"""Answer a query to the warehouse as DuckDB's own shell does, line by line, or as JSON: the work of `sql`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pyarrow as pa

from thirdshift.flows.dispatch.dead_runs import enter_interrupted
from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import json_text, printable, shown
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask, boxed

SHOWN_ROWS = 40
"""A box has no more rows than that, the first and the last, as in DuckDB's shell; the other modes give all."""


class Layout(StrEnum):
    """How an answer is printed."""

    BOX = "box"
    LINE = "line"
    JSON = "json"


def show_sql(query: str, warehouse: Path, *, layout: Layout = Layout.BOX) -> int:
    """Print the answer to a query; return 0. Raises UserError where the query or the file is wrong."""
    enter_interrupted(warehouse)
    try:
        answer = ask(warehouse, query)
    except WarehouseError as error:
        raise UserError(str(error)) from error
    if layout is Layout.JSON:
        rows = answer.to_pylist(maps_as_pydicts="lossy")  # DuckDB's maps have no key twice
        print(json_text({"columns": answer.column_names, "rows": rows}))
    elif layout is Layout.LINE:
        print("\n".join(lines(answer)))
    else:
        width = shutil.get_terminal_size().columns
        text = "\n".join(printable(line) for line in boxed(answer, width, SHOWN_ROWS).splitlines())
        print(text)
        if "…" in text and sys.stderr.isatty():
            print("cut to fit; -x or .mode line gives each row whole, --json all", file=sys.stderr)
    return 0


def lines(answer: pa.Table) -> Iterator[str]:
    """A line `name = value` for each cell, an empty line between rows."""
    names = [printable(name) for name in answer.column_names]
    room = max((len(name) for name in names), default=0)
    for place, row in enumerate(zip(*(column.to_pylist() for column in answer.columns), strict=True)):
        if place:
            yield ""
        for name, value in zip(names, row, strict=True):
            yield f"{name:>{room}} = {'NULL' if value is None else shown(value)}"
