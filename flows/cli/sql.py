"""The `sql` command: a question to the warehouse, answered as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thirdshift.flows.errors import UserError
from thirdshift.flows.formats import jsonable, shown
from thirdshift.warehouse.errors import WarehouseError
from thirdshift.warehouse.store.ask import ask

SHOWN_ROWS = 200
"""A terminal gets no more rows than a person scrolls through; --json gives all."""


def show_sql(query: str, warehouse: Path, *, as_json: bool) -> int:
    """Print the answer; 0. Raises UserError where the query or the file is wrong."""
    try:
        answer = ask(warehouse, query)
    except WarehouseError as error:
        raise UserError(str(error)) from error
    if as_json:
        print(json.dumps({"columns": answer.column_names, "rows": answer.to_pylist()}, default=jsonable))
    else:
        Console(highlight=False).print(as_table(answer))
    return 0


def as_table(answer: pa.Table) -> Table:
    """An Arrow table as a rich one; numbers to the right, control characters made visible."""
    table = Table(
        caption=("1 row" if answer.num_rows == 1 else f"{answer.num_rows:,} rows")
        + (f", {SHOWN_ROWS} shown" if answer.num_rows > SHOWN_ROWS else "")
    )
    for field in answer.schema:
        numeric = (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_decimal(field.type)
        )
        table.add_column(Text(field.name), justify="right" if numeric else "left", overflow="fold")
    for row in answer.slice(0, SHOWN_ROWS).to_pylist():
        table.add_row(*(Text(shown(value)) for value in row.values()))
    return table
